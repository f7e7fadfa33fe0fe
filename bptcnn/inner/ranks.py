"""Upward ranks: a task's longest path, by cost, to the end of the step (as in HEFT: H. Topcuoglu et al., 2002)."""

from collections.abc import Sequence


def upward_ranks(costs: Sequence[float], successors: Sequence[Sequence[int]]) -> list[float]:
    """Return rank[i] = costs[i] + the largest rank of its successors.

    Costs are at least 0, in any one unit; a task's successors have larger indices than the task.
    """
    ranks = [0.0] * len(costs)
    for task in range(len(costs) - 1, -1, -1):
        ranks[task] = costs[task] + max((ranks[s] for s in successors[task]), default=0.0)
    return ranks
