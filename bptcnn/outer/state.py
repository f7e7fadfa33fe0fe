"""The coordinator's state at an epoch's end: what a checkpoint keeps beside the weights."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt

from bptcnn.errors import UserError
from bptcnn.outer.ledger import UNOWNED, Owners
from bptcnn.outer.node_record import NodeTotals
from bptcnn.untrusted import Between, Count, Length, Malformed, build

_MOST_NODES = 10_000  # that ever took part in a run
_ARRAYS = {"owners": np.int32, "ahead": np.bool_}


@dataclass(frozen=True, slots=True)
class _Scalars:
    """The numbers at the top of a state's JSON."""

    epoch: Annotated[int, Between(0, 1_000_000)]
    samples: Annotated[int, Between(1, 2**31 - 1)]


@dataclass(frozen=True, slots=True)
class _Node:
    """A node's own values, without its totals."""

    name: Annotated[str, Length(1, 300)]
    seconds_per_sample: Annotated[float, Between(1e-15, 1e9)] | None


@dataclass(frozen=True, slots=True)
class Tally:
    """Sums over the reported submissions of one epoch."""

    samples: Count = 0
    loss_sum: float = 0.0
    correct: Count = 0

    def plus(self, samples: int, loss_sum: float, correct: int) -> "Tally":
        """With one more submission."""
        return Tally(self.samples + samples, self.loss_sum + loss_sum, self.correct + correct)


@dataclass(frozen=True, slots=True)
class Counters:
    """Totals of the run."""

    images_trained: Count = 0
    images_redone: Count = 0
    updates: Count = 0
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
    def build(scalars: object, arrays: Mapping[str, npt.NDArray[Any]]) -> "CoordinatorState":
        """The inverse of `scalars` and `arrays`; what earlier versions did not count is 0.

        Raises Malformed for whatever is not of the types and ranges that a run leaves.
        """
        if not isinstance(scalars, Mapping):
            raise Malformed("the coordinator's state is no table")
        plain = build(_Scalars, {name: scalars[name] for name in ("epoch", "samples") if name in scalars})
        entries = scalars.get("nodes")
        if not isinstance(entries, list) or len(entries) > _MOST_NODES:
            raise Malformed(f"nodes is no list of at most {_MOST_NODES:,}")
        nodes = tuple(_node(entry, index) for index, entry in enumerate(entries))
        if len({node.name for node in nodes}) < len(nodes):
            raise Malformed("two nodes have one name")
        owners, ahead = (_array(arrays, name, kind, plain.samples) for name, kind in _ARRAYS.items())
        if owners.min() < UNOWNED or owners.max() >= len(nodes):
            raise Malformed(f"owners are from {owners.min()} to {owners.max()}, of {len(nodes)} nodes")
        return CoordinatorState(
            plain.epoch,
            plain.samples,
            nodes,
            build(Counters, scalars.get("counters"), "counters", partial=True),
            build(Tally, scalars.get("ahead_tally"), "ahead_tally", partial=True),
            owners,
            ahead,
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


def _node(entry: object, index: int) -> NodeState:
    where = f"nodes[{index}]"
    if not isinstance(entry, Mapping):
        raise Malformed(f"{where} is no table")
    node = build(_Node, {name: value for name, value in entry.items() if name != "totals"}, where)
    totals = build(NodeTotals, entry.get("totals"), f"{where}.totals", partial=True)
    return NodeState(node.name, totals, node.seconds_per_sample)


def _array(arrays: Mapping[str, npt.NDArray[Any]], name: str, kind: type[np.generic], count: int) -> npt.NDArray[Any]:
    found = arrays.get(name)
    if found is None or found.dtype != kind or found.shape != (count,):
        there = "missing" if found is None else f"{found.dtype} {found.shape}"
        raise Malformed(f"{name} is {there}, not {np.dtype(kind)} ({count},)")
    return found
