"""How many SSH connections are being opened to one machine at a time, and when one is tried again that it closed.

sshd has room for a few connections that have not logged in (MaxStartups 10:30:100: of more than 10 it closes 30 % at
once, chosen at random), and hosts behind one jump host, or several aliases of one machine, share it. So a door is the
first machine that ssh connects to for a host. This process opens at most _WIDEST connections through one at a time.
Where the machine closes one nevertheless, the door narrows by half, the connection steps back, waits for longer each
time, and asks for its turn again; each that gets in widens the door by one.
"""

import math
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence

from bptcnn.nodes.hosts import TIMEOUT_SECONDS, Host

_WIDEST = 8  # below MaxStartups' 10
_POLL_SECONDS = 0.1  # between looks at whether who waits is still wanted
_FIRST_SECONDS, _LONGEST_SECONDS = 0.25, 4.0  # between two attempts


class Turn:
    """The right to open a connection now, until `leave`, or until it `ends` (monotonic)."""

    def __init__(self, door: "Door", ends: float) -> None:
        self._door, self.ends = door, ends

    def leave(self, turned_away: bool = False) -> None:
        """The connection is open, or has failed; `turned_away`: as the server had no room. Safe to call again."""
        self._door.left(self, turned_away)


class Door:
    """See above; used from many threads."""

    def __init__(self, widest: int = _WIDEST) -> None:
        self._widest = self._width = widest
        self._inside: set[Turn] = set()
        self._changed = threading.Condition()

    def enter(self, seconds: float, given_up: Callable[[], bool]) -> Turn | None:
        """Wait for a turn, of `seconds` at most; None where meanwhile `given_up` says so."""
        with self._changed:
            while True:
                if given_up():
                    return None
                now = time.monotonic()
                self._inside = {turn for turn in self._inside if turn.ends > now}
                if len(self._inside) < self._width:
                    turn = Turn(self, now + seconds)
                    self._inside.add(turn)
                    return turn
                self._changed.wait(_POLL_SECONDS)

    def left(self, turn: Turn, turned_away: bool) -> None:
        """A turn is over."""
        with self._changed:
            if turn not in self._inside:
                return
            self._inside.remove(turn)
            self._width = max(1, self._width // 2) if turned_away else min(self._widest, self._width + 1)
            self._changed.notify_all()


def pauses() -> Iterator[float]:
    """Yield the seconds between attempts: doubled each time, and drawn, so that who was closed at once comes apart."""
    seconds = _FIRST_SECONDS
    while True:
        yield seconds * random.uniform(0.5, 1.5)
        seconds = min(2.0 * seconds, _LONGEST_SECONDS)


def reaching_seconds(hosts: Sequence[Host]) -> float:
    """Return what it may take to reach all hosts, should one door lead to them; that of one where there is none."""
    longest = max((host.timeout for host in hosts), default=TIMEOUT_SECONDS)
    return longest * max(1, math.ceil(len(hosts) / _WIDEST))


_doors: dict[str, Door] = {}
_making = threading.Lock()


def door_to(machine: str) -> Door:
    """Return this process's door to a machine, by whatever names it."""
    with _making:
        return _doors.setdefault(machine, Door())
