"""Training steps per second against PyTorch's on the same network, the two in turn.

    python benchmarks/step.py [--torch PYTHON] [--threads T] [--batch B] [--rounds R] [NETWORK ...]

`--torch` names a Python that has PyTorch (2.13 for the figures in the README; default: this one). Each round runs both
sides for two seconds in processes of their own; what counts is the median over the rounds and the ratio of the medians.
PyTorch runs eagerly, in the better of its two memory formats.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np

SECONDS = 2.0
BATCHES = 16  # one batch learnt by heart makes denormal gradients, which are slow


def ours(network: str, batch: int, threads: int) -> float:
    """Return images/s of `bptcnn.Model.train_step`."""
    import bptcnn as bpt

    net = bpt.networks.ZOO[network]()
    random = np.random.default_rng(0)
    x = random.random((BATCHES, batch, *net.input_shape), np.float32)
    labels = random.integers(0, net.classes, (BATCHES, batch)).astype(np.int32)
    with bpt.Model(net, batch_size=batch, threads=threads) as model:
        return measure(lambda turn: model.train_step(x[turn], labels[turn], lr=1e-3, momentum=0.9), batch)


def theirs(network: str, batch: int, threads: int) -> float:
    """Return images/s of the same step in PyTorch, the better of its two memory formats."""
    import torch
    from torch import nn

    def cnn2() -> nn.Module:
        convolutions = [nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        convolutions += [nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
        return nn.Sequential(*convolutions, nn.Linear(3136, 128), nn.ReLU(), nn.Linear(128, 10))

    def lenet5() -> nn.Module:
        convolutions = [nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)]
        convolutions += [nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
        dense = [nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)]
        return nn.Sequential(*convolutions, *dense)

    def speed(memory_format: torch.memory_format) -> float:
        torch.manual_seed(0)
        model = {"cnn2": cnn2, "lenet5": lenet5}[network]().to(memory_format=memory_format)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, foreach=True)
        x = [torch.rand(batch, 1, 28, 28).contiguous(memory_format=memory_format) for _ in range(BATCHES)]
        labels = [torch.randint(0, 10, (batch,)) for _ in range(BATCHES)]

        def step(turn: int) -> None:
            optimizer.zero_grad(set_to_none=True)
            nn.functional.cross_entropy(model(x[turn]), labels[turn]).backward()
            optimizer.step()

        return measure(step, batch)

    torch.set_num_threads(threads)
    return max(speed(torch.channels_last), speed(torch.contiguous_format))


def measure(step: Callable[[int], object], batch: int) -> float:
    """Return images/s from the median time of a step."""
    for turn in range(5):
        step(turn)
    times, end = [], time.perf_counter() + SECONDS
    while time.perf_counter() < end or len(times) < 5:
        start = time.perf_counter()
        step(len(times) % BATCHES)
        times.append(time.perf_counter() - start)
    return batch / float(np.median(times))


def side(python: str, name: str, network: str, options: argparse.Namespace) -> float:
    """Run one side in a process of its own."""
    command = [python, __file__, "--side", name, "--batch", str(options.batch), "--threads", str(options.threads)]
    return float(json.loads(subprocess.run([*command, network], check=True, capture_output=True).stdout))


def main() -> None:
    """Print the table, or one side's figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=["cnn2", "lenet5"])
    parser.add_argument("--torch", default=sys.executable)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--side", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        print((ours if options.side == "ours" else theirs)(options.networks[0], options.batch, options.threads))
        return
    print(f"batch {options.batch}, {options.threads} threads, images/s, medians of {options.rounds} rounds")
    for network in options.networks:
        rounds = [
            (side(sys.executable, "ours", network, options), side(options.torch, "theirs", network, options))
            for _ in range(options.rounds)
        ]
        bptcnn, torch = np.median(rounds, axis=0)
        print(f"{network:>10}: bptcnn {bptcnn:8,.0f}   PyTorch {torch:8,.0f}   ratio {bptcnn / torch:.2f}", flush=True)


if __name__ == "__main__":
    main()
