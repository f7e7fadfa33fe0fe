"""The driver: events to the coordinator, its actions to the nodes; clocks, processes and files live here.

sockets of the nodes ──events──> Coordinator.handle ──actions──> Send, Kill        to the nodes
clock ──Tick──────────────────────────┘                  ├─────> MergeRound        in shared memory
                                                         └─────> EpochEnd          checkpoint, evaluation, metrics
"""

import contextlib
import math
import selectors
import time
import traceback
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from bptcnn.data import Samples
from bptcnn.errors import UserError
from bptcnn.names import text_of
from bptcnn.networks import Network
from bptcnn.nodes import Node, NodeGone, needs_same_python
from bptcnn.nodes.doors import reaching_seconds
from bptcnn.outer import (
    Action,
    Coordinator,
    EpochEnd,
    EpochRecorded,
    Event,
    Failed,
    Finish,
    Kill,
    MergeRound,
    Message,
    NodeAbandoned,
    NodeEvent,
    NodeJoined,
    NodeLost,
    NodeReturned,
    Phase,
    Ready,
    Refused,
    RunSettings,
    Send,
    Tick,
    Trial,
)
from bptcnn.standing_still import takes_part
from bptcnn.training.checkpoint import Checkpoint, write_checkpoint
from bptcnn.training.epoch_clock import NOTHING, EpochClock
from bptcnn.training.evaluation import Evaluator
from bptcnn.training.joins import LEFT, Joining, Joins, Leaving
from bptcnn.training.launcher import Launcher
from bptcnn.training.members import Member
from bptcnn.training.progress import EpochRow, Observer, Snapshot
from bptcnn.training.returns import Returns
from bptcnn.training.run_folder import RunFolder
from bptcnn.training.settings import TrainSettings
from bptcnn.training.standstill import note, stopped
from bptcnn.training.stopping import reason_to_stop
from bptcnn.training.visits import Door, Ended, Greeting
from bptcnn.untrusted import printable
from bptcnn.version import VERSION

_TICK_SECONDS = 0.5  # at whole multiples, when heartbeats come, too: waking up costs more than handling both
_MOST_FRUITLESS = 10  # losses of a host in a row without a submission in between
_STOP_SECONDS = 1.0  # what nodes that are told to stop may take together


@dataclass(frozen=True)
class Assignment:
    """What a driver trains, on whom, from `start` on; `measured` are the images that accuracy is taken on."""

    network: Network
    train: Samples
    measured: Samples
    settings: TrainSettings
    members: tuple[Member, ...]
    outer: RunSettings
    start: Checkpoint


