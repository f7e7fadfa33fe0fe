"""The weight set that nodes share: merged into and copied without locks, and whole after any kill.

    node (Writer)                                     coordinator (WeightBuffer)
    refresh(out)   version k and a copy               submission(w), table(), updates()
    delta[:] = ... staged in shared memory            SGWU: merge_for(w, scale) while w waits
    publish(q)     its quality; what all published    after w was killed and reaped: finish(w)
    commit(...)    one store: it will be merged       end of epoch, nobody merging: snapshot, store
    submit(...)    AGWU: commits, merges, refreshes

A submission exists from its commit on: if its writer dies, `finish` merges what is missing. Before the commit it never
happened. Either way exactly once, and `updates` counts it once. Guarantees and memory order: see `merging`.

At most one process merges for a writer at any time: the writer itself, or the coordinator while the writer waits or
is dead. Everything else may run anywhere at any time.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt

from bptcnn.memory import layout, merging
from bptcnn.memory.layout import Layout
from bptcnn.memory.shared import SharedMemory


@dataclass(frozen=True)
class Submission:
    """A writer's last committed submission; sequence 0 means that it never made one."""

    sequence: int
    merged: bool
    scale: float
    samples: int  # of all this writer's submissions, this one included
    user: tuple[int, ...]  # the USER_WORDS words that were given to `commit`


class Table(NamedTuple):
    """What every process may know of all writers; one entry per writer."""

    base_versions: list[int]  # the updates counted when the writer last refreshed
    qualities: list[float]
    live: list[bool]
    sequences: list[int]  # submissions committed
    merged: list[int]  # submissions merged: `sequences`, or one less

    @classmethod
    def of(cls, rows: merging.Words) -> Self:
        """Make sense of what `merging` has read."""
        bases, _, live, merged, committed = rows.tolist()
        return cls(bases, rows.view(np.float64)[1].tolist(), [flag != 0 for flag in live], committed, merged)


