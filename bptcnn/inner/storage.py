"""Storage of a step: every buffer that a network needs at one batch size, in one arena.

Which images make a task follows from network and batch size only, never from the number of threads, and so does the
number of partial sums: a run repeats bit for bit on any number.
"""

import numpy as np
import numpy.typing as npt

from bptcnn.inner.buffers import Arena, activation_for, gradient_halo
from bptcnn.inner.operations import Convolution, FullyConnected, Operation, Pooling, operations
from bptcnn.kernels import dense
from bptcnn.kernels.convolution_gradients import folds
from bptcnn.kernels.unit import COLUMNS
from bptcnn.networks import Network

FLOAT = 4  # bytes
_RANGES = 16  # tasks over the images of a batch: enough to balance, long enough to hide scheduling
_PARTIAL_BYTES = 32 << 20  # most memory for one layer's partial sums


class Storage:
    """Addresses of all buffers; `training` adds those of the backward pass. Sizes that kernels share live here too."""

    def __init__(self, network: Network, batch: int, workers: int, training: bool) -> None:
        self.operations = operations(network)
        self.batch = batch
        self.workers = workers
        self.training = training
        self.arena = Arena()
        self.ranges = split(batch, min(batch, _RANGES))
        shapes = [network.input_shape, *(_out_shape(op) for op in self.operations)]
        consumers = [*self.operations, None]
        self.activations = [activation_for(shape, op) for shape, op in zip(shapes, consumers, strict=True)]
        self._offsets: dict[tuple[str, int], int] = {}
        self._base = 0
        self._reserve(network)

    def allocate(self) -> None:
        """Get the memory; raise UserError where there is too little. Addresses hold from here on."""
        self._base = self.arena.allocate()
        self.weights, self.gradient, self.velocity = (
            self.address(name, 0) for name in ("weights", "gradient", "velocity")
        )

    def address(self, name: str, index: int) -> int:
        """Return the address of a buffer of operation or activation `index`, or 0 where there is none."""
        offset = self._offsets.get((name, index))
        return 0 if offset is None else self._base + offset

    def inside(self, index: int) -> int:
        """Return the address of pixel (0, 0) of an activation's first image, behind the halo."""
        return self.address("activation", index) + FLOAT * self.activations[index].inside

    @property
    def logits(self) -> npt.NDArray[np.float32]:
        """The last activation, (batch, classes)."""
        last = len(self.operations)
        flat = self.arena.view(self.address("activation", last), self.batch * self.activations[last].elements)
        return flat.view(np.float32).reshape(self.batch, -1)

    def _put(self, name: str, index: int, size: int) -> None:
        self._offsets[name, index] = self.arena.reserve(size)

    def _reserve(self, network: Network) -> None:
        self._put("weights", 0, FLOAT * network.size)
        if self.training:
            self._put("gradient", 0, FLOAT * network.size)
            self._put("velocity", 0, FLOAT * network.size)
        for index, activation in enumerate(self.activations):
            self._put("activation", index, FLOAT * self.batch * activation.image)
            if self.training and index > 0:
                self._put("activation gradient", index, FLOAT * self.batch * activation.elements)
        for index, op in enumerate(self.operations):
            if isinstance(op, Convolution):
                self._reserve_convolution(index, op)
            elif self.training and isinstance(op, Pooling):
                self._put("choice", index, self.batch * self.activations[index + 1].elements)
            elif self.training and isinstance(op, FullyConnected):
                panels = -(-self.batch // COLUMNS)
                self._put("gradient panels", index, FLOAT * panels * op.outputs * COLUMNS)
                self._put("scratch", index, FLOAT * self.workers * dense.BLOCK * COLUMNS)

    def _reserve_convolution(self, index: int, op: Convolution) -> None:
        _, columns, channels = op.conv_shape
        window = op.kernel[0] * op.kernel[1]
        self._put("forward panels", index, FLOAT * window * op.in_shape[2] * _rounded(channels))
        if op.pool:
            self._put("scratch", index, FLOAT * self.workers * op.pool[0] * columns * channels)
        if not self.training:
            return
        if op.pool:
            self._put("choice", index, self.batch * self.activations[index + 1].elements)
        if index > 0:
            taps = op.kernel[0] if self.folded(op) else window
            self._put("backward panels", index, FLOAT * taps * channels * COLUMNS * self.backward_panels(op))
        if index > 0 and self.folded(op):
            self._put("folding", index, FLOAT * self.workers * folding_size(op))
        halo = gradient_halo(op)
        self._put("gradient scratch", index, FLOAT * self.workers * halo.rows * halo.columns * channels)
        self._put("partials", index, FLOAT * len(self.parts(op)) * part_size(op))

    @staticmethod
    def folded(op: Convolution) -> bool:
        """Tell whether the gradient by input goes by window rows."""
        return folds(op.in_shape[2], op.kernel[1])

    def backward_panels(self, op: Convolution) -> int:
        """Return the number of panels of packed filters for the gradient by input."""
        columns = op.in_shape[2] * (op.kernel[1] if self.folded(op) else 1)
        return -(-columns // COLUMNS)

    def parts(self, op: Convolution) -> list[tuple[int, int]]:
        """Return the image ranges of a convolution's backward tasks: fewer where partial sums take much memory."""
        most = max(1, _PARTIAL_BYTES // (FLOAT * part_size(op)))
        return self.ranges if len(self.ranges) <= most else split(self.batch, most)


def split(total: int, parts: int) -> list[tuple[int, int]]:
    """Divide [0, total) into at most `parts` nearly equal ranges."""
    parts = max(1, min(parts, total))
    return [(total * i // parts, total * (i + 1) // parts) for i in range(parts)]


def part_size(op: Convolution) -> int:
    """Return the elements of one partial sum: filter and bias gradient."""
    return op.filter.size + op.conv_shape[2]


def folding_size(op: Convolution) -> int:
    """Return the elements of a worker's scratch for folding: an image of window rows, and a row of the input."""
    rows, _, channels = op.in_shape
    outputs, window = op.conv_shape[1], op.kernel[1] * channels
    reach = max((outputs - 1) * op.stride[1] * channels + window, (op.pads[1][0] + op.in_shape[1]) * channels)
    return rows * outputs * window + reach


def _rounded(channels: int) -> int:
    return -(-channels // COLUMNS) * COLUMNS


def _out_shape(op: Operation) -> tuple[int, ...]:
    return (op.outputs,) if isinstance(op, FullyConnected) else op.out_shape
