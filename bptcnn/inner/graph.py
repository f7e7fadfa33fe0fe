"""Task graphs: tasks with dependencies, compiled to flat arrays in upward-rank order for the executor."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from bptcnn.inner.ranks import upward_ranks

Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Task:
    """One kernel call: `kernel` and `operation` are addresses, [first, last) the range, `part` the partial sum."""

    label: str
    kernel: int
    operation: int
    first: int
    last: int
    part: int
    cost: float  # nanoseconds, estimated


@dataclass
class GraphBuilder:
    """Collects tasks in an order in which each comes after those that it depends on."""

    tasks: list[Task] = field(default_factory=list)
    successors: list[list[int]] = field(default_factory=list)

    def add(self, task: Task, after: Iterable[int]) -> int:
        """Add a task that runs after the tasks `after`; return its index."""
        index = len(self.tasks)
        self.tasks.append(task)
        self.successors.append([])
        for earlier in sorted(set(after)):
            self.successors[earlier].append(index)
        return index

    def build(self, sink: int) -> "TaskGraph":
        """Close the graph with one last task, of kernel `sink`, and compile it by the estimated costs."""
        leaves = [index for index, followers in enumerate(self.successors) if not followers]
        self.add(Task("end", sink, 0, 0, 0, 0, 0.0), leaves)
        return TaskGraph.compile(self.tasks, self.successors, [task.cost for task in self.tasks])


@dataclass(frozen=True)
class TaskGraph:
    """A graph in upward-rank order: task 0 is the most urgent, the last one ends the step."""

    tasks: tuple[Task, ...]
    successors: tuple[tuple[int, ...], ...]
    costs: tuple[float, ...]  # nanoseconds
    ranks: tuple[float, ...]
    calls: Int64Array  # (tasks, 5): kernel, operation, first, last, part
    successor_ends: Int64Array  # (tasks + 1,): where each task's successors start in `successor_list`
    successor_list: Int64Array
    dependencies: Int64Array  # (tasks,)

    @classmethod
    def compile(cls, tasks: Sequence[Task], successors: Sequence[Sequence[int]], costs: Sequence[float]) -> "TaskGraph":
        """Renumber the tasks by upward rank (ties: the given order) and lay them out in arrays."""
        at_least = [max(cost, 1.0) for cost in costs]  # so that a rank is larger than its successors'
        ranks = upward_ranks(at_least, successors)
        order = sorted(range(len(tasks)), key=lambda index: (-ranks[index], index))
        place = {old: new for new, old in enumerate(order)}
        followers = tuple(tuple(sorted(place[s] for s in successors[old])) for old in order)
        flat = [s for of_one in followers for s in of_one]
        chosen = tuple(tasks[old] for old in order)
        calls = [(t.kernel, t.operation, t.first, t.last, t.part) for t in chosen]
        return cls(
            tasks=chosen,
            successors=followers,
            costs=tuple(at_least[old] for old in order),
            ranks=tuple(ranks[old] for old in order),
            calls=np.array(calls, np.int64).reshape(-1, 5),
            successor_ends=np.cumsum([0, *map(len, followers)], dtype=np.int64),
            successor_list=np.array(flat, np.int64),
            dependencies=np.bincount(flat, minlength=len(chosen)).astype(np.int64),
        )

    def with_costs(self, costs: Sequence[float]) -> "TaskGraph":
        """Return the same graph ranked by other costs (nanoseconds, one per task in this graph's order)."""
        return TaskGraph.compile(self.tasks, self.successors, costs)
