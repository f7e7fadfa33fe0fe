"""Buffers: one arena per subnetwork, and the layout of activations, whose halo is the next convolution's padding."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bptcnn.available import require_available
from bptcnn.errors import UserError
from bptcnn.inner.operations import Convolution, Operation
from bptcnn.kernels.tile import SLACK
from bptcnn.networks.layers import Shape

_ALIGNMENT = 64  # bytes: a cache line, and the widest vector


class Arena:
    """Collects buffer sizes, then holds them all in one zeroed allocation. Offsets and sizes are in bytes."""

    def __init__(self) -> None:
        self.size = 0
        self._memory: npt.NDArray[np.uint8] | None = None

    def reserve(self, size: int) -> int:
        """Reserve `size` bytes with slack behind for whole-vector loads; return the offset."""
        offset = self.size
        self.size += -(-(size + SLACK) // _ALIGNMENT) * _ALIGNMENT
        return offset

    def allocate(self) -> int:
        """Allocate the arena; return its address. Raise UserError where the machine lacks the memory."""
        what = f"the network needs {self.size / 1e6:,.0f} MB at this batch size"
        require_available(self.size, what, "use a smaller batch")
        try:
            self._memory = np.zeros(self.size + _ALIGNMENT, np.uint8)
        except MemoryError:
            raise UserError(f"too little memory: the network needs {self.size / 1e6:,.0f} MB") from None
        address = self._memory.ctypes.data
        return address + -address % _ALIGNMENT

    def view(self, address: int, count: int, dtype: npt.DTypeLike = np.float32) -> npt.NDArray[np.generic]:
        """View `count` elements at `address` of the allocated arena; the view keeps the arena alive."""
        if self._memory is None:
            raise RuntimeError("the arena is not allocated yet")
        start = address - self._memory.ctypes.data
        return self._memory[start : start + count * np.dtype(dtype).itemsize].view(dtype)


@dataclass(frozen=True)
class ActivationLayout:
    """Layout of one activation: images of (rows, columns, channels) with a halo; all in elements."""

    shape: tuple[int, int, int]
    top: int
    left: int
    rows: int  # halo included
    columns: int

    @property
    def row(self) -> int:
        """Elements from row to row."""
        return self.columns * self.shape[2]

    @property
    def image(self) -> int:
        """Elements from image to image."""
        return self.rows * self.row

    @property
    def inside(self) -> int:
        """Offset of pixel (0, 0)."""
        return self.top * self.row + self.left * self.shape[2]

    @property
    def elements(self) -> int:
        """Elements of one image without halo."""
        return self.shape[0] * self.shape[1] * self.shape[2]


def as_image(shape: Shape) -> tuple[int, int, int]:
    """Return a shape as (rows, columns, channels); a vector is one pixel."""
    return (shape[0], shape[1], shape[2]) if len(shape) == 3 else (1, 1, shape[0])


def activation_for(shape: Shape, consumer: Operation | None) -> ActivationLayout:
    """Return the layout of an activation of `shape` that `consumer` reads."""
    rows, columns, channels = as_image(shape)
    if not isinstance(consumer, Convolution):
        return ActivationLayout((rows, columns, channels), 0, 0, rows, columns)
    (top, _), (left, _) = consumer.pads
    reach_rows = (consumer.conv_shape[0] - 1) * consumer.stride[0] + consumer.kernel[0]
    reach_columns = (consumer.conv_shape[1] - 1) * consumer.stride[1] + consumer.kernel[1]
    return ActivationLayout(
        (rows, columns, channels), top, left, max(reach_rows, top + rows), max(reach_columns, left + columns)
    )


@dataclass(frozen=True)
class GradientHalo:
    """Layout of one image of a convolution's output gradient, as the gradient by input reads it."""

    top: int
    left: int
    rows: int
    columns: int


def gradient_halo(op: Convolution) -> GradientHalo:
    """Return the halo in which every phase of the gradient by input finds zeros around the output gradient."""
    (top, bottom), (left, right) = (
        _reach(op.in_shape[axis], op.kernel[axis], op.stride[axis], op.pads[axis][0], op.conv_shape[axis])
        for axis in (0, 1)
    )
    return GradientHalo(top, left, top + op.conv_shape[0] + bottom, left + op.conv_shape[1] + right)


def _reach(size: int, kernel: int, stride: int, pad: int, outputs: int) -> tuple[int, int]:
    """How far the phases (see kernels.convolution) read before the first and behind the last output."""
    before = after = 0
    for phase in range(min(stride, kernel)):
        taps = -(-(kernel - phase) // stride)
        first = -(-max(0, pad - phase) // stride)
        last = (size - 1 + pad - phase) // stride
        before = max(before, taps - 1 - first)
        after = max(after, last - (outputs - 1))
    return before, after
