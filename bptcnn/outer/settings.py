"""What a run's outer layer is told at its start."""

from dataclasses import dataclass
from math import isfinite
from typing import Literal, get_args

from bptcnn.errors import UserError
from bptcnn.outer.partition import default_rounds

Update = Literal["agwu", "agwu-published", "sgwu"]
Partition = Literal["idpa", "static", "uniform"]

FEWEST_TRIAL_STEPS = 4
TRIAL_PART = 10


@dataclass(frozen=True, slots=True)
class NodeProfile:
    """A node as known before the run: its name (resuming matches by it) and its profiled speed in images/s.

    `trusted`: what it says of its progress is taken for true, however long its submissions take. A host's is not.
    """

    name: str
    speed: float
    trusted: bool = True


@dataclass(frozen=True, slots=True)
class RunSettings:
    """A run: node j is nodes[j]; `samples` is N; `learning_rates` has one entry per epoch.

    `rounds`: allocation rounds of IDPA's first epoch, None for the default. `silence_seconds`: a node unheard of for
    so long is killed (DESIGN: noticed within 5 s); `ready_seconds` and `progress_seconds`: the same for a node that
    does not become ready, or that lives but makes no progress on what it owes (or for 20 of its batches, if longer).
    `return_seconds`: how long a run without a live node waits for one that may return. `trial_seconds`: for how long
    each node's speed is measured before the run, one after the other (0: not at all). `fewest_local_steps`: without a
    barrier, several nodes' local iterations may be so short, down from `local_steps`, if submissions cost little
    (None: they may not). `alone_local_steps`: without a barrier, those of a node alone, which learns the same however
    seldom it submits (None: `local_steps`).
    """

    nodes: tuple[NodeProfile, ...]
    samples: int
    epochs: int
    batch_size: int
    local_steps: int
    learning_rates: tuple[float, ...]
    update: Update = "agwu"
    partition: Partition = "idpa"
    rounds: int | None = None
    seed: int = 0
    silence_seconds: float = 4.0
    ready_seconds: float = 300.0
    progress_seconds: float = 120.0
    return_seconds: float = 300.0
    trial_seconds: float = 0.0
    fewest_local_steps: int | None = None
    alone_local_steps: int | None = None

    def __post_init__(self) -> None:
        """Raise UserError for what a user can get wrong."""
        for name in ("samples", "epochs", "batch_size", "local_steps"):
            if getattr(self, name) < 1:
                raise UserError(f"{name.replace('_', ' ')} must be at least 1, not {getattr(self, name)}")
        if self.update not in get_args(Update):
            raise UserError(f"update {self.update!r} does not exist: choose one of {', '.join(get_args(Update))}")
        if self.partition not in get_args(Partition):
            choices = ", ".join(get_args(Partition))
            raise UserError(f"partition {self.partition!r} does not exist: choose one of {choices}")
        if self.rounds is not None and self.rounds < 1:
            raise UserError(f"allocation rounds must be at least 1, not {self.rounds}")
        if self.seed < 0:
            raise UserError(f"the seed must not be negative, but is {self.seed}")
        if not self.nodes:
            raise UserError("a run needs at least one node")
        if len({node.name for node in self.nodes}) != len(self.nodes):
            raise UserError("two nodes have the same name: give each its own")
        for node in self.nodes:
            if not (isfinite(node.speed) and node.speed > 0):
                raise UserError(f"the speed of node {node.name} must be positive, not {node.speed}")
        if len(self.learning_rates) != self.epochs:
            raise ValueError(f"{len(self.learning_rates)} learning rates for {self.epochs} epochs")
        if self.fewest_local_steps is not None and not 1 <= self.fewest_local_steps <= self.local_steps:
            raise ValueError(f"{self.fewest_local_steps} to {self.local_steps} local steps")
        if self.alone_local_steps is not None and self.alone_local_steps < 1:
            raise ValueError(f"{self.alone_local_steps} local steps of a node alone")

    @property
    def alone(self) -> bool:
        """Whether the run has one node only."""
        return len(self.nodes) == 1

    def trial_steps(self, epochs: int) -> int:
        """The most batches of a node's trial before `epochs` epochs: a small part of what is to be trained."""
        return max(FEWEST_TRIAL_STEPS, epochs * self.samples // (TRIAL_PART * self.batch_size))

    def allocation_rounds(self) -> int:
        """The number of rounds A in which the first epoch is given out."""
        if self.partition != "idpa" or self.alone:
            return 1
        default = default_rounds(self.samples, len(self.nodes), self.batch_size, self.local_steps)
        return min(self.samples, self.rounds or default)
