"""One arena per subnetwork: named buffers, collected first, then held in one zeroed allocation.

Buffers that are needed for a part of a step only may lie over one another: those whose turns do not meet.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from bptcnn.available import require_available
from bptcnn.errors import UserError
from bptcnn.kernels.tile import SLACK

_ALIGNMENT = 64  # bytes: a cache line, and the widest vector
FLOAT = 4  # bytes


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes [begin, end) of a buffer: what a task reads or writes; or only stripe `stripe` in them, as `divided`.

    Stripes interleave in whatever way. Different ones of one division do not collide, if they are of what has one
    `name`; of stripes of different divisions nothing is known, so they do.
    """

    buffer: Hashable
    begin: int
    end: int
    stripe: int = 0
    divided: Hashable = None  # None: whole
    name: Hashable = None

    def striped(self, stripe: int, stripes: int, by: Hashable) -> "Span":
        """Return one of `stripes` stripes of this span; `by`: who divides it so, and may do so in no other way."""
        if not 0 <= stripe < stripes:
            raise IndexError(f"{by} has no stripe {stripe} of {stripes}")
        return replace(self, stripe=stripe, divided=(by, stripes)) if stripes > 1 else self

    def meets(self, other: "Span") -> bool:
        """Tell whether two spans have bytes in common."""
        alike = self.divided == other.divided and self.name == other.name
        apart = alike and self.stripe != other.stripe
        return self.buffer == other.buffer and self.begin < other.end and other.begin < self.end and not apart

    def covers(self, other: "Span") -> bool:
        """Tell whether all bytes of `other` are in this span."""
        stripe, its = ((span.name, span.stripe, span.divided) for span in (self, other))
        within = self.divided is None or stripe == its
        return self.buffer == other.buffer and self.begin <= other.begin and other.end <= self.end and within


@dataclass(frozen=True)
class _Buffer:
    offset: int
    size: int
    stride: int


@dataclass(frozen=True)
class Turns:
    """From the first to the last turn at which a buffer is needed; turns are counted through the step."""

    first: int
    last: int

    @property
    def length(self) -> int:
        """How many turns that is."""
        return self.last - self.first + 1

    def meets(self, other: "Turns") -> bool:
        """Tell whether both are needed at some turn."""
        return self.first <= other.last and other.first <= self.last


_OVERLAID: Hashable = "overlaid"  # what spans of buffers that lie over one another have as their buffer


class Arena:
    """Offsets, sizes and strides are in bytes. Two names may share a buffer (`share`)."""

    def __init__(self) -> None:
        self.size = 0
        self._needed: dict[Hashable, Turns] = {}
        self._buffers: dict[Hashable, _Buffer] = {}
        self._owner: dict[Hashable, Hashable] = {}
        self._memory: npt.NDArray[np.uint8] | None = None
        self._base = 0

    def reserve(
        self,
        name: Hashable,
        count: int,
        stride: int = FLOAT,
        needed: Turns | None = None,
        behind: int = 0,
        kept: bool = False,
    ) -> None:
        """Reserve `count` elements, images or parts of `stride` bytes, with slack behind for whole-vector loads.

        What is in a buffer lasts for the turns at which it is `needed`, None: for good. See `overlay`. `behind`: bytes
        more, before that slack. `kept`: steps rely on the zeros that it begins with, or on what was left there before
        them; what is in other buffers at the start of a step means nothing.
        """
        if kept and needed is not None:
            raise ValueError(f"{name} cannot keep what it holds and share its memory")
        size = count * stride + behind
        self._buffers[name] = _Buffer(self.size, size, stride)
        self._owner[name] = name
        if needed is None:
            self.size += _room(size)
        else:
            self._needed[name] = needed

    def reserve_once(self, name: Hashable, count: int, stride: int, kept: bool = False) -> None:
        """Reserve for good, as `reserve` does, what further reservations of that name and size share."""
        if name not in self._buffers:
            self.reserve(name, count, stride, kept=kept)
        elif self._buffers[name].size != count * stride:
            raise ValueError(f"{name} holds {self._buffers[name].size} bytes, not {count * stride}")

    def overlay(self) -> None:
        """Place the buffers that are needed for some turns, in the better of two orders: each as low as turns let it.

        First come those that are needed longest, or that are of the most bytes for the most turns.
        """
        size, needed = {name: _room(self._buffers[name].size) for name in self._needed}, self._needed
        longest = sorted(needed, key=lambda name: (-needed[name].length, -size[name]))
        most = sorted(needed, key=lambda name: (-needed[name].length * size[name], -size[name]))
        end, offsets = min((_place(order, size, needed) for order in (longest, most)), key=lambda placed: placed[0])
        for name, offset in offsets.items():
            self._buffers[name] = replace(self._buffers[name], offset=self.size + offset)
        self.size += end

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
        owner = self._owner.get(name)
        return 0 if owner is None else self._base + self._buffers[owner].offset

    def span(self, name: Hashable, first: int, last: int) -> Span:
        """Return elements, images or parts [first, last) of a buffer; IndexError where it does not hold them."""
        buffer = self._buffers[name]
        if not 0 <= first <= last or last * buffer.stride > buffer.size:
            raise IndexError(f"{name} of {buffer.size} bytes has no [{first}, {last}) of {buffer.stride} bytes each")
        return self._bytes(name, first * buffer.stride, last * buffer.stride)

    def whole(self, name: Hashable) -> Span:
        """Return all of a buffer."""
        return self._bytes(name, 0, self._buffers[name].size)

    def _bytes(self, name: Hashable, begin: int, end: int) -> Span:
        owner = self._owner[name]
        if owner not in self._needed:
            return Span(owner, begin, end, name=owner)
        offset = self._buffers[owner].offset
        return Span(_OVERLAID, offset + begin, offset + end, name=owner)

    def view(self, name: Hashable, count: int, dtype: npt.DTypeLike = np.float32) -> npt.NDArray[Any]:
        """View the first `count` elements of a buffer, counted in `dtype`; the view keeps the arena alive.

        Raises IndexError where the buffer holds fewer.
        """
        if self._memory is None:
            raise RuntimeError("the arena is not allocated yet")
        size = self._buffers[name].size
        if not 0 <= count * np.dtype(dtype).itemsize <= size:
            raise IndexError(f"{name} of {size} bytes does not hold {count} elements of {np.dtype(dtype)}")
        start = self.address(name) - self._memory.ctypes.data
        return self._memory[start : start + count * np.dtype(dtype).itemsize].view(dtype)

    def before_step(self) -> None:
        """Called before each step; see GuardedArena."""

    def after_step(self) -> None:
        """Called after each step; see GuardedArena."""


def _place(
    order: Sequence[Hashable], size: Mapping[Hashable, int], needed: Mapping[Hashable, Turns]
) -> tuple[int, dict[Hashable, int]]:
    """Give each buffer in turn the lowest place that none needed with it has; return where all end, and the offsets."""
    offsets: dict[Hashable, int] = {}
    for name in order:
        offset = 0
        beside = [other for other in offsets if needed[other].meets(needed[name])]
        for other in sorted(beside, key=lambda other: (offsets[other], size[other])):
            if offsets[other] - offset >= size[name]:
                break
            offset = max(offset, offsets[other] + size[other])
        offsets[name] = offset
    return max((offset + size[name] for name, offset in offsets.items()), default=0), offsets


def _room(size: int) -> int:
    return -(-(size + SLACK) // _ALIGNMENT) * _ALIGNMENT
