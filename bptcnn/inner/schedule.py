"""The executor's schedule in virtual time: what a task graph reaches on any number of threads, no thread needed.

As `executor`: tasks that wait for nothing are dealt to the workers in turn; a worker takes the task of highest upward
rank of its own ready set, an empty one that of the fullest other worker; a finished task's successors enter the set of
the worker that ran it. What threads decide by who comes first is decided here by rule, so that a schedule repeats: at
one moment workers with tasks of their own take theirs before the empty ones steal, and the lower index goes first.

Not simulated: tasks cost the same on any number of threads, whatever memory and caches they share; waking up and
stealing take no time beyond the `overhead` of every task.
"""

import heapq
from dataclasses import dataclass

from bptcnn.inner.graph import TaskGraph


@dataclass(frozen=True)
class Schedule:
    """When and where each task of a graph runs, in the graph's order; times in nanoseconds from the step's start.

    `starts` and `ends` are those of the kernel; the overhead lies before the start.
    """

    threads: int
    overhead: float
    starts: tuple[float, ...]
    ends: tuple[float, ...]
    workers: tuple[int, ...]
    steals: int

    @property
    def makespan(self) -> float:
        """Nanoseconds from the step's start to the end of its last task."""
        return max(self.ends)

    @property
    def busy(self) -> float:
        """Nanoseconds that tasks take, summed over threads."""
        return sum(end - start for start, end in zip(self.starts, self.ends, strict=True))

    @property
    def idle_share(self) -> float:
        """Share of the threads' time that no task takes: waiting for tasks, and taking them."""
        return max(0.0, 1 - self.busy / (self.threads * self.makespan))

    @property
    def speed_up(self) -> float:
        """How many times faster this is than one thread, which does one task after the other."""
        return (self.busy + self.overhead * len(self.starts)) / self.makespan


def simulate(graph: TaskGraph, threads: int, overhead: float = 0.0) -> Schedule:
    """Return the schedule of one step of `graph`, by its costs, on `threads` workers.

    overhead: nanoseconds that a worker spends on each task beside the kernel.
    """
    return _Simulation(graph, threads, overhead).run()


class _Simulation:
    def __init__(self, graph: TaskGraph, threads: int, overhead: float) -> None:
        self._graph = graph
        self._threads = threads
        self._overhead = overhead
        count = len(graph.tasks)
        self._waiting = graph.dependencies.tolist()
        self._ready: list[list[int]] = [[] for _ in range(threads)]  # heaps: tasks are numbered in rank order
        self._free = set(range(threads))
        self._running: list[tuple[float, int, int]] = []  # heap of (end, worker, task)
        self._starts, self._ends, self._workers = [0.0] * count, [0.0] * count, [0] * count
        self._steals = 0

    def run(self) -> Schedule:
        first = [task for task, waiting in enumerate(self._waiting) if not waiting]
        for turn, task in enumerate(first):
            self._ready[turn % self._threads].append(task)
        self._take(0.0)
        while self._running:
            now = self._running[0][0]
            while self._running and self._running[0][0] == now:
                _, worker, task = heapq.heappop(self._running)
                self._finish(worker, task)
            self._take(now)
        times = tuple(self._starts), tuple(self._ends)
        return Schedule(self._threads, self._overhead, *times, tuple(self._workers), self._steals)

    def _finish(self, worker: int, task: int) -> None:
        self._free.add(worker)
        for follower in self._graph.successors[task]:
            self._waiting[follower] -= 1
            if not self._waiting[follower]:
                heapq.heappush(self._ready[worker], follower)

    def _take(self, now: float) -> None:
        """Give every free worker a task, as long as there are any."""
        for worker in sorted(self._free):
            if self._ready[worker]:
                self._begin(worker, heapq.heappop(self._ready[worker]), now)
        for thief in sorted(self._free):
            fullest = max(range(self._threads), key=lambda worker: (len(self._ready[worker]), -worker))
            if not self._ready[fullest]:
                return
            self._steals += 1
            self._begin(thief, heapq.heappop(self._ready[fullest]), now)

    def _begin(self, worker: int, task: int, now: float) -> None:
        self._free.remove(worker)
        start = now + self._overhead
        end = start + self._graph.costs[task]
        self._starts[task], self._ends[task], self._workers[task] = start, end, worker
        heapq.heappush(self._running, (end, worker, task))
