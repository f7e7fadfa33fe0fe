"""An arena that finds buffers which kernels write past, and reads of what nobody has written.

Buffers lie apart, those too that would lie over one another, with guards before and behind each: random bytes that make
NaN of any kind of number. Before each step all that does not keep what it holds is filled with NaN; after each step
every guard must be as it was. Whole vectors may be loaded from a guard, as from the slack, but nothing may be stored
there, and nothing that counts may come of it.
"""

from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bptcnn.inner.arena import FLOAT, Arena, Turns
from bptcnn.kernels.tile import SLACK

GUARD = 4096
"""Bytes before and behind a buffer, beside its slack."""

UNWRITTEN = 0xFFC3
"""Twice this is a NaN of float32, and this one of bfloat16."""


class BufferOverrunError(Exception):
    """A step wrote outside its buffers; the message names them."""


@dataclass(frozen=True)
class _Guard:
    """Bytes `side` ("before", "behind") a buffer, and what they must be."""

    buffer: Hashable
    side: str
    bytes: npt.NDArray[np.uint8]
    intact: npt.NDArray[np.uint8]

    @property
    def damage(self) -> str | None:
        """What has been written here, in words, if anything."""
        changed = np.flatnonzero(self.bytes != self.intact)
        if not len(changed):
            return None
        nearest = changed[0] if self.side == "behind" else len(self.bytes) - 1 - changed[-1]
        return f"{len(changed)} bytes {self.side} {self.buffer} were written, the nearest {nearest} bytes away from it"


class GuardedArena(Arena):
    """For tests: takes more memory, and time in every step."""

    def __init__(self) -> None:
        super().__init__()
        self._kept: set[Hashable] = set()
        self._guards: list[_Guard] = []

    def reserve(
        self,
        name: Hashable,
        count: int,
        stride: int = FLOAT,
        needed: Turns | None = None,
        behind: int = 0,
        kept: bool = False,
    ) -> None:
        """Reserve a buffer that nothing lies over, with guards."""
        self.size += GUARD
        super().reserve(name, count, stride, None, behind, kept)
        self.size += GUARD
        if kept:
            self._kept.add(name)

    def allocate(self) -> None:
        """Get the memory: kept buffers zeroed, all else NaN. Raises UserError where the machine lacks it."""
        super().allocate()
        assert self._memory is not None
        random = np.random.default_rng(0)
        for name in self._owned:
            begin, end = self._bounds(name)
            for side, first, last in (("before", begin - GUARD, begin), ("behind", end, end + GUARD + SLACK)):
                nans = random.integers(0xFF81, 0x10000, -(-(last - first) // 2), np.uint16).view(np.uint8)
                self._memory[first:last] = nans[-(last - first) :]
                self._guards.append(_Guard(name, side, self._memory[first:last], self._memory[first:last].copy()))
        self.before_step()

    def before_step(self) -> None:
        """Fill with NaN what does not keep what it holds."""
        assert self._memory is not None
        for name in self._owned:
            if name not in self._kept:
                begin, end = self._bounds(name)
                self._memory[begin : end - (end - begin) % 2].view(np.uint16)[:] = UNWRITTEN

    def after_step(self) -> None:
        """Raise BufferOverrunError if a guard is not as it was."""
        damages = [damage for guard in self._guards if (damage := guard.damage)]
        if damages:
            raise BufferOverrunError("; ".join(damages))

    @property
    def _owned(self) -> list[Hashable]:
        return [name for name, owner in self._owner.items() if name == owner]

    def _bounds(self, name: Hashable) -> tuple[int, int]:
        """Return where a buffer begins and ends in the memory."""
        assert self._memory is not None
        begin = self.address(name) - int(self._memory.ctypes.data)
        return begin, begin + self._buffers[name].size
