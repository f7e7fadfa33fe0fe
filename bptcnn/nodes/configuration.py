"""What an agent is told on its standard input before anything else. Imports nothing that compiles."""

import math
from dataclasses import dataclass
from typing import Any

import cloudpickle

from bptcnn.errors import UserError
from bptcnn.networks import Network
from bptcnn.nodes.wire import Wire
from bptcnn.outer import Update
from bptcnn.precision import Precision

LONGEST_CONFIGURATION = 1 << 30  # bytes that an agent takes through ssh: a length beyond that is somebody else's


@dataclass(frozen=True)
class AgentConfiguration:
    """One node of a run, whatever its transport.

    `speed` below 1 emulates a slow node: see `cpu_limit`. `report_seconds`: for so long submissions may wait to be
    reported together; 0: each at once. `seed`: of dropout's choices. `first_step` and `usual_loss`: where its optimizer
    starts, see `OptimizerState`; its velocity comes by the exchange.
    """

    node: int
    name: str
    speed: float
    threads: int
    network: Network
    batch_size: int
    precision: Precision
    momentum: float
    weight_decay: float
    update: Update
    staleness: int | None
    heartbeat_seconds: float = 1.0
    report_seconds: float = 0.0
    seed: int = 0
    first_step: int = 0
    usual_loss: float | None = None

    @property
    def cpu_limit(self) -> float:
        """CPU-seconds that it may use per second: infinite at full speed, or its helping threads would slow it down."""
        return self.speed * self.threads if self.speed < 1.0 else math.inf

    @property
    def velocity_size(self) -> int:
        """Elements of the velocity that the optimizer's state has: none without momentum."""
        return self.network.size if self.momentum else 0


@dataclass(frozen=True)
class SampleSource:
    """Where a host finds the training set: by content, in its cache, at `source`, or sent by the coordinator.

    `digest` is of the set as read; `validation` is the share held out and `seed` the run's: the host does the rest.
    """

    digest: str
    source: str
    dtype: str
    shape: tuple[int, ...]  # of the images
    validation: float | None
    seed: int


@dataclass(frozen=True, kw_only=True)
class HostConfiguration(AgentConfiguration):
    """A node behind SSH: weights travel as `wire` says. `threads` 0: the host's usable cores.

    `autotune`: the host chooses its algorithms by measuring, where it has no record yet. `hands_over`: at pauses it
    sends its optimizer state. `restores`: it starts with a velocity, which it is to fetch.
    """

    samples: SampleSource
    wire: Wire
    autotune: bool = False
    hands_over: bool = False
    restores: bool = False


def pickled(value: Any) -> bytes:
    """Return what an agent unpickles; raise UserError where the user's network cannot be pickled."""
    try:
        content: bytes = cloudpickle.dumps(value)
    except Exception as error:  # whatever the user's own classes do
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"the network cannot be sent to its nodes: {said}") from None
    return content
