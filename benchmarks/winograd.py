"""3x3 convolutions as a step runs them, in multiples of the multiply-add peak, by the operations of direct ones.

    python benchmarks/winograd.py [--threads T] [--batch N] [--seconds S] [--algorithms NAME,NAME...] [SHAPE ...]

NAME is an algorithm of `bptcnn.inner.tuning`, or "rule"; several take turns. SHAPE is channels,filters,side; without
any, 64 to 512 channels on images of the VGG and ResNet families and odd ones.
Counts everything that a step does for the layer: transforms of the filters, bias, rectifier, which the backward pass
undoes, and the sum over parts of the filters' gradient. A pass takes the time in which any of its tasks runs, on all
threads. The gradients by input and by filter are told apart by a second network, in which nobody wants that by input.
`whole` is all three passes together; `limit` is what the peak would allow if nothing but the products took time.
Medians over rounds, the peak before and after.
"""

import argparse
import time

import numpy as np

from bptcnn.inner.convolution import Convolution
from bptcnn.inner.executor import Executor
from bptcnn.inner.lowering import lower
from bptcnn.inner.subnetwork import Subnetwork
from bptcnn.inner.tuning import BY_RULE, Choice, Tuning
from bptcnn.inner.winograd import WinogradConvolution
from bptcnn.networks import Conv2D, Dense, Flatten, MaxPool2D, Network
from bptcnn.profiling.peak import measure_peak

SHAPES = [  # (channels, filters, side)
    *((64, 64, side) for side in (14, 28, 56)),
    *((128, 128, side) for side in (14, 28, 56)),
    *((256, 256, side) for side in (14, 28)),
    *((512, 512, side) for side in (14, 28)),
    *((64, 128, 16), (128, 256, 14), (256, 128, 14), (128, 256, 8), (256, 256, 8), (512, 512, 7), (512, 512, 4)),
    *((64, 64, 15), (128, 128, 15), (256, 256, 29)),
]
LEAST_ROUNDS, MOST_ROUNDS = 3, 60
FORWARD = ("forward", "pack forward")


class Layer:
    """One convolution in a network, behind a layer that wants its input gradient, or behind none."""

    def __init__(
        self, executor: Executor, batch: int, shape: tuple[int, int, int], wanted: bool, algorithm: str
    ) -> None:
        channels, filters, side = shape
        before = [MaxPool2D(1)] if wanted else []
        layers = [*before, Conv2D(filters, 3, activation="relu"), MaxPool2D(1, side), Flatten(), Dense(2)]
        network = Network((side, side, channels), layers)
        tuning = _tuning(network, algorithm, batch)
        lowered = lower(network, training=True, tuning=tuning, batch=batch)
        self.operation = next(o for o in lowered.operations if isinstance(o, Convolution))
        self.work = 2 * batch * self.operation.multiply_adds
        self._subnetwork = Subnetwork(network, batch, executor, tuning=tuning)
        self._subnetwork.weights[:] = network.initial_weights(0)
        self._samples = np.random.default_rng(0).random((batch, side, side, channels), np.float32)
        self._labels = np.zeros(batch, np.int32)

    @property
    def limit(self) -> float:
        """Operations of direct convolution per operation of the products."""
        op = self.operation
        if not isinstance(op, WinogradConvolution):
            return 1.0
        rows, columns, _ = op.conv_shape
        tiles = -(-rows // op.tile) * -(-columns // op.tile)
        return 9 * rows * columns / (tiles * (op.tile + 2) ** 2)

    def seconds(self) -> tuple[float, float]:
        """Return the time of the forward and of the backward tasks in a step."""
        trace, name = self._subnetwork.traced(self._samples, self._labels), self.operation.name
        ahead, behind = [], []
        for task, start, end in zip(self._subnetwork.trace_graph.tasks, trace.starts, trace.ends, strict=True):
            if task.label.startswith(f"{name} "):
                (ahead if task.label.removeprefix(f"{name} ") in FORWARD else behind).append((start, end))
        return _covered(ahead), _covered(behind)


def _tuning(network: Network, algorithm: str, batch: int) -> Tuning:
    """Return what has the convolution computed by an algorithm."""
    if algorithm == "rule":
        return BY_RULE
    (decision,) = lower(network, training=True, batch=batch).decisions
    found = [one for one in decision.algorithms if one == algorithm]
    if not found:
        raise SystemExit(f"{decision.choice.shape}: one of {', '.join(decision.algorithms)}, not {algorithm}")
    return Tuning(choices=(Choice(decision.choice.shape, found[0]),))


def _covered(spans: list[tuple[int, int]]) -> float:
    """Return the seconds that a set of spans, in nanoseconds, covers."""
    total, reached = 0, 0
    for start, end in sorted(spans):
        total += max(0, end - max(start, reached))
        reached = max(reached, end)
    return total / 1e9


def _alternated(sides: dict[str, list[Layer]], seconds: float) -> dict[str, list[float]]:
    """Return each side's seconds, medians over rounds: forward, backward, and backward by filter only."""
    rounds: list[list[tuple[float, ...]]] = []
    end = time.monotonic() + seconds
    while len(rounds) < LEAST_ROUNDS or (len(rounds) < MOST_ROUNDS and time.monotonic() < end):
        timed = [[layer.seconds() for layer in layers] for layers in sides.values()]
        rounds.append([(ahead, behind, by_filter) for (ahead, behind), (_, by_filter) in timed])
    return dict(zip(sides, np.median(rounds, axis=0).tolist(), strict=True))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each shape's rounds")
    parser.add_argument("--algorithms", default="rule", help="names with , between")
    parser.add_argument("shapes", nargs="*", help="channels,filters,side")
    options = parser.parse_args()
    shapes = [tuple(map(int, text.split(","))) for text in options.shapes] or SHAPES
    algorithms = options.algorithms.split(",")
    executor = Executor(options.threads)
    print(f"batch {options.batch}, {options.threads} threads")
    names = ("peak", "limit", "forward", "by input", "by filter", "whole")
    print(f"{'channels filters side':>22}{'algorithm':>14}" + "".join(f"{name:>10}" for name in names))
    for shape in shapes:
        sides = {
            name: [Layer(executor, options.batch, shape, wanted, name) for wanted in (True, False)]
            for name in algorithms
        }
        before = measure_peak(options.threads)
        medians = _alternated(sides, options.seconds * len(sides))
        peak = (before + measure_peak(options.threads)) / 2
        for name, (layer, _) in sides.items():
            ahead, behind, by_filter = medians[name]
            seconds = ahead, behind - by_filter, by_filter, (ahead + behind) / 3
            cells = "".join(f"{layer.work / 1e9 / s / peak:10.2f}" for s in seconds)
            print(f"{' '.join(map(str, shape)):>22}{name:>14}{peak:10.0f}{layer.limit:10.2f}{cells}", flush=True)
    executor.close()


if __name__ == "__main__":
    main()
