"""One core's convolution kernels against its multiply-add peak, in turn. Usage: python benchmarks/convolution.py

Prints, per shape, GFLOP/s and share of the peak: forward, gradient by input and gradient by weight as the kernels alone
reach them on images in the cache, then the backward tasks of a whole training step, which also fetch the gradient from
memory, undo the rectifier and sum up the bias gradient. Medians over alternating rounds; --best takes the best round,
for a busy machine.
"""

import sys
import time

import numpy as np

from bptcnn.inner.convolution import Convolution
from bptcnn.inner.executor import Executor
from bptcnn.inner.lowering import operations
from bptcnn.inner.subnetwork import Subnetwork
from bptcnn.kernels import convolution, convolution_gradients
from bptcnn.kernels.compilation import compiled
from bptcnn.networks import Conv2D, Dense, Flatten, MaxPool2D, Network
from bptcnn.profiling.peak import measure_peak

SHAPES = [  # (batch, channels, size, filters)
    (64, 1, 28, 32), (64, 3, 32, 32), (64, 3, 32, 64), (64, 32, 14, 64), (64, 32, 28, 32), (64, 32, 32, 32),
    (64, 64, 32, 64), (64, 64, 14, 64), (64, 128, 16, 128), (32, 128, 28, 128), (32, 256, 14, 256), (32, 256, 16, 256),
]  # fmt: skip
ROUNDS = 15


@compiled("void(int64, int64)")
def _forward(operation, count):
    o = convolution.convolution_at(operation)
    for _ in range(count):
        convolution.convolve_rows(operation, 0, o.output, o.output_row, o.out_channels, 0, o.out_rows)


@compiled("void(int64, int64)")
def _by_input(operation, count):
    o = convolution.convolution_at(operation)
    for _ in range(count):
        convolution_gradients.gradient_by_input(operation, 0, o.gradient_scratch, 0)


@compiled("void(int64, int64)")
def _by_weight(operation, count):
    o = convolution.convolution_at(operation)
    inside = o.gradient_scratch + 4 * (o.halo_top * o.gradient_row + o.halo_left * o.out_channels)
    for _ in range(count):
        convolution_gradients.gradient_by_weight(operation, 0, inside, o.partials)


class Layer:
    """One convolution in a network, behind a layer that wants its input gradient."""

    def __init__(self, executor: Executor, shape: tuple[int, int, int, int]) -> None:
        batch, channels, size, filters = shape
        layers = [MaxPool2D(1), Conv2D(filters, 3, activation="relu"), MaxPool2D(1, size), Flatten(), Dense(2)]
        network = Network((size, size, channels), layers)
        self.subnetwork = Subnetwork(network, batch, executor, direct=True)
        self.subnetwork.weights[:] = network.initial_weights(0)
        self.batch = batch
        self.image_work = 2 * next(o.multiply_adds for o in operations(network) if isinstance(o, Convolution))
        self.operation = next(t.operation for t in self.subnetwork.graph.tasks if t.label == "conv1 backward")
        self.samples = np.random.default_rng(0).random((batch, size, size, channels), np.float32)
        self.labels = np.zeros(batch, np.int32)

    def kernels(self) -> list[float]:
        """Return GFLOP/s of forward, gradient by input, gradient by weight."""
        count = max(1, round(2e8 / self.image_work))
        speeds = []
        for kernel in (_forward, _by_input, _by_weight):
            kernel(self.operation, 1)
            start = time.perf_counter()
            kernel(self.operation, count)
            speeds.append(count * self.image_work / (time.perf_counter() - start) / 1e9)
        return speeds

    def backward(self) -> float:
        """Return GFLOP/s of the backward tasks in a training step."""
        trace = self.subnetwork.traced(self.samples, self.labels)
        labels = [task.label == "conv1 backward" for task in self.subnetwork.trace_graph.tasks]
        return 2 * self.batch * self.image_work / float((trace.ends - trace.starts)[labels].sum())


def main() -> None:
    """Print the table."""
    best = "--best" in sys.argv
    executor = Executor(1)
    columns = " ".join(f"{name:>13}" for name in ("forward", "by input", "by weight", "step"))
    print(f"{'batch channels size filters':>28} {'peak':>6} {columns}")
    for shape in SHAPES:
        layer = Layer(executor, shape)
        rounds = [[measure_peak(1), *layer.kernels(), layer.backward()] for _ in range(4 * ROUNDS if best else ROUNDS)]
        top, *speeds = np.max(rounds, axis=0) if best else np.median(rounds, axis=0)
        cells = " ".join(f"{speed:6.0f} ({speed / top:4.0%})" for speed in speeds)
        print(f"{shape!s:>28} {top:6.0f} {cells}", flush=True)
    executor.close()


if __name__ == "__main__":
    main()
