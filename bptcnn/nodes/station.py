"""Where an agent stands: how it hears the coordinator, and where its samples and the weight set are.

Imports nothing that compiles.
"""

import queue
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from bptcnn.inner.tuning import Tuning
from bptcnn.nodes.configuration import AgentConfiguration
from bptcnn.outer import Message, NodeEvent

if TYPE_CHECKING:
    from bptcnn.nodes.exchange import Exchange

ORPHANED = 3  # exit code: the coordinator is gone
Images = npt.NDArray[np.uint8] | npt.NDArray[np.float32]
Labels = npt.NDArray[np.int32]


class Arrival:
    """In an inbox: the answer to a submission has come."""


Inbox = queue.SimpleQueue[Message | Arrival]


class Station(Protocol):
    """How one agent is reached; whatever breaks on the way to the coordinator ends the process with ORPHANED."""

    @property
    def configuration(self) -> AgentConfiguration:
        """What the agent is to be."""
        ...

    def start(self, inbox: Inbox) -> None:
        """Deliver messages into `inbox` from here on."""
        ...

    def report(self, event: NodeEvent) -> None:
        """Tell the coordinator; from any thread, in order."""
        ...

    def clock(self) -> Callable[[], float]:
        """Return what tells the time, in seconds, by which the node measures what it does."""
        ...

    def tuning(self) -> Tuning:
        """Return how the node's steps are computed."""
        ...

    def samples(self) -> tuple[Images, Labels]:
        """Return the run's training images and labels in its order."""
        ...

    def exchange(self) -> "Exchange":
        """Return the way to the weight set."""
        ...

    def finish(self) -> None:
        """Make sure that everything reported has left."""
        ...
