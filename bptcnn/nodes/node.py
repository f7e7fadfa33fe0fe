"""A node as the driver sees it, whatever its transport, and how nodes end."""

from typing import Protocol

from bptcnn.nodes.optimizer_state import OptimizerState
from bptcnn.outer import Message, NodeEvent


class NodeGone(Exception):
    """The node has ended, or does not take or finish a message. `may_return`: it is worth starting it again."""

    def __init__(self, reason: str, may_return: bool = False) -> None:
        super().__init__(reason)
        self.may_return = may_return


class Node(Protocol):
    """A running agent."""

    name: str

    @property
    def pid(self) -> int | None:
        """Process id on its machine; None while that is not known."""
        ...

    @property
    def host(self) -> str:
        """The machine that it runs on."""
        ...

    def fileno(self) -> int:
        """Descriptor that is readable when an event has come or the node has ended."""
        ...

    def send(self, message: Message) -> None:
        """Send a message; raise NodeGone where the node does not take it.

        To a node that has ended nothing is sent: `receive` says so, after its last events.
        """
        ...

    def receive(self) -> list[NodeEvent]:
        """Return the events that have come; raise NodeGone after the last one of a node that has ended."""
        ...

    def optimizer_state(self) -> OptimizerState | None:
        """Return what the node has handed over at the pause it is in, None for nothing; valid until Resume is sent."""
        ...

    def suspend(self) -> None:
        """Stop the node until `go_on`, where it is a process of this machine."""
        ...

    def go_on(self) -> None:
        """Let it go on."""
        ...

    def kill(self) -> str:
        """End the node: when this returns, it cannot merge any more. Safe to call again.

        Return a line for the user where its process is still there, see `ending`, else nothing.
        """
        ...

    def end(self, deadline: float) -> str:
        """Let a node that was told to stop end by itself until `deadline` (monotonic), then kill it: see `kill`."""
        ...
