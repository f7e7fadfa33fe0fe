"""The same training steps in PyTorch: a script for any Python that has it, without a line of bptcnn.

A request comes as JSON on standard input, the answer goes as one line of JSON to standard output: what was measured, or
{"failed": why}. The network is a list of applications, as `flattening` writes it. A step is what users of PyTorch
write: cross-entropy, backward, SGD with momentum over all tensors at once (foreach), in float32 or, for bf16, with
forward pass and loss under autocast.
"""

import ctypes
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

BATCHES = 16  # one batch learnt by heart makes denormal gradients, which are slow
WARM_STEPS = 3
LEAST_STEPS = 5
MEMORY_STEPS = 6  # of two batches
LEAKY_SLOPE = 0.01
PR_SET_PDEATHSIG = 1  # of Linux


class TorchNetwork:
    """A flattened network made of torch.nn modules; `modules` holds them in forward order."""

    def __init__(self, network: dict[str, Any]) -> None:
        from torch import nn

        self._applications = network["applications"]
        self._layers = []
        self.modules = nn.ModuleList()
        for application in self._applications:
            self._layers.append(_layer(application, self.modules))
        last_use = {value: index for index, a in enumerate(self._applications) for value in a["inputs"]}
        self._done = [[v for v in set(a["inputs"]) if last_use[v] == i] for i, a in enumerate(self._applications)]

    def forward(self, x: Any) -> Any:
        """Return logits (images, classes) for images (images, channels, height, width)."""
        values = [x]
        for layer, application, done in zip(self._layers, self._applications, self._done):  # noqa: B905 (Python 3.9)
            values.append(layer(*[values[value] for value in application["inputs"]]))
            for value in done:  # what autograd does not keep is free
                values[value] = None
        return values[-1]


def _layer(a: dict[str, Any], modules: Any) -> Callable[..., Any]:
    """Return what an application does to its inputs; its modules are appended to `modules`."""
    from torch import nn

    def own(module: Any) -> Any:
        modules.append(module)
        return module

    kind = a["kind"]
    if kind == "conv":
        return _sequence([*_convolution(a, own), *_activation(a, own)])
    if kind == "dense":
        return _sequence([own(nn.Linear(a["shape"][0], a["output"][0], bias=a["bias"])), *_activation(a, own)])
    if kind == "norm":
        norm = nn.BatchNorm2d if len(a["shape"]) == 3 else nn.BatchNorm1d
        made = own(norm(a["shape"][-1], eps=a["epsilon"], momentum=1 - a["momentum"]))
        return _sequence([made, *_activation(a, own)])
    if kind == "activation":  # not in place: others may read what goes in
        return _sequence(_activation(a, own, inplace=False))
    if kind == "pool":
        return _largest(a)
    if kind == "average":
        return _mean(a)
    if kind == "mean":
        return lambda x: x.mean((2, 3))
    if kind == "dropout":
        made = own(nn.Dropout(a["rate"]))
        return _sequence([made])
    if kind == "flatten":
        return lambda x: x.flatten(1)
    if kind == "sum":
        after = _sequence(_activation(a, own))
        return lambda x, y: after(x + y)
    if kind == "join":
        import torch

        return lambda *branches: torch.cat(branches, 1)
    raise ValueError(f"unknown kind of layer {kind}")


def _sequence(steps: list[Callable[[Any], Any]]) -> Callable[[Any], Any]:
    def run(x: Any) -> Any:
        for step in steps:
            x = step(x)
        return x

    return run


def _activation(a: dict[str, Any], own: Callable[[Any], Any], inplace: bool = True) -> list[Callable[[Any], Any]]:
    from torch import nn

    name = a["activation"]
    if name is None:
        return []
    if name == "relu":
        return [own(nn.ReLU(inplace))]
    if name == "leaky_relu":
        return [own(nn.LeakyReLU(LEAKY_SLOPE, inplace))]
    if name == "gelu":
        return [own(nn.GELU())]
    raise ValueError(f"unknown activation {name}")


def _convolution(a: dict[str, Any], own: Callable[[Any], Any]) -> list[Callable[[Any], Any]]:
    from torch import nn

    even = _even(a["pads"])
    made = nn.Conv2d(
        a["shape"][2],
        a["output"][2],
        a["kernel"],
        stride=a["stride"],
        padding=even or 0,
        dilation=a["dilation"],
        groups=a["groups"],
        bias=a["bias"],
    )
    return [own(made)] if even else [_padding(a, 0.0), own(made)]


def _largest(a: dict[str, Any]) -> Callable[[Any], Any]:
    from torch.nn import functional as f

    window, stride, even = a["window"], a["stride"], _even(a["pads"])
    if even and all(2 * pad <= size for pad, size in zip(even, window)):  # noqa: B905 (Python 3.9)
        return lambda x: f.max_pool2d(x, window, stride, even)
    pad = _padding(a, float("-inf"))
    return lambda x: f.max_pool2d(pad(x), window, stride)


