"""Nodes that join a run under faults, as drawn: new ones, or lost ones under their names; some are struck or leave."""

import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from training.faults import Lost, Spy
from training.guests import Guest
from training.schedules import REPORTS, strike

from bptcnn.errors import UserError
from bptcnn.outer import NodeStatus
from bptcnn.training import Snapshot
from bptcnn.training.visits import JoinRequest

ENOUGH = 50  # images: the node trains
MOST_TICKS = 400  # 100 s of a run that is not held up itself
WHILE_STARTING = ("kill", "leave", "slow")
WHILE_TRAINING = ("kill", "stop", "doze", "leave", "slow")


@dataclass
class Visit:
    """One node that is to join, what will happen to it, and what has become of it."""

    request: JoinRequest
    fate: str | None
    guest: Guest | None = None
    left: bool = False
    images: int = 0  # of its earlier time in the run

    @property
    def name(self) -> str:
        """The node's name."""
        assert self.request.name is not None
        return self.request.name

    @property
    def may_be_lost(self) -> bool:
        """Whether what happens to it is more than a delay."""
        return self.fate not in (None, "slow")

    def is_settled(self, status: NodeStatus | None) -> bool:
        """Tell whether the run may end as far as this node goes: it trains, or is gone as was meant."""
        if self.guest is None:
            return False
        if self.left or {"Lost", "Refused"} & {type(packet).__name__ for packet in self.guest.packets}:
            return True
        return self.fate not in ("kill", "stop", "leave") and status is not None and self._trains(status)

    def _trains(self, status: NodeStatus) -> bool:
        return status.live and status.totals.images >= self.images + ENOUGH


class Visitors(Lost):
    """Lets nodes join and interrupts the run when all that was drawn has happened."""

    def __init__(self, spy: Spy, draw: random.Random, nodes: int, doomed: dict[str, str]) -> None:
        super().__init__()
        self._spy, self._draw = spy, draw
        self.visits: list[Visit] = []
        self._awaited: dict[str, Visit] = {}  # until the node of this name is lost
        self._statuses: dict[str, NodeStatus] = {}
        for number in range(draw.randint(1, 3)):
            visit = self._drawn(f"node{nodes + number}")
            spy.also(draw.randrange(REPORTS), partial(self._invite, visit))
        for name, fault in doomed.items():
            if fault == "kill" and draw.random() < 0.5:
                self._awaited[name] = self._drawn(name)

    def _drawn(self, name: str) -> Visit:
        draw = self._draw
        fate = draw.choice([None, None, *WHILE_STARTING, *WHILE_TRAINING])
        request = JoinRequest(name, draw.choice([0.3, 1.0]), 1, stay=draw.random() < 0.5)
        self.visits.append(Visit(request, fate))
        return self.visits[-1]

    def _invite(self, visit: Visit) -> None:
        """Ask; from then on the node's fate takes its course."""
        if visit.fate is not None:
            when = self._spy.returned
            if visit.fate in WHILE_STARTING and self._draw.random() < 0.5:
                when = self._spy.started
            when[visit.name] = partial(self._befall, visit, when)
        status = self._statuses.get(visit.name)
        visit.images = status.totals.images if status else 0
        with suppress(UserError):  # the run has just ended
            visit.guest = Guest(self._spy.folder, visit.request)

    def _befall(self, visit: Visit, when: dict[str, Callable[[], None]]) -> None:
        del when[visit.name]
        draw, fate = self._draw, visit.fate
        assert fate is not None
        act = partial(self._leave, visit) if fate == "leave" else partial(strike, self._spy, draw, visit.name, fate)
        self._spy.later(draw.choice([0.0, draw.uniform(0.0, 0.5)]), act)

    def _leave(self, visit: Visit) -> None:
        assert visit.guest is not None
        visit.left = True
        visit.guest.leave()

    def node_lost(self, name: str, reason: str) -> None:
        super().node_lost(name, reason)
        visit = self._awaited.pop(name, None)
        if visit is not None:
            self._spy.later(self._draw.uniform(0.0, 0.3), partial(self._invite, visit))

    def progress(self, snapshot: Snapshot) -> None:
        self._statuses = {status.name: status for status in snapshot.nodes}
        open_ones = [visit for visit in self.visits if not visit.is_settled(self._statuses.get(visit.name))]
        if not open_ones and self._spy.reports >= REPORTS:
            raise KeyboardInterrupt
        assert self._spy.books is not None
        assert self._spy.books.ticks < MOST_TICKS, f"nothing becomes of {open_ones}"
