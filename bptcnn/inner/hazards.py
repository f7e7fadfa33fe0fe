"""Which tasks a further one must wait for, from who reads and writes what.

A reader waits for the last writers, a writer for the last writers and everybody who has read since. Where these are
many, a task that does nothing joins them: it waits for them, and whoever meets the same memory waits for it alone, so
that m tasks behind n others take m + n dependencies and not m * n.
"""

from collections.abc import Callable, Hashable, Iterable, Sequence, Set
from dataclasses import dataclass

import numpy as np

from bptcnn.inner.arena import Span

_MOST = 8  # tasks to wait for without a join


@dataclass(frozen=True, slots=True)
class _Access:
    span: Span
    task: int
    writes: bool


class Hazards:
    """Remembers accesses in program order. `join` adds a task that waits for others, and returns its index."""

    def __init__(self, join: Callable[[Set[int]], int], most: int = _MOST) -> None:
        self._join = join
        self._most = most
        self._accesses: dict[Hashable, _Accesses] = {}
        self._joins: dict[frozenset[int], int] = {}

    def before(self, reads: Iterable[Span], writes: Iterable[Span]) -> set[int]:
        """Return the tasks that collide with these accesses, or joins of them."""
        found = set[int]()
        for span in reads:
            found |= self._colliding(span, writes=False)
        for span in writes:
            found |= self._colliding(span, writes=True)
        return found

    def record(self, task: int, reads: Iterable[Span], writes: Iterable[Span]) -> None:
        """Remember a task's accesses; those that a write covers are forgotten."""
        for span in reads:
            self._of(span).add(_Access(span, task, False))
        for span in writes:
            accesses = self._of(span)
            met = accesses.meeting(span)
            accesses.remove([place for place, a in met if span.covers(a.span) and a.task != task])
            accesses.add(_Access(span, task, True))

    def _of(self, span: Span) -> "_Accesses":
        return self._accesses.setdefault(span.buffer, _Accesses())

    def _colliding(self, span: Span, writes: bool) -> Set[int]:
        accesses = self._of(span)
        met = [(place, a) for place, a in accesses.meeting(span) if writes or a.writes]
        tasks = frozenset(a.task for _, a in met)
        if len(tasks) <= self._most:
            return tasks
        if tasks not in self._joins:
            self._joins[tasks] = self._join(tasks)
        join = self._joins[tasks]
        begin, end = min(a.span.begin for _, a in met), max(a.span.end for _, a in met)
        accesses.remove([place for place, _ in met])
        accesses.add(_Access(Span(span.buffer, begin, end), join, any(a.writes for _, a in met)))
        return {join}


class _Accesses:
    """Those to one buffer: a step has thousands, so their bytes are kept in arrays."""

    def __init__(self) -> None:
        self._held: list[_Access] = []
        self._bounds = np.zeros((2, 16), np.int64)  # begin and end of each, with room behind

    def meeting(self, span: Span) -> list[tuple[int, _Access]]:
        """Return who has bytes in common with `span`, each with its place."""
        begins, ends = self._bounds[:, : len(self._held)]
        near = np.flatnonzero((begins < span.end) & (ends > span.begin)).tolist()
        return [(place, self._held[place]) for place in near if self._held[place].span.meets(span)]

    def add(self, access: _Access) -> None:
        """Remember an access."""
        count = len(self._held)
        if count == self._bounds.shape[1]:
            self._bounds = np.concatenate([self._bounds, np.zeros_like(self._bounds)], axis=1)
        self._bounds[:, count] = access.span.begin, access.span.end
        self._held.append(access)

    def remove(self, places: Sequence[int]) -> None:
        """Forget the accesses at `places`, in rising order."""
        if places:
            kept = np.delete(self._bounds[:, : len(self._held)], places, axis=1)
            self._bounds[:, : kept.shape[1]] = kept
            for place in reversed(places):
                del self._held[place]
