"""What an agent on a host can ask its coordinator for, over control; nothing of it is trusted."""

import contextlib
import queue
from collections.abc import Callable
from typing import Any

from bptcnn.nodes.codec import decode_event, encode_message
from bptcnn.outer import Message, NodeEvent
from bptcnn.untrusted import Malformed
from bptcnn.version import VERSION

_MOST_PID = 1 << 22  # Linux's own limit


class NodeDesk:
    """What the agent can ask for; see `control.Desk`."""

    def __init__(
        self,
        node: int,
        take: Callable[[NodeEvent], None],
        refuse: Callable[[str], None],
        updates: Callable[[], int],
        greeted: Callable[[], None] = lambda: None,
    ) -> None:
        self._node, self._take, self._refuse, self._updates = node, take, refuse, updates
        self._greeted = greeted
        self._outbox: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self.pid: int | None = None

    def send(self, message: Message | None) -> None:
        """Have a message collected; None only wakes who waits."""
        self._outbox.put(message)

    def greet(self, version: str, pid: int) -> None:
        """An agent has come."""
        if version != VERSION or type(pid) is not int or not 0 < pid <= _MOST_PID:
            raise ValueError(f"an agent of bptcnn {version!r:.20} came to a coordinator of {VERSION}")
        self.pid = pid
        self._greeted()

    def report(self, events: list[Any]) -> None:
        """Take the agent's events; what is none is the last that it has said."""
        try:
            if not isinstance(events, list):
                raise Malformed("what it reported is no list")
            for value in events:
                event = decode_event(value)
                if event.node != self._node:
                    raise Malformed(f"node {self._node} speaks for node {event.node}")
                self._take(event)
        except ValueError as error:
            self._refuse(f"it reported what cannot be: {error}")
            raise

    def collect(self, seconds: float) -> dict[str, Any]:
        """Wait for messages."""
        found: list[Message | None] = []
        with contextlib.suppress(queue.Empty):
            found.append(self._outbox.get(timeout=min(max(0.0, float(seconds)), 1.0)))
            while True:
                found.append(self._outbox.get_nowait())
        messages = [encode_message(message) for message in found if message is not None]
        return {"messages": messages, "updates": self._updates()}