class Driver:
    """One run from its first process to its last; `run` returns when it is over, `close` leaves nothing behind."""

    def __init__(
        self,
        assignment: Assignment,
        coordinator: Coordinator,
        folder: RunFolder,
        evaluator: Evaluator,
        observer: Observer,
        launcher: Launcher,
    ) -> None:
        self._assignment, self._folder, self._evaluator, self._observer = assignment, folder, evaluator, observer
        self.coordinator = coordinator
        self._launcher = launcher
        self._buffer = launcher.buffer
        self._selector = selectors.DefaultSelector()
        self._nodes: dict[int, Node] = {}
        self._returns = Returns(
            launcher.start,
            lambda index: not self._buffer.pending(index),
            lambda: reaching_seconds([member.host for member in launcher.members if member.host]),
        )
        self._ready: set[int] = set()  # nodes that got ready once
        self._failed: set[int] = set()  # nodes that said that they cannot go on, or left
        self._fruitless: dict[int, tuple[int, int]] = {}  # submissions when lost last, and since how many losses
        self._joining: set[int] = set()  # nodes that were never there before
        self._now = launcher.clock.now
        self._clock = EpochClock(self.coordinator.counters().images_trained, assignment.start.ahead)
        self.ready_at: float | None = None
        self.rows: list[EpochRow] = list(assignment.start.rows[:-1])
        self.outcome: Finish | None = None
        self._enough: str | None = None  # why the run ends before its last epoch
        self._measuring = False  # the observer knows
        self._pending: deque[Event] = deque()  # the first one is being handled
        self._joins = Joins(self._open_door(), self._greeting(), launcher, assignment.outer.nodes)
        self._set_up()

    # ---- set-up and end ----------------------------------------------------------------------------------------------

    def _set_up(self) -> None:
        try:
            self._buffer.store(self._assignment.start.weights)
            if self._assignment.start.rows:  # of a resumed run; the last one was saved before it was evaluated
                self._evaluate(self._assignment.start)
            self._folder.write_metrics(self.rows)
            self._start_nodes()
        except BaseException:
            self.close()
            raise

    def _open_door(self) -> Door | None:
        try:
            return Door(self._folder.socket)
        except OSError as error:
            self._observer.warning(f"no node can join this run: {self._folder.path}: {error.strerror or error}")
            return None

    def _greeting(self) -> Greeting:
        network, settings = self._assignment.network, self._assignment.settings
        shape, pickled = network.input_shape, needs_same_python(network)
        hosts = None if settings.hosts is None else text_of(settings.hosts)
        return Greeting(VERSION, network.name, shape, settings.batch_size, pickled, settings.threads, hosts)

    def _start_nodes(self) -> None:
        for index, member in enumerate(self.members):
            if member.absent is None:
                self._admit(index, self._launcher.start(index))
                continue
            self._handle(NodeLost(index, self._now(), 0, 0, 0.0, 0, member.absent, may_return=member.may_return))
            if member.may_return:
                self._returns.add(index)
        self._write_nodes()

    def _admit(self, index: int, node: Node) -> None:
        self._nodes[index] = node
        self._buffer.set_live(index, True)
        self._selector.register(node, selectors.EVENT_READ, index)

    def close(self) -> None:
        """End and reap every node, free the shared memory; safe to call again, at any moment."""
        now = time.monotonic()
        for node in self._nodes.values():
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(node)
        for node in self._nodes.values():
            still_there = node.end(now if self.outcome is None else now + _STOP_SECONDS)
            if still_there:
                self._observer.warning(f"{node.name}: {still_there}")
        if self._nodes:
            self._nodes.clear()
            self._write_nodes()
        self._returns.close()
        outcome = self.outcome or Finish("stopped", "interrupted")
        self._joins.close(Ended(outcome.outcome, outcome.reason))
        self._selector.close()
        self._launcher.close()

    def _write_nodes(self) -> None:
        nodes = [
            {"name": node.name, "pid": node.pid, "host": node.host, "cores": list(self.members[index].cores) or None}
            for index, node in self._nodes.items()
        ]
        with contextlib.suppress(UserError):  # a list for onlookers: a full disk shows at the next checkpoint
            self._folder.write_nodes(nodes)

    @property
    def members(self) -> Sequence[Member]:
        """The nodes, in the order of the settings and of joining, lost ones included."""
        return self._launcher.members

    # ---- the loop ----------------------------------------------------------------------------------------------------

    def run(self) -> Finish:
        """Pump events until the coordinator finishes."""
        with takes_part(lambda: stopped(self._launcher.clock, self._nodes.values())):
            return self._pump()

    def _pump(self) -> Finish:
        tick = 0.0
        while self.outcome is None:
            for event in self._events(max(0.0, tick - time.monotonic())):
                self._handle(event)
            if time.monotonic() >= tick:
                missed = self._launcher.clock.missed()
                if missed:
                    self._observer.warning(note(missed, any(member.host for member in self.members)))
                self._attend_joins()
                self._attend_returns()
                self._handle(Tick(self._now()))
                self._show()
                now = time.monotonic()
                tick = now - now % _TICK_SECONDS + _TICK_SECONDS
        return self.outcome

    def stop(self, reason: str) -> None:
        """End the run now: nodes are told to stop."""
        self._execute(self.coordinator.stop(reason))

    def _events(self, timeout: float) -> Iterable[Event]:
        for key, _ in self._selector.select(timeout):
            index = key.data
            if index not in self._nodes:
                continue
            try:
                events = self._nodes[index].receive()
            except NodeGone as gone:
                yield self._bury(index, str(gone), gone.may_return)
                continue
            except Exception as error:
                yield self._give_up(index, error)
                continue
            for event in events:
                if index not in self._nodes:  # an event before was its last
                    break
                match event:
                    case Failed():
                        self._failed.add(index)
                    case Refused(reason=reason):
                        self._observer.submission_refused(self._nodes[index].name, reason)
                    case Ready():
                        self._ready.add(index)
                        self._write_nodes()  # a remote agent's process id is known by now
                yield replace(event, time=self._now())

    def _handle(self, event: Event) -> None:
        """Handle an event and those that its actions cause, in order: actions of one are done before the next."""
        self._pending.append(event)
        if len(self._pending) > 1:
            return
        while self._pending and self.outcome is None:
            actions = self._actions(self._pending[0])
            with contextlib.suppress(OSError):  # for onlookers, as nodes.json
                for entry in self.coordinator.reallocations():
                    self._folder.append_allocation(self.coordinator.epoch, entry)
            self._execute(actions)
            self._pending.popleft()
            if not self._clock.runs and self.coordinator.phase is Phase.TRAINING:
                self._start_clock()

    def _actions(self, event: Event) -> list[Action]:
        """Have the coordinator take an event. What goes wrong with a node's event is that node's end, not the run's."""
        try:
            return self.coordinator.handle(event)
        except Exception as error:
            if not isinstance(event, NodeEvent) or event.node not in self._nodes:
                raise
            return self.coordinator.handle(self._give_up(event.node, error))

    def _give_up(self, index: int, error: Exception) -> NodeLost:
        """Bury a node whose event could not be handled, for good; what happened is in its log."""
        name = self._nodes[index].name
        with (
            contextlib.suppress(OSError),
            self._folder.log(name).open("a", encoding="utf-8", errors="backslashreplace") as log,
        ):
            traceback.print_exception(error, file=log)
        self._failed.add(index)
        return self._bury(index, printable(f"what it said could not be handled: {type(error).__name__}: {error}", 500))

    def _start_clock(self) -> None:
        now = self._now()
        self._clock.start(now)
        if self.ready_at is not None:
            return
        self.ready_at = now
        names = tuple(profile.name for profile in self._assignment.outer.nodes)
        self._observer.started(names, len(self._assignment.train), self._assignment.settings.epochs)

    def _execute(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Send(node=index, message=message):
                    self._send(index, message)
                case Kill(node=index, reason=reason, for_good=for_good) if index in self._nodes:
                    if for_good:
                        self._failed.add(index)
                    self._handle(self._bury(index, reason))
                case MergeRound(scales=scales):
                    for index, scale in scales:
                        self._buffer.merge_for(index, scale)
                case EpochEnd():
                    self._record(action)
                case Finish():
                    self._clock.stop(self._now())
                    self.outcome = action if self._enough is None else replace(action, reason=self._enough)

    def _send(self, index: int, message: Message) -> None:
        if isinstance(message, Trial) and not self._measuring:
            self._measuring = True
            self._observer.setup("measuring each node's speed alone")
        if index in self._nodes:
            try:
                self._nodes[index].send(message)
            except NodeGone as gone:
                self._handle(self._bury(index, str(gone), gone.may_return))

    def _bury(self, index: int, reason: str, may_return: bool = False) -> NodeLost:
        """Kill and reap a node, finish what it had committed; from here on it cannot merge.

        A host may come back, unless its agent never got ready for a lasting reason, said that it cannot go on, or was
        lost again and again without having submitted anything.
        """
        node = self._nodes[index]
        self._selector.unregister(node)
        reason = "; ".join(filter(None, (reason, node.kill())))
        del self._nodes[index]
        submission = self._buffer.submission(index)
        quality = self._buffer.table().qualities[index] if submission.sequence else 0.0
        if self._assignment.settings.update == "sgwu":
            self._buffer.set_live(index, False)  # its round is still to be merged by MergeRound
        else:
            self._buffer.finish(index)
        remote = self.members[index].host is not None
        fruitless = self._fruitless.get(index, (-1, 0))
        self._fruitless[index] = submission.sequence, fruitless[1] + 1 if fruitless[0] == submission.sequence else 0
        may_return = remote and index not in self._failed and (may_return or index in self._ready)
        may_return = may_return and self._fruitless[index][1] < _MOST_FRUITLESS
        if may_return:
            self._returns.add(index)
        self._observer.node_lost(node.name, reason)
        self._write_nodes()
        return NodeLost(
            index,
            self._now(),
            submission.sequence,
            submission.samples,
            quality,
            submission.samples,
            reason,
            may_return,
        )

    def _attend_returns(self) -> None:
        """Take in the hosts that are back, give up those that never will be."""
        outcome = self._returns.attend()
        for index, node in outcome.back:
            self._admit(index, node)
            self._ready.add(index)
            if index in self._joining:
                self._joining.discard(index)
                self._observer.node_joined(node.name)
            else:
                self._observer.node_returned(node.name)
            self._write_nodes()
            self._handle(NodeReturned(index, self._now()))
        for index, reason in outcome.abandoned:
            self._handle(NodeAbandoned(index, self._now(), reason))

    def _attend_joins(self) -> None:
        """Take in who asks for it, let go who leaves."""
        wishes = self._joins.attend(self.coordinator.statuses, self.coordinator.epoch, self._assignment.settings.epochs)
        for wish in wishes:
            now = self._now()
            match wish:
                case Joining(index=index, profile=profile):
                    self._handle(NodeJoined(index, now, profile.name, profile.speed, profile.trusted))
                    self._failed.discard(index)
                    self._ready.discard(index)
                    self._joining.add(index)
                    self._returns.begin(index)
                case Leaving(index=index) if index in self._nodes:
                    self._failed.add(index)
                    self._handle(self._bury(index, LEFT))
                case Leaving(index=index) if self._returns.drop(index):
                    self._handle(NodeAbandoned(index, now, LEFT))

    # ---- epochs ------------------------------------------------------------------------------------------------------

    def _record(self, end: EpochEnd) -> None:
        """All nodes are paused: save, evaluate, tell; none of it counts as training time."""
        self._clock.stop(self._now())
        assignment, metrics = self._assignment, end.metrics
        weights = np.empty(assignment.network.size, np.float32)
        self._buffer.snapshot(weights)
        took = self._clock.cut(self.coordinator.counters().images_trained, self.coordinator.trained_ahead)
        row = EpochRow(end.epoch, took.seconds, metrics.loss, metrics.accuracy, math.nan, took.images_per_second)
        rows, state = (*self.rows, row), self.coordinator.state()
        optimizer = self._launcher.optimizer_states(self._nodes)
        checkpoint = Checkpoint(assignment.network, weights, end.epoch, state, rows, self._clock.ahead, optimizer)
        write_checkpoint(self._folder.last, checkpoint)
        best = self._evaluate(checkpoint)
        self._folder.write_metrics(self.rows)
        self._observer.epoch_ended(self.rows[-1], best)
        self._enough = reason_to_stop(self.rows, assignment.settings)
        self._handle(EpochRecorded(self._now(), self._enough is not None))

    def _evaluate(self, checkpoint: Checkpoint) -> bool:
        """Complete the checkpoint's last row; keep the checkpoint as the best one if it is. Return whether it is."""
        accuracy = self._evaluator.accuracy(checkpoint.weights, self._assignment.measured)
        best = all(accuracy > row.test_accuracy for row in self.rows)
        if best:
            best_one = replace(checkpoint, state=None, rows=(), ahead=NOTHING, optimizer=None)
            write_checkpoint(self._folder.best, best_one)
        self.rows.append(replace(checkpoint.rows[-1], test_accuracy=accuracy))
        return best

    @property
    def train_seconds(self) -> float:
        """Training time of this part of the run, without checkpoints and evaluation."""
        return self._clock.total

    def _show(self) -> None:
        if not self._clock.runs:
            return
        trained = self.coordinator.counters().images_trained
        self._observer.progress(
            Snapshot(
                self.coordinator.epoch,
                self._assignment.settings.epochs,
                self.coordinator.trained_in_epoch,
                len(self._assignment.train),
                self._clock.speed(self._now(), trained),
                self.coordinator.statuses(),
            )
        )
