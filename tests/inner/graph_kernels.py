"""Task kernels that watch the executor from within, and the graphs that are made of them.

Each task has a record in a `Journal`; kernels check there, while the step runs, that all predecessors are done.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bptcnn.inner.executor import end_of_step
from bptcnn.inner.graph import GraphBuilder, Task, TaskGraph
from bptcnn.kernels.atomics import (
    fetch_add,
    futex_wait,
    futex_wake,
    load_acquire,
    monotonic_ns,
    spin_pause,
)
from bptcnn.kernels.compilation import task_kernel
from bptcnn.kernels.pointers import record_at, words

TIMED_OUT = 77
Words = npt.NDArray[np.int64]
Edges = Sequence[Sequence[int]]  # per task the earlier tasks that it depends on

JOURNAL = np.dtype(
    [
        (name, np.int64)
        for name in (
            "tasks",
            "ends",  # (tasks + 1,): where each task's predecessors start in `predecessors`
            "predecessors",
            "runs",  # (tasks,): how often each task has run
            "places",  # (tasks,): when in the order of all
            "lengths",  # (tasks,): longest path to the task, in plain words
            "clock",  # address of the number of tasks run so far
            "early",  # address of the number of dependencies found not done
            "failing",  # address of the task that returns `status`, or -1
            "status",
            "deadline",  # monotonic ns, for kernels that wait
        )
    ],
    align=True,
)
_at = record_at(JOURNAL)


@task_kernel
def note(operation, first, last, part, worker):  # type: ignore[no-untyped-def]
    """Task `first`: check the predecessors, spin `last` times, write the longest path, count the run."""
    o = _at(operation)
    ends = words(o.ends, o.tasks + 1)
    predecessors = words(o.predecessors, ends[o.tasks])
    lengths = words(o.lengths, o.tasks)
    mine = load_acquire(o.runs + 8 * first)
    longest = 0
    for index in range(ends[first], ends[first + 1]):
        other = predecessors[index]
        if load_acquire(o.runs + 8 * other) != mine + 1:
            fetch_add(o.early, 1)
        longest = max(longest, lengths[other])
    for _ in range(last):
        spin_pause()
    lengths[first] = longest + 1
    words(o.places, o.tasks)[first] = fetch_add(o.clock, 1)
    fetch_add(o.runs + 8 * first, 1)
    if words(o.failing, 1)[0] == first:
        return words(o.status, 1)[0]
    return 0


@task_kernel
def meet(operation, first, last, part, worker):  # type: ignore[no-untyped-def]
    """Wait, asleep, until `last` tasks are in here at the same time; TIMED_OUT past the deadline."""
    o = _at(operation)
    fetch_add(o.clock, 1)
    futex_wake(o.clock, 1 << 30)
    while True:
        now = load_acquire(o.clock)
        if now >= last:
            return 0
        futex_wait(o.clock, now, 100_000_000)
        if monotonic_ns() > words(o.deadline, 1)[0]:
            return TIMED_OUT


@task_kernel
def rest(operation, first, last, part, worker):  # type: ignore[no-untyped-def]
    """Sleep for `last` nanoseconds."""
    end = monotonic_ns() + last
    o = _at(operation)
    while monotonic_ns() < end:
        futex_wait(o.clock, load_acquire(o.clock), end - monotonic_ns())
    return 0


@task_kernel
def begin_and_rest(operation, first, last, part, worker):  # type: ignore[no-untyped-def]
    """Tell the others to go on, sleep for `last` nanoseconds, and only then count the run of task `first`."""
    o = _at(operation)
    end = monotonic_ns() + last
    now = fetch_add(o.clock, 1) + 1
    futex_wake(o.clock, 1 << 30)
    while monotonic_ns() < end:
        futex_wait(o.clock, now, end - monotonic_ns())
    fetch_add(o.runs + 8 * first, 1)
    return 0


@task_kernel
def fail_once_begun(operation, first, last, part, worker):  # type: ignore[no-untyped-def]
    """Wait until another task has begun, then return `status`."""
    o = _at(operation)
    while load_acquire(o.clock) == 0:
        futex_wait(o.clock, 0, 100_000_000)
        if monotonic_ns() > words(o.deadline, 1)[0]:
            return TIMED_OUT
    return words(o.status, 1)[0]


@dataclass(frozen=True)
class Journal:
    """Counters per task; `record` is the address that tasks carry as their operation."""

    edges: Edges
    runs: Words
    places: Words
    lengths: Words
    clock: Words
    early: Words
    failing: Words
    status: Words
    deadline: Words
    kept: tuple[npt.NDArray[np.void] | Words, ...]  # what the record points to

    @classmethod
    def create(cls, edges: Edges) -> "Journal":
        """Return a journal of tasks that have not run."""
        count = len(edges)
        ends = np.cumsum([0, *map(len, edges)], dtype=np.int64)
        predecessors = np.array([p for of_one in edges for p in of_one] or [0], np.int64)
        runs, places, lengths = (np.zeros(count, np.int64) for _ in range(3))
        clock, early, status, deadline = (np.zeros(1, np.int64) for _ in range(4))
        failing = np.full(1, -1, np.int64)
        deadline[0] = time.monotonic_ns() + 60_000_000_000
        record = np.zeros(1, JOURNAL)
        arrays = (ends, predecessors, runs, places, lengths, clock, early, failing, status, deadline)
        names = [name for name in JOURNAL.names or () if name != "tasks"]
        record[0]["tasks"] = count
        for name, array in zip(names, arrays, strict=True):
            record[0][name] = array.ctypes.data
        kept = (record, ends, predecessors)
        return cls(edges, runs, places, lengths, clock, early, failing, status, deadline, kept)

    @property
    def record(self) -> int:
        """Address of the record."""
        return int(self.kept[0].ctypes.data)

    def reset(self) -> None:
        """Forget all runs, and fail no more."""
        for array in (self.runs, self.places, self.lengths, self.clock, self.early):
            array[:] = 0
        self.failing[0] = -1

    def graph(self, spins: Sequence[int], costs: Sequence[float]) -> TaskGraph:
        """Return the graph of these tasks, each of kernel `note`, labelled by its index."""
        builder = GraphBuilder()
        for task, after in enumerate(self.edges):
            builder.add(Task(str(task), note, self.record, task, spins[task], 0, costs[task]), after)
        return builder.build(end_of_step)

    def longest_paths(self) -> list[int]:
        """Return for each task the number of tasks on the longest path that ends in it."""
        found: list[int] = []
        for after in self.edges:
            found.append(1 + max((found[p] for p in after), default=0))
        return found

    def dependents(self, task: int) -> set[int]:
        """Return all that depend on `task`, directly or not."""
        found = {task}
        for later, after in enumerate(self.edges):
            if found.intersection(after):
                found.add(later)
        return found - {task}


def random_edges(random: np.random.Generator, count: int, most: int, reach: int) -> list[list[int]]:
    """Return dependencies of `count` tasks: each on up to `most` of the `reach` tasks before it."""
    edges: list[list[int]] = []
    for task in range(count):
        pool = np.arange(max(0, task - reach), task)
        edges.append(sorted(int(p) for p in random.permutation(pool)[: random.integers(0, most + 1)]))
    return edges


def random_journal(seed: int, count: int, most: int = 4, reach: int = 60) -> tuple[Journal, TaskGraph]:
    """Return a random graph with random short durations and random costs, and its journal."""
    random = np.random.default_rng(seed)
    journal = Journal.create(random_edges(random, count, most, reach))
    spins = [int(s) for s in random.integers(0, 200, count)]
    return journal, journal.graph(spins, [float(c) for c in random.integers(1, 1000, count)])
