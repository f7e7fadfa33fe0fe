"""Nodes that join a running run: each comes with a visitor at the door, who is told how it does until the run ends.

visitor ──JoinRequest──> waiting ──its turn──> memory (a thread) ──> Joining ──the driver starts it──> member
                            └──> Refused                                        the visitor leaves: Leaving

One is prepared at a time. Its place is that of a lost node of the same name, or the next one.

Who is at the door is a process of the run's user, and may still be anything: what it sends is decoded, it has
_SILENT_SECONDS to ask for something, and where too many say nothing the one that came first has to go, so that whoever
means it gets in. What goes wrong with a request refuses that request.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bptcnn.errors import UserError
from bptcnn.nodes import Host, checked_name, host_from
from bptcnn.nodes.ssh import checked_options
from bptcnn.outer import NodeProfile, NodeStatus
from bptcnn.profiling import NodeSpeed, own_cores
from bptcnn.threads import start_thread
from bptcnn.training.launcher import Launcher
from bptcnn.training.members import UNKNOWN, Member, joined_speed, local_speed
from bptcnn.training.placement import free_cores
from bptcnn.training.settings import TrainSettings, check_speed, check_whole
from bptcnn.training.visits import Door, Ended, Greeting, JoinRequest, Lost, Progress, Refused, Starting, Visitor
from bptcnn.untrusted import Malformed

LEFT = "it left the run"
_MOST_VISITORS = 64  # that have not asked yet, and as many that have
_SILENT_SECONDS = 120.0  # to ask
_TELL_SECONDS = 1.0


@dataclass(frozen=True)
class Joining:
    """A node that is prepared: it is to be started at `index`."""

    index: int
    profile: NodeProfile


@dataclass(frozen=True)
class Leaving:
    """A node that is to leave the run."""

    index: int


@dataclass
class _Stay:
    """A visitor whose node has a place; what it was told last."""

    visitor: Visitor
    stay: bool
    told: float = 0.0
    lost: str | None = None
    was_live: bool = False


@dataclass
class _Preparation:
    """Memory for a node is being allocated."""

    visitor: Visitor
    request: JoinRequest
    index: int
    member: Member
    note: str
    thread: threading.Thread
    error: UserError | None = None


class Joins:
    """Looks after the door; `profiles` are the members', in their order, and grow with them."""

    def __init__(
        self, door: Door | None, greeting: Greeting, launcher: Launcher, profiles: Sequence[NodeProfile]
    ) -> None:
        self._door, self._greeting, self._launcher = door, greeting, launcher
        self._profiles = list(profiles)
        self._visitors: list[Visitor] = []  # that have not asked for anything yet
        self._waiting: deque[tuple[Visitor, JoinRequest]] = deque()
        self._preparation: _Preparation | None = None
        self._stays: dict[int, _Stay] = {}

    def attend(self, statuses: Callable[[], Sequence[NodeStatus]], epoch: int, epochs: int) -> list[Joining | Leaving]:
        """Do what is due, without waiting, and return what the driver is to do; called twice a second."""
        self._admit_visitors()
        self._hear()
        wishes: list[Joining | Leaving] = [Leaving(index) for index in self._leaving()]
        if self._stays:
            self._tell(statuses(), epoch, epochs)
        if self._preparation is None and self._waiting:
            self._prepare(*self._waiting.popleft(), statuses())
        elif self._preparation is not None and not self._preparation.thread.is_alive():
            wishes += self._prepared(self._preparation)
            self._preparation = None
        return wishes

    def close(self, outcome: Ended) -> None:
        """Tell everybody how the run ended and close the door; safe to call again."""
        if self._preparation is not None:
            self._preparation.thread.join()
            self._visitors.append(self._preparation.visitor)
            self._preparation = None
        self._visitors += [visitor for visitor, _ in self._waiting]
        self._visitors += [stay.visitor for stay in self._stays.values()]
        self._waiting.clear()
        self._stays.clear()
        for visitor in self._visitors:
            visitor.tell(outcome)
            visitor.close()
        self._visitors.clear()
        if self._door is not None:
            self._door.close()

    # ---- who asks ----------------------------------------------------------------------------------------------------

    def _admit_visitors(self) -> None:
        for _ in range(_MOST_VISITORS):  # at a time: training goes on meanwhile
            visitor = self._door.visitor() if self._door is not None else None
            if visitor is None:
                return
            if len(self._visitors) >= _MOST_VISITORS:
                _send_away(self._visitors.pop(0), f"{_MOST_VISITORS} others came after it, and it asked for nothing")
            visitor.tell(self._greeting)
            self._visitors.append(visitor)

    def _hear(self) -> None:
        """Move those that ask for something to the waiting."""
        for visitor in list(self._visitors):
            try:
                request = visitor.receive()
            except Malformed as error:
                self._visitors.remove(visitor)
                _send_away(visitor, f"the request cannot be understood: {error}")
                continue
            if isinstance(request, JoinRequest):
                self._visitors.remove(visitor)
                if len(self._waiting) < _MOST_VISITORS:
                    self._waiting.append((visitor, request))
                else:
                    _send_away(visitor, f"{_MOST_VISITORS} others are waiting to join")
            elif request is None and visitor.seconds > _SILENT_SECONDS:
                self._visitors.remove(visitor)
                _send_away(visitor, f"it asked for nothing within {_SILENT_SECONDS:g} s")
        self._visitors = [visitor for visitor in self._visitors if not _ended(visitor)]

    def _leaving(self) -> list[int]:
        """Forget those who are gone; return the indices of nodes that go with them."""
        for stay in self._stays.values():
            try:
                stay.visitor.receive()
            except Malformed:
                stay.visitor.gone = True
        gone = {index: stay for index, stay in self._stays.items() if _ended(stay.visitor)}
        for index in gone:
            del self._stays[index]
        return [index for index, stay in gone.items() if not stay.stay]

    # ---- taking in ---------------------------------------------------------------------------------------------------

    def _prepare(self, visitor: Visitor, request: JoinRequest, statuses: Sequence[NodeStatus]) -> None:
        try:
            index, member, note = self._plan(request, statuses)
        except (UserError, TypeError, ValueError) as error:
            _send_away(visitor, str(error))
            return
        thread = threading.Thread(target=self._allocate, name="preparation", daemon=True)
        self._preparation = _Preparation(visitor, request, index, member, note, thread)
        try:
            start_thread(thread)
        except UserError as error:
            self._preparation = None
            _send_away(visitor, str(error))
            return
        visitor.tell(Starting(member.name, note))

    def _allocate(self) -> None:
        preparation = self._preparation
        assert preparation is not None
        try:
            self._launcher.make_room(preparation.index, preparation.member)
        except UserError as error:
            preparation.error = error
        except Exception as error:  # it cannot join then; the run goes on
            preparation.error = UserError(f"no place could be made for it: {type(error).__name__}: {error}")

    def _prepared(self, preparation: _Preparation) -> list[Joining | Leaving]:
        if preparation.error is not None:
            _send_away(preparation.visitor, str(preparation.error))
            return []
        index, member = preparation.index, preparation.member
        members = self._launcher.members
        speed = joined_speed(members, self._profiles, member)
        profile = NodeProfile(member.name, speed, trusted=member.host is None)
        if index == len(members):
            members.append(member)
            self._profiles.append(profile)
        else:
            members[index] = member
            self._profiles[index] = profile
        if index in self._stays:  # of its last time
            self._stays.pop(index).visitor.close()
        self._stays[index] = _Stay(preparation.visitor, preparation.request.stay)
        return [Joining(index, profile)]

    def _plan(self, request: JoinRequest, statuses: Sequence[NodeStatus]) -> tuple[int, Member, str]:
        """Return the node's place, what it is, and what its user should know; raise UserError where it has none."""
        settings = self._launcher.settings
        host = host_from("the host", request.host) if request.host is not None else None
        check_speed("speed", request.speed)
        if request.threads is not None:
            check_whole("threads", request.threads, 1)
        index, name = self._place(request.name or (host.name if host else None), statuses)
        if host is not None:
            return index, _on_host(name, host, request), ""
        threads, cores = self._cores(request, settings, statuses)
        expected = local_speed(self._launcher.network, settings, threads)
        note = "" if cores or not own_cores() else "no core is free for it: the nodes here get slower"
        return index, Member(name, request.speed, threads, expected, cores=cores), note

    def _place(self, wanted: str | None, statuses: Sequence[NodeStatus]) -> tuple[int, str]:
        places = {status.name: index for index, status in enumerate(statuses)}
        taken = {status.name for status in statuses if status.live or status.away}
        name = wanted
        if name is None:
            name = next(name for name in (f"joined{n}" for n in range(1, len(statuses) + 2)) if name not in taken)
        checked_name("the node", name)
        if name in taken:
            raise UserError(f"a node called {name} takes part in the run already: give this one another name (--name)")
        index = places.get(name, len(statuses))
        if index >= self._launcher.places:
            raise UserError(
                f"the run has no place for a further name: {self._launcher.places} nodes have taken part; "
                "join under the name of one that is lost"
            )
        return index, name

    def _cores(
        self, request: JoinRequest, settings: TrainSettings, statuses: Sequence[NodeStatus]
    ) -> tuple[int, tuple[int, ...]]:
        """Return a local node's threads, and cores that no other thread needs, or none of its own."""
        here = zip(self._launcher.members, statuses, strict=True)
        busy = [(m.cores, m.threads, m.speed) for m, status in here if m.host is None and status.live]
        free = free_cores(own_cores(), busy, request.speed)
        threads = request.threads or settings.threads or max(1, len(free))
        return threads, free[:threads] if threads <= len(free) else ()

    # ---- telling -----------------------------------------------------------------------------------------------------

    def _tell(self, statuses: Sequence[NodeStatus], epoch: int, epochs: int) -> None:
        now = time.monotonic()
        for index, stay in list(self._stays.items()):
            status = statuses[index]
            if status.live and (now - stay.told >= _TELL_SECONDS or not stay.was_live):
                speed = status.speed if status.measured else None
                stay.visitor.tell(Progress(epoch, epochs, status.share, speed, status.totals.images))
                stay.told, stay.was_live, stay.lost = now, True, None
            elif not status.live and (stay.was_live or not status.away) and stay.lost != status.reason_lost:
                stay.lost, stay.was_live = status.reason_lost, False
                stay.visitor.tell(Lost(status.reason_lost or "", status.away))
            if not (status.live or status.away):
                stay.visitor.close()
                del self._stays[index]


def _on_host(name: str, host: Host, request: JoinRequest) -> Member:
    clock = request.cores_times_clock
    return Member(
        name=name,
        speed=request.speed,
        threads=request.threads or host.threads or 0,
        expected=UNKNOWN if clock is None else NodeSpeed(request.images_per_second, clock),
        host=host,
        bandwidth=request.bandwidth,
        options=checked_options(request.options),
    )


def _send_away(visitor: Visitor, reason: str) -> None:
    visitor.tell(Refused(reason))
    visitor.close()


def _ended(visitor: Visitor) -> bool:
    if visitor.gone:
        visitor.close()
    return visitor.gone
