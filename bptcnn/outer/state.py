"""The coordinator's state at an epoch's end: what a checkpoint keeps beside the weights."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bptcnn.errors import UserError
from bptcnn.outer.ledger import Owners
from bptcnn.outer.node_record import NodeTotals


@dataclass(frozen=True, slots=True)
class Tally:
    """Sums over the reported submissions of one epoch."""

    samples: int = 0
    loss_sum: float = 0.0
    correct: int = 0

    def plus(self, samples: int, loss_sum: float, correct: int) -> "Tally":
        """With one more submission."""
        return Tally(self.samples + samples, self.loss_sum + loss_sum, self.correct + correct)


@dataclass(frozen=True, slots=True)
class Counters:
    """Totals of the run."""

    images_trained: int = 0
    images_redone: int = 0
    updates: int = 0
    waiting_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class NodeState:
    """One node: matched by name when a run resumes; `seconds_per_sample` None: not measured."""

    name: str
    totals: NodeTotals
    seconds_per_sample: float | None


@dataclass(frozen=True, slots=True, eq=False)
class CoordinatorState:
    """Everything needed to go on after `epoch` complete epochs.

    `owners` int32 (N,): index into `nodes` of each sample's owner; `ahead` bool (N,): what is trained of the next
    epoch already, whose sums so far are `ahead_tally`.
    """

    epoch: int
    samples: int
    nodes: tuple[NodeState, ...]
    counters: Counters
    ahead_tally: Tally
    owners: Owners
    ahead: npt.NDArray[np.bool_]

    def scalars(self) -> dict[str, Any]:
        """All but the arrays, ready for JSON."""
        return {
            "epoch": self.epoch,
            "samples": self.samples,
            "nodes": [asdict(node) for node in self.nodes],
            "counters": asdict(self.counters),
            "ahead_tally": asdict(self.ahead_tally),
        }

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """The arrays, by name."""
        return {"owners": self.owners, "ahead": self.ahead}

    @staticmethod
    def build(scalars: dict[str, Any], arrays: dict[str, npt.NDArray[Any]]) -> "CoordinatorState":
        """The inverse of `scalars` and `arrays`."""
        nodes = (
            NodeState(node["name"], NodeTotals(**node["totals"]), node["seconds_per_sample"])
            for node in scalars["nodes"]
        )
        return CoordinatorState(
            scalars["epoch"],
            scalars["samples"],
            tuple(nodes),
            Counters(**scalars["counters"]),
            Tally(**scalars["ahead_tally"]),
            arrays["owners"].astype(np.int32),
            arrays["ahead"].astype(np.bool_),
        )

    def owners_among(self, names: list[str], samples: int) -> Owners:
        """Owners as indices into another list of names, UNOWNED for a name not in it; UserError if N differs."""
        if samples != self.samples:
            raise UserError(
                f"the checkpoint is of a run over {self.samples} samples, this data set has {samples}: "
                "resume with the data it was trained on"
            )
        index = {name: node for node, name in enumerate(names)}
        table = np.array([index.get(node.name, -1) for node in self.nodes], np.int32)
        # UNOWNED (-1) must stay -1, whatever the table's last entry is
        return np.where(self.owners < 0, np.int32(-1), table[self.owners]).astype(np.int32)
