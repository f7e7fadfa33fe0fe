"""Nodes that join a run in this process: each asks from a thread of its own, and keeps what it is told."""

import threading
from pathlib import Path

from training.faults import Lost, Spy

from bptcnn.outer import NodeStatus
from bptcnn.training import Snapshot
from bptcnn.training.joining import Connection
from bptcnn.training.visits import Ended, JoinRequest, Packet

LIMIT_SECONDS = 120.0


class Guest:
    """Asks to join the run in a folder."""

    def __init__(self, folder: Path, request: JoinRequest) -> None:
        self.packets: list[Packet] = []
        self._connection = Connection(folder)
        self._thread = threading.Thread(target=self._ask, args=(request,))
        self._thread.start()

    def _ask(self, request: JoinRequest) -> None:
        with self._connection:
            self._connection.meet(lambda text: None)
            self._connection.ask(request)
            self.packets.extend(self._connection.packets())

    def leave(self) -> None:
        """End the connection, as a process does that is interrupted or killed."""
        self._connection.leave()

    @property
    def is_over(self) -> bool:
        """Whether the connection has ended, and the thread with it."""
        return not self._thread.is_alive()

    def kinds(self) -> list[str]:
        """What it was told until the connection ended, repetitions left out."""
        self._thread.join(LIMIT_SECONDS)
        assert not self._thread.is_alive(), "the connection does not end"
        names = [type(packet).__name__ for packet in self.packets]
        return [name for place, name in enumerate(names) if names[place - 1 : place] != [name]]

    @property
    def ended(self) -> Ended:
        """How the run ended."""
        found = self.packets[-1]
        assert isinstance(found, Ended)
        return found


class Host(Lost):
    """Lets a node join at the n-th report, and ends the run when it has trained `images` images, or it was lost."""

    def __init__(self, spy: Spy, request: JoinRequest, report: int = 5, images: int = 100) -> None:
        super().__init__()
        self.joined: list[str] = []
        self.guests: list[Guest] = []
        self._spy, self._request, self._images = spy, request, images
        self.last: tuple[NodeStatus, ...] = ()
        spy.at[report] = self.invite

    def invite(self) -> None:
        """Have a node ask."""
        self.guests.append(Guest(self._spy.folder, self._request))

    def node_joined(self, name: str) -> None:
        super().node_joined(name)
        self.joined.append(name)

    def progress(self, snapshot: Snapshot) -> None:
        self.last = snapshot.nodes
        found = [status for status in snapshot.nodes if status.name in self.joined]
        if found and self.is_enough(found[-1]):
            raise KeyboardInterrupt

    def is_enough(self, status: NodeStatus) -> bool:
        """Tell whether the run may end."""
        return status.totals.images >= self._images