class WeightBuffer:
    """A flat float32 weight set in shared memory with a fixed number of writers, some of which may come later."""

    def __init__(self, memory: SharedMemory, shape: Layout) -> None:
        """Use `create` or `attach`."""
        self.layout = shape
        self._memory = memory
        self._words: merging.Words | None = memory.view(np.int64, (memory.size // 8,))

    @classmethod
    def create(cls, parameters: int, writers: int, spare: int = 0) -> Self:
        """Allocate a buffer of `parameters` weights, all zero; UserError if memory is too small.

        Beyond `writers` writers there is place for `spare` ones, whose memory `admit` allocates.
        """
        shape = Layout(parameters, writers + spare)
        buffer = cls(SharedMemory.create(shape.size, "weights", shape.size_with(writers)), shape)
        words = buffer.words
        words[: len(shape.header())] = shape.header()
        words[layout.HEADER_WORDS : layout.HEADER_WORDS + shape.segments] = np.arange(shape.segments)
        for writer in range(shape.writers):
            slot = shape.segments + writer
            intent = (layout.NO_SEGMENT << layout.SLOT_BITS | slot) << layout.SLOT_BITS
            merging.store(words, writer, layout.INTENT, intent)
        return buffer

    @classmethod
    def attach(cls, fd: int, parameters: int, writers: int) -> Self:
        """Map a buffer by its descriptor and take that over; ValueError, and it is closed, if the shape differs."""
        shape = Layout(parameters, writers)
        buffer = cls(SharedMemory.attach(fd, shape.size), shape)
        if list(buffer.words[: len(shape.header())]) != shape.header():
            buffer.close()
            raise ValueError(f"descriptor {fd} is no weight buffer of {parameters} weights and {writers} writers")
        return buffer

    @property
    def fd(self) -> int:
        """Descriptor to hand to child processes by `pass_fds`."""
        return self._memory.fd

    @property
    def size(self) -> int:
        """Bytes of shared memory."""
        return self.layout.size

    @property
    def words(self) -> merging.Words:
        """The whole memory; whoever holds it keeps the mapping alive. ValueError after `close`."""
        if self._words is None:
            raise ValueError("the weight buffer is closed")
        return self._words

    def admit(self, writer: int) -> None:
        """Allocate what a spare writer needs before it comes; UserError if memory is too small. Safe to call again."""
        begin = self.layout.size_with(self._checked(writer))
        self._memory.back(begin, begin + self.layout.staging_bytes, "a further node's weights")

    def writer(self, index: int) -> "Writer":
        """Become writer `index`; a dead writer's index can be taken over after `finish`."""
        return Writer(self, self._checked(index))

    def delta(self, writer: int) -> npt.NDArray[np.float32]:
        """Return the writer's staging area: float32 [parameters]."""
        offset = self.layout.staging + self._checked(writer) * self.layout.staging_bytes
        return self._memory.view(np.float32, (self.layout.parameters,), offset)

    def snapshot(self, out: npt.NDArray[np.float32]) -> None:
        """Copy the weight set into `out`, float32 [parameters]: segments are never torn, nobody is held up."""
        merging.snapshot(self.words, _checked_weights(out, self.layout.parameters), merging.NOWHERE)

    def store(self, weights: npt.NDArray[np.float32]) -> None:
        """Overwrite the weight set, float32 [parameters], while no writer commits or merges.

        Raises RuntimeError if a submission is still unmerged.
        """
        if any(self.pending(writer) for writer in range(self.layout.writers)):
            raise RuntimeError("the weight set cannot be overwritten: a committed submission is not merged yet")
        merging.replace(self.words, _checked_weights(weights, self.layout.parameters))

    def updates(self) -> int:
        """Return the version of the weight set: the number of submissions merged so far."""
        return merging.merged_updates(self.words)

    def submission(self, writer: int) -> Submission:
        """Return the writer's last committed submission."""
        record = np.empty(layout.RECORD_WORDS, np.int64)
        sequence = merging.read_submission(self.words, self._checked(writer), record)
        return Submission(
            sequence=sequence,
            merged=merging.load(self.words, writer, layout.MERGED) >= sequence,
            scale=float(record.view(np.float64)[layout.SCALE]),
            samples=int(record[layout.SAMPLES]),
            user=tuple(int(word) for word in record[layout.USER : layout.USER + layout.USER_WORDS]),
        )

    def pending(self, writer: int) -> bool:
        """Tell whether the writer's last submission is committed and not yet merged."""
        return merging.pending(self.words, self._checked(writer))

    def merge_for(self, writer: int, scale: float) -> bool:
        """Merge the submission of a writer that waits, with `scale` instead of its own; False if it has none.

        The writer may have died meanwhile, but not while it merged: that is for `finish`.
        """
        if not self.pending(writer):
            return False
        merging.rescale(self.words, writer, scale)
        merging.merge(self.words, writer, merging.UNLIMITED)
        return True

    def finish(self, writer: int) -> bool:
        """Complete a dead writer's committed submission and reclaim its spare slot; True if one was unmerged.

        The writer must have been killed and reaped. Its live flag is cleared, its index is free for another process.
        """
        unmerged = self.pending(writer)
        merging.merge(self.words, writer, merging.UNLIMITED)
        self.set_live(writer, False)
        return unmerged

    def table(self) -> Table:
        """Return a copy of what the writers have published of themselves."""
        rows = merging.table_rows(self.layout.writers)
        merging.read_table(self.words, rows)
        return Table.of(rows)

    def set_live(self, writer: int, live: bool) -> None:
        """Publish whether the writer takes part."""
        merging.store(self.words, self._checked(writer), layout.LIVE, int(live))

    def validate(self) -> None:
        """Check, while nobody merges, that every slot has exactly one owner; AssertionError if not."""
        shape = self.layout
        segments = self.words[layout.HEADER_WORDS : layout.HEADER_WORDS + shape.segments] & layout.SLOT_MASK
        spares = [merging.spare_slot(self.words, writer) for writer in range(shape.writers)]
        if sorted([*segments.tolist(), *spares]) != list(range(shape.slots)):
            raise AssertionError(f"slots owned twice or lost: segments {segments.tolist()}, spares {spares}")

    def close(self) -> None:
        """Drop the views and close the memory; idempotent."""
        self._words = None
        self._memory.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _checked(self, writer: int) -> int:
        if not 0 <= writer < self.layout.writers:
            raise IndexError(f"writer {writer} of {self.layout.writers}")
        return writer


def _checked_weights(array: npt.NDArray[np.float32], parameters: int) -> npt.NDArray[np.float32]:
    if array.shape != (parameters,) or array.dtype != np.float32 or not array.flags.c_contiguous:
        raise ValueError(f"weights: expected contiguous float32 ({parameters},), got {array.dtype} {array.shape}")
    return array


class Writer:
    """One node's side of a buffer: it stages, commits and merges; one process and one thread at a time."""

    def __init__(self, buffer: WeightBuffer, index: int) -> None:
        """Use `WeightBuffer.writer`."""
        self.index = index
        self._buffer = buffer
        self._delta = buffer.delta(index)
        self._rows = merging.table_rows(buffer.layout.writers)

    @property
    def delta(self) -> npt.NDArray[np.float32]:
        """The staging area, float32 [parameters], to fill before `commit`.

        Raises RuntimeError until the last submission is merged: it is still being read.
        """
        if self.pending:
            raise RuntimeError(f"writer {self.index}: the staged delta is not merged yet")
        return self._delta

    @property
    def pending(self) -> bool:
        """Tell whether the last submission is committed and not yet merged."""
        return self._buffer.pending(self.index)

    def publish(self, quality: float) -> Table:
        """Publish the writer's quality, its accuracy on its own samples; return what all have published."""
        merging.publish(self._buffer.words, self.index, quality, self._rows)
        return Table.of(self._rows)

    def commit(self, scale: float, samples: int, user: Sequence[int] = (0, 0, 0, 0)) -> int:
        """Make the staged delta a submission and return its sequence number, 1 for a buffer's first.

        `scale` is what `merge` and `finish` multiply the delta by; `samples` are those of this submission alone;
        `user` is for the caller. Raises RuntimeError if the last submission is not merged yet.
        """
        if self.pending:
            raise self._unmerged()
        self._require(scale, samples)
        if len(user) != layout.USER_WORDS:
            raise ValueError(f"writer {self.index}: no submission with user {user}: {layout.USER_WORDS} words")
        words = np.array(user, np.int64)
        return merging.commit(self._buffer.words, self.index, scale, samples, words, merging.UNLIMITED)

    def submit(
        self, scale: float, samples: int, out: merging.Floats, other: merging.Floats = merging.NOWHERE
    ) -> tuple[int, int]:
        """Commit, merge at once and refresh; return the sequence number and the version of `out` and `other`.

        That has this submission, all updates that it counts, and maybe newer ones. Arguments and errors as of `commit`
        and `refresh`.
        """
        self._require(scale, samples)
        self._require_weights(out, other)
        sequence, version = merging.submit(self._buffer.words, self.index, scale, samples, out, other)
        if not sequence:
            raise self._unmerged()
        return sequence, version

    def merge(self) -> None:
        """Merge the committed submission into the weight set; nothing to do if it is merged already."""
        merging.merge(self._buffer.words, self.index, merging.UNLIMITED)

    def refresh(self, out: merging.Floats, other: merging.Floats = merging.NOWHERE) -> int:
        """Copy the weight set into `out` and `other`, float32 [parameters]; publish and return its version.

        The version is read before the copy: all updates that it counts are in the copy, newer ones may be.
        """
        self._require_weights(out, other)
        return merging.refresh(self._buffer.words, self.index, out, other)

    def _require_weights(self, out: merging.Floats, other: merging.Floats) -> None:
        _checked_weights(out, self._buffer.layout.parameters)
        if other is not merging.NOWHERE:
            _checked_weights(other, self._buffer.layout.parameters)

    def _require(self, scale: float, samples: int) -> None:
        if not math.isfinite(scale) or samples < 0:
            raise ValueError(f"writer {self.index}: no submission with scale {scale}, samples {samples}")

    def _unmerged(self) -> RuntimeError:
        return RuntimeError(f"writer {self.index}: the last submission is not merged yet")
