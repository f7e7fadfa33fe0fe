"""One arena per subnetwork: named buffers, collected first, then held in one zeroed allocation."""

from collections.abc import Hashable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from bptcnn.available import require_available
from bptcnn.errors import UserError
from bptcnn.kernels.tile import SLACK

_ALIGNMENT = 64  # bytes: a cache line, and the widest vector
FLOAT = 4  # bytes


@dataclass(frozen=True)
class Span:
    """Bytes [begin, end) of a buffer: what a task reads or writes; or only stripe `stripe` of `stripes` in them.

    Different stripes of as many interleave in whatever way and do not collide.
    """

    buffer: Hashable
    begin: int
    end: int
    stripe: int = 0
    stripes: int = 1

    def striped(self, stripe: int, stripes: int) -> "Span":
        """Return one stripe of this span."""
        return replace(self, stripe=stripe, stripes=stripes)

    def meets(self, other: "Span") -> bool:
        """Tell whether two spans have bytes in common."""
        apart = self.stripes == other.stripes and self.stripe != other.stripe
        return self.buffer == other.buffer and self.begin < other.end and other.begin < self.end and not apart

    def covers(self, other: "Span") -> bool:
        """Tell whether all bytes of `other` are in this span."""
        within = self.stripes == 1 or (self.stripe, self.stripes) == (other.stripe, other.stripes)
        return self.buffer == other.buffer and self.begin <= other.begin and other.end <= self.end and within


@dataclass(frozen=True)
class _Buffer:
    offset: int
    size: int
    stride: int


class Arena:
    """Offsets, sizes and strides are in bytes. Two names may share a buffer (`share`)."""

    def __init__(self) -> None:
        self.size = 0
        self._buffers: dict[Hashable, _Buffer] = {}
        self._owner: dict[Hashable, Hashable] = {}
        self._memory: npt.NDArray[np.uint8] | None = None
        self._base = 0

    def reserve(self, name: Hashable, count: int, stride: int = FLOAT) -> None:
        """Reserve `count` elements, images or parts of `stride` bytes, with slack behind for whole-vector loads."""
        self._buffers[name] = _Buffer(self.size, count * stride, stride)
        self._owner[name] = name
        self.size += -(-(count * stride + SLACK) // _ALIGNMENT) * _ALIGNMENT

    def share(self, name: Hashable, other: Hashable) -> None:
        """Give the buffer of `other` a further name."""
        self._buffers[name] = self._buffers[other]
        self._owner[name] = self._owner[other]

    def allocate(self) -> None:
        """Get the memory, zeroed; raise UserError where the machine lacks it. Addresses hold from here on."""
        what = f"the network needs {self.size / 1e6:,.0f} MB at this batch size"
        require_available(self.size, what, "use a smaller batch")
        try:
            self._memory = np.zeros(self.size + _ALIGNMENT, np.uint8)
        except MemoryError:
            raise UserError(f"too little memory: the network needs {self.size / 1e6:,.0f} MB") from None
        address = self._memory.ctypes.data
        self._base = address + -address % _ALIGNMENT

    def address(self, name: Hashable) -> int:
        """Return the address of a buffer, or 0 where there is none of that name."""
        found = self._buffers.get(name)
        return 0 if found is None else self._base + found.offset

    def span(self, name: Hashable, first: int, last: int) -> Span:
        """Return elements, images or parts [first, last) of a buffer."""
        found = self._buffers[name]
        return Span(self._owner[name], first * found.stride, last * found.stride)

    def whole(self, name: Hashable) -> Span:
        """Return all of a buffer."""
        return Span(self._owner[name], 0, self._buffers[name].size)

    def view(self, name: Hashable, count: int, dtype: npt.DTypeLike = np.float32) -> npt.NDArray[np.generic]:
        """View the first `count` elements of a buffer; the view keeps the arena alive."""
        if self._memory is None:
            raise RuntimeError("the arena is not allocated yet")
        start = self.address(name) - self._memory.ctypes.data
        return self._memory[start : start + count * np.dtype(dtype).itemsize].view(dtype)
