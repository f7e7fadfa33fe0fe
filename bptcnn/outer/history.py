"""What becomes of the shards, and why: the entries of a run's allocation history."""

from dataclasses import dataclass
from typing import Literal

Cause = Literal["round", "resume", "balance", "relief", "loss", "return", "join"]


@dataclass(frozen=True, slots=True)
class Shard:
    """A node's share of the data: its samples, and its speed as the planner takes it, in images/s."""

    name: str
    samples: int
    speed: float


@dataclass(frozen=True, slots=True)
class Reallocation:
    """Samples were given out or moved, or (loss, return, join) could have been.

    `cause`: an allocation round of the first epoch, a resumed run's new start, an epoch's start after drift (balance),
    an epoch's end at which nodes ran out (relief), or a node that was lost, has returned or joined: `node`, else "".
    `moved`: samples that got another owner. `shards`: as they are now, those of nodes that are lost included.
    """

    cause: Cause
    node: str
    moved: int
    shards: tuple[Shard, ...]
