"""SGWU's meeting point: who has submitted in the current synchronous merge, and when it can take place."""

from collections.abc import Iterable

from bptcnn.outer.messages import MergeRound
from bptcnn.outer.sgwu import merge_scales, waiting


class Barrier:
    """Collects one submission per node; a lost node's submission stays, since it is committed."""

    def __init__(self) -> None:
        self.waiting_seconds = 0.0
        self.merges = 0
        self._submitted: dict[int, tuple[float, float]] = {}

    def submit(self, node: int, quality: float, time: float) -> None:
        """A node's submission was committed with accuracy `quality` at `time`."""
        if node in self._submitted:
            raise ValueError(f"node {node} submitted twice without being released")
        self._submitted[node] = (quality, time)

    def holds(self, node: int) -> bool:
        """Whether the node waits for its release."""
        return node in self._submitted

    def merge(self, owing: Iterable[int]) -> MergeRound | None:
        """The merge of all that was submitted, once no node of `owing` (live, with samples in hand) is missing."""
        if not self._submitted or any(node not in self._submitted for node in owing):
            return None
        nodes = sorted(self._submitted)
        scales = merge_scales([self._submitted[node][0] for node in nodes])
        self.waiting_seconds += waiting([self._submitted[node][1] for node in nodes])
        self.merges += 1
        self._submitted.clear()
        return MergeRound(tuple((node, float(scale)) for node, scale in zip(nodes, scales, strict=True)))