def _mean(a: dict[str, Any]) -> Callable[[Any], Any]:
    import torch
    from torch.nn import functional as f

    window, stride, even = a["window"], a["stride"], _even(a["pads"])
    if even and all(2 * pad <= size for pad, size in zip(even, window)):  # noqa: B905 (Python 3.9)
        return lambda x: f.avg_pool2d(x, window, stride, even, count_include_pad=False)
    pad = _padding(a, 0.0)

    def total(x: Any) -> Any:
        return f.avg_pool2d(pad(x), window, stride, divisor_override=1)

    counts = total(torch.ones(1, 1, *a["shape"][:2]))  # padded elements are not counted
    return lambda x: total(x) / counts


def _even(pads: list[list[int]]) -> tuple[int, ...]:
    """Return (rows, columns) where both sides have the same padding, which torch pads itself, else ()."""
    (top, bottom), (left, right) = pads
    return (top, left) if top == bottom and left == right else ()


def _padding(a: dict[str, Any], value: float) -> Callable[[Any], Any]:
    from torch.nn import functional as f

    (top, bottom), (left, right) = a["pads"]
    return lambda x: f.pad(x, (left, right, top, bottom), value=value)


class Steps:
    """Training steps of a request's network, in its memory format, compiled if it says so."""

    def __init__(self, request: dict[str, Any], batches: int) -> None:
        import torch

        torch.set_num_threads(request["threads"])
        torch.manual_seed(0)
        lower = request["precision"] == "bf16"
        self._autocast: Callable[[], Any] = lambda: torch.autocast("cpu", torch.bfloat16, enabled=lower)
        layout = torch.channels_last if request["channels_last"] else torch.contiguous_format
        network = TorchNetwork(request["network"])
        network.modules.to(memory_format=layout)

        def loss(images: Any, labels: Any) -> Any:
            return torch.nn.functional.cross_entropy(network.forward(images), labels)

        self._loss = torch.compile(loss) if request["compile"] else loss
        self._optimizer = torch.optim.SGD(network.modules.parameters(), lr=1e-3, momentum=0.9, foreach=True)
        count, (height, width, channels) = request["batch_size"], request["network"]["input_shape"]
        images = [torch.rand(count, channels, height, width) for _ in range(batches)]
        self._images = [batch.contiguous(memory_format=layout) for batch in images]
        self._labels = [torch.randint(0, request["network"]["classes"], (count,)) for _ in range(batches)]

    def step(self, turn: int) -> None:
        """Train one batch: forward, backward and update."""
        batch = turn % len(self._images)
        self._optimizer.zero_grad(set_to_none=True)
        with self._autocast():
            loss = self._loss(self._images[batch], self._labels[batch])
        loss.backward()
        self._optimizer.step()

    def median_seconds(self, seconds: float) -> float:
        """Return the median time of a step, over `seconds` after a few to warm up, compilation included."""
        taken: list[float] = []
        end = float("inf")
        while len(taken) < WARM_STEPS + LEAST_STEPS or time.perf_counter() < end:
            start = time.perf_counter()
            self.step(len(taken))
            taken.append(time.perf_counter() - start)
            if len(taken) == WARM_STEPS:
                end = time.perf_counter() + seconds
        return median(taken[WARM_STEPS:])


def resident_mb(name: str) -> float:
    """Return this process's VmRSS (now) or VmHWM (the most so far), 10^6 bytes."""
    with open("/proc/self/status", encoding="utf-8", errors="replace") as status:
        for line in status:
            if line.startswith(name + ":"):
                return int(line.split()[1]) * 1024 / 1e6
    raise OSError("no " + name + " in /proc/self/status")


def end_with(parent: int) -> None:
    """Let this process be killed when its parent, the one that asks, is; end it if that has happened."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))
    if os.getppid() != parent:
        os._exit(1)


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Measure what a request asks for."""
    import torch

    if request["measure"] == "version":
        return {"version": str(torch.__version__)}
    if request["measure"] == "memory":
        libraries = resident_mb("VmRSS")
        steps = Steps(request, 2)
        for turn in range(MEMORY_STEPS):
            steps.step(turn)
        return {"peak_mb": resident_mb("VmHWM"), "libraries_mb": libraries}
    return {"images_per_second": request["batch_size"] / Steps(request, BATCHES).median_seconds(request["seconds"])}


def main() -> None:
    """Answer one request; what libraries print goes to standard error."""
    out, sys.stdout = sys.stdout, sys.stderr
    try:
        request = json.load(sys.stdin)
        end_with(request["parent"])
        found = answer(request)
    except Exception as error:  # an import that fails, a compiler that is missing: whoever asked decides
        lines = str(error).strip().splitlines() or [""]
        found = {"failed": f"{type(error).__name__}: {lines[0]}"}
    print(json.dumps(found), file=out, flush=True)


if __name__ == "__main__":
    main()
