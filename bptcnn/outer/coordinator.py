"""The coordinator: a state machine, events in, actions out. No I/O, no clock: times come with the events.

    STARTING --all live ready, measured-> TRAINING --epoch complete-> PAUSING --all live paused--> RECORDING
                                         ^                                          EpochEnd -'     |
                                         +------------------------ EpochRecorded -------------------+--> FINISHED

Guarantees:
- every epoch trains each of its N samples exactly once (the ledger's guarantee), whatever nodes die when;
- while a live node owes something, an event will come from it, or it is killed for silence or lack of progress; while
  none does, the state moves on by itself; while none is live, one returns or all are given up after a time: so the run
  ends as long as the driver executes actions and ticks;
- EpochEnd is given once per epoch, with all live nodes paused and everything committed merged;
- a node is at most one epoch ahead (under SGWU, or alone: none);
- a run on one node does not depend on time: it repeats bit for bit, until another one joins.
"""

from bptcnn.outer.barrier import Barrier
from bptcnn.outer.deadlines import Deadlines
from bptcnn.outer.hand_out import HandOut
from bptcnn.outer.history import Cause, Reallocation
from bptcnn.outer.ledger import UNOWNED, Ledger
from bptcnn.outer.messages import (
    MOST_REFUSALS,
    Action,
    EpochEnd,
    EpochMetrics,
    EpochRecorded,
    Event,
    Failed,
    Finish,
    Heartbeat,
    Kill,
    Message,
    NodeAbandoned,
    NodeEvent,
    NodeJoined,
    NodeLost,
    NodeReturned,
    Outcome,
    Pause,
    Paused,
    Ready,
    Refused,
    Release,
    Resume,
    Send,
    Stop,
    Submitted,
    Tick,
    Tried,
)
from bptcnn.outer.node_record import NodeRecord, NodeStatus
from bptcnn.outer.phase import Phase
from bptcnn.outer.planner import Planner
from bptcnn.outer.roster import Roster
from bptcnn.outer.settings import NodeProfile, RunSettings
from bptcnn.outer.state import CoordinatorState, Counters, NodeState, Tally
from bptcnn.outer.trials import Trials


class Coordinator:
    """One run's coordinator; with `state` it goes on from a checkpoint, on the same nodes or others."""

    def __init__(self, settings: RunSettings, state: CoordinatorState | None = None) -> None:
        self._settings = settings
        self._roster = Roster(settings, state)
        self._records = self._roster.records
        self._state = state
        owners = None
        self._epoch = 1
        self._base = Counters()
        self._tallies: dict[int, Tally] = {}
        if state is not None:
            owners = state.owners_among(self._roster.names, settings.samples)
            self._epoch = state.epoch + 1
            self._base = state.counters
            self._tallies[self._epoch] = state.ahead_tally
        self._ledger = Ledger(settings.samples, len(self._records), settings.seed, owners)
        self._planner = Planner(settings, self._ledger, self._records)
        self._hand_out = HandOut(settings, self._ledger, self._planner)
        self._deadlines = Deadlines(settings, self._records, self._planner.seconds_per_sample)
        self._trials = Trials(settings, self._records)
        self._barrier = Barrier() if settings.update == "sgwu" else None
        self._phase = Phase.STARTING
        self._submissions = 0
        self._now = 0.0
        self._last_lost = ""
        self._actions: list[Action] = []

    # ---- reading -----------------------------------------------------------------------------------------------------

    @property
    def phase(self) -> Phase:
        """Where the run stands."""
        return self._phase

    @property
    def epoch(self) -> int:
        """The epoch being trained, from 1."""
        return self._epoch

    @property
    def trained_in_epoch(self) -> int:
        """Samples of the current epoch that are trained."""
        return self._ledger.trained_count(self._epoch) if self._ledger.is_open(self._epoch) else 0

    @property
    def trained_ahead(self) -> int:
        """Samples of the next epoch that are trained."""
        ahead = self._epoch + 1
        return self._ledger.trained_count(ahead) if self._ledger.is_open(ahead) else 0

    def counters(self) -> Counters:
        """Totals of the run, earlier parts of a resumed one included. SGWU's updates are merges."""
        trained = sum(self._ledger.committed(record.node) for record in self._records)
        return Counters(
            self._base.images_trained + trained,
            self._base.images_redone + self._ledger.images_redone,
            self._base.updates + (self._barrier.merges if self._barrier else self._submissions),
            self._base.waiting_seconds + (self._barrier.waiting_seconds if self._barrier else 0.0),
        )

    def statuses(self) -> tuple[NodeStatus, ...]:
        """A snapshot of every node, in the order of the settings and of joining, lost ones included."""
        return self._roster.statuses(self._planner.speeds(), self._ledger.shard_sizes())

    def reallocations(self) -> list[Reallocation]:
        """What became of the shards since this was last asked for, in order."""
        return self._planner.reallocations()

    def departed(self) -> tuple[NodeState, ...]:
        """Nodes that took part before the run was resumed without them: their share of the run's totals."""
        return self._roster.departed

    def state(self) -> CoordinatorState:
        """What a checkpoint keeps; only between EpochEnd and EpochRecorded (RuntimeError otherwise)."""
        if self._phase is not Phase.RECORDING:
            raise RuntimeError(f"the coordinator's state can be taken at an epoch's end only, not while {self._phase}")
        ahead = self._epoch + 1
        tally = self._tallies.get(ahead, Tally())
        return CoordinatorState(
            self._epoch,
            self._settings.samples,
            self._roster.states(),
            self.counters(),
            tally,
            self._ledger.owners(),
            self._ledger.trained(ahead),
        )

    # ---- events ------------------------------------------------------------------------------------------------------

    def handle(self, event: Event) -> list[Action]:
        """Take one event and return what to do, in order. A lost node's messages are ignored.

        Raises ValueError for an event that cannot be (a count that runs backwards). A node's event is looked at before
        anything changes, so the driver can go on, without that node: actions that are due come with the next event's.
        """
        if self._phase is Phase.FINISHED:
            return []
        self._spend(event.time)
        follows = not isinstance(event, Heartbeat)  # what it tells is judged at Ticks
        match event:
            case Tick():
                follows = self._on_tick()
            case EpochRecorded():
                self._on_recorded(event)
            case NodeLost():
                if not self._records[event.node].lost:
                    self._on_lost(self._records[event.node], event)
            case NodeJoined():
                self._on_joined(event)
            case NodeReturned():
                self._on_returned(self._records[event.node])
            case NodeAbandoned():
                self._on_abandoned(self._records[event.node], event)
            case _:
                record = self._records[event.node]
                if not record.lost:
                    record.heard = event.time
                    record.spoke = True
                    self._on_message(record, event)
        if follows:
            self._advance()
        actions, self._actions = self._actions, []
        return actions

    def stop(self, reason: str) -> list[Action]:
        """End the run now: Stop to every live node, then Finish."""
        if self._phase is not Phase.FINISHED:
            self._finish("stopped", reason)
        actions, self._actions = self._actions, []
        return actions

    def _spend(self, time: float) -> None:
        """Time has passed since the last event, in whatever phase that left."""
        seconds, recording = time - self._now, self._phase is Phase.RECORDING
        if recording or self._phase in (Phase.TRAINING, Phase.PAUSING):
            for record in self._roster.live():
                record.spend(seconds, recording)
        self._now = self._planner.now = time

    def _on_message(self, record: NodeRecord, event: NodeEvent) -> None:
        match event:
            case Ready() if not record.ready:
                record.ready = True
                record.moved = event.time
            case Tried() if record.trying:
                record.add_trial(event)
            case Submitted():
                self._on_submitted(record, event)
            case Refused():
                self._ledger.redo(record.node, event.samples)
                record.refuse(self._ledger.committed(record.node))
                record.moved = event.time
                if record.refusals > MOST_REFUSALS:  # it should have said Failed
                    self._condemn(record, f"it refused its samples {record.refusals} times in a row", for_good=True)
            case Paused():
                record.add_wait(event.wait_seconds)
                if self._phase is Phase.PAUSING:
                    record.paused = True
                    record.moved = event.time
            case Heartbeat():
                record.progress(event.samples_trained, self._ledger.sent(record.node), event.time)
            case Failed():
                self._condemn(record, event.reason)

    def _on_submitted(self, record: NodeRecord, event: Submitted) -> None:
        submissions = self._new_submissions(record, event)
        self._ledger.commit(record.node, event.samples_committed)
        record.add(event)
        self._deadlines.delivered(record, event.samples, self._ledger.outstanding(record.node), event.time)
        record.moved = event.time
        self._submissions += submissions
        tally = self._tallies.get(event.epoch, Tally())
        self._tallies[event.epoch] = tally.plus(event.samples, event.loss_sum, event.correct)
        if self._barrier:
            self._barrier.submit(record.node, event.quality, event.time)

    def _new_submissions(self, record: NodeRecord, event: Submitted) -> int:
        """Return how many submissions are reported; raise ValueError, before anything changes, for what cannot be."""
        submissions = event.sequence - record.sequence
        if submissions < 1:
            raise ValueError(f"node {record.name}: submission {event.sequence} after {record.sequence}")
        committed = self._ledger.would_commit(record.node, event.samples_committed)
        if committed != [(event.epoch, event.samples)]:
            raise ValueError(f"node {record.name} reports {event.samples} samples of epoch {event.epoch}: {committed}")
        if not 0 <= event.correct <= event.samples:
            raise ValueError(f"node {record.name} reports {event.correct} right of {event.samples} samples")
        if self._barrier and self._barrier.holds(record.node):
            raise ValueError(f"node {record.name} submitted twice without being released")
        return submissions

    def _on_lost(self, record: NodeRecord, event: NodeLost) -> None:
        record.lost = True
        record.away = event.may_return
        record.reason_lost = self._last_lost = event.reason
        trained = max(event.samples_trained, record.samples_trained)
        committed = self._ledger.lose(record.node, event.samples_committed, trained)
        unreported = event.sequence - record.sequence
        if (unreported > 0) != bool(committed):
            raise ValueError(f"node {record.name}: {unreported} unreported submissions with {committed} samples")
        record.add_unreported(sum(samples for _, samples in committed), unreported)
        record.sequence = event.sequence
        self._submissions += unreported
        if self._barrier and unreported:
            self._barrier.submit(record.node, event.quality, event.time)
        self._deadlines.lost(event.time)
        self._planner.lost(record)

    def _on_joined(self, event: NodeJoined) -> None:
        record = self._roster.join(event.node, NodeProfile(event.name, event.speed, event.trusted))
        if record.node == self._ledger.nodes:
            self._ledger.add_node()

    def _on_returned(self, record: NodeRecord) -> None:
        if not record.lost:
            raise ValueError(f"node {record.name} returned without being lost")
        if self._barrier and self._barrier.holds(record.node):
            raise ValueError(f"node {record.name} returned before its last submission was merged")
        # while TRAINING it goes on like the others; else it gets their Resume, which it ignores
        resting = self._phase in (Phase.PAUSING, Phase.RECORDING)
        cause: Cause = "join" if record.joining else "return"
        record.revive(self._now, self._ledger.committed(record.node), resting)
        self._deadlines.returned()
        self._planner.returned(record, cause, self._epoch if self._phase is Phase.TRAINING else None)

    def _on_abandoned(self, record: NodeRecord, event: NodeAbandoned) -> None:
        if not record.lost:
            raise ValueError(f"node {record.name} was abandoned without being lost")
        record.away = False
        record.reason_lost = self._last_lost = event.reason

    def _on_recorded(self, event: EpochRecorded) -> None:
        if self._phase is not Phase.RECORDING:
            raise ValueError(f"an epoch was recorded while {self._phase}")
        self._ledger.close(self._epoch)
        self._tallies.pop(self._epoch, None)
        if event.stop or self._epoch >= self._settings.epochs:
            done = self._epoch >= self._settings.epochs
            self._finish("completed" if done else "stopped", f"{self._epoch} epochs trained")
            return
        self._epoch += 1
        if not self._ledger.is_open(self._epoch):
            self._ledger.open(self._epoch)
        self._planner.balance(self._epoch)
        # a short epoch may have been trained whole before the pause: then the nodes stay paused for its end
        self._phase = Phase.PAUSING if self._ledger.is_complete(self._epoch) else Phase.TRAINING
        if self._phase is Phase.TRAINING:
            for record in self._roster.live():
                record.paused = False
                self._send(record, Resume())

    def _on_tick(self) -> bool:
        """Judge who has missed a deadline; return whether anything follows."""
        if not self._deadlines.tick(self._now):
            return False
        for record in self._roster.live():
            missed = self._deadlines.missed(record, self._owes(record), self._in_hand(record), self._now)
            if missed:
                self._condemn(record, missed.reason, missed.for_good)
        late = self._trials.give_up(self._now)
        if self._deadlines.hopeless(self._now):
            for record in self._records:
                record.away = False
            return True
        return late or bool(self._actions)

    # ---- what follows from the state ---------------------------------------------------------------------------------

    def _advance(self) -> None:
        """Do all that the state allows; called after every event from which anything may follow."""
        if self._phase is Phase.STARTING and self._roster.is_ready():
            trial = self._trials.begin(self._settings.epochs - self._epoch + 1)
            if trial:
                self._send(*trial)
            elif not self._trials.under_way:
                self._start()
        if self._phase is Phase.TRAINING:
            self._merge()
            if self._ledger.is_complete(self._epoch):
                self._phase = Phase.PAUSING
                for record in self._roster.live():
                    self._send(record, Pause())
            else:
                self._planner.foresee(self._epoch)
                self._planner.replenish(self._epoch)
                ahead = self._may_start_next()
                self._planner.relieve(self._epoch, ahead)
                for record in self._roster.healthy():
                    for work in self._hand_out.feed(record, self._epoch, ahead, self._now):
                        self._send(record, work)
        if self._phase is Phase.PAUSING and all(record.paused for record in self._roster.live()):
            self._phase = Phase.RECORDING
            tally = self._tallies.get(self._epoch, Tally())
            seen = max(1, tally.samples)
            metrics = EpochMetrics(tally.samples, tally.loss_sum / seen, tally.correct / seen)
            self._actions.append(EpochEnd(self._epoch, metrics))
        if self._phase in (Phase.STARTING, Phase.TRAINING) and not self._roster.hopeful():
            self._finish("failed", f"every node is lost, the last one: {self._last_lost}")

    def _start(self) -> None:
        self._phase = Phase.TRAINING
        if self._epoch > self._settings.epochs:
            self._finish("completed", "all epochs were trained before")
        elif self._state is None:
            self._ledger.open(self._epoch)
            self._planner.allocate_round()
        else:
            self._planner.adopt()
            self._ledger.open(self._epoch, self._state.ahead)
            self._planner.balance(self._epoch)

    def _merge(self) -> None:
        if self._barrier is None:
            return
        owing = [record.node for record in self._roster.live() if self._ledger.outstanding(record.node)]
        waiting = [record for record in self._roster.live() if self._barrier.holds(record.node)]
        merge = self._barrier.merge(owing)
        if merge:
            self._actions.append(merge)
            for record in waiting:
                self._send(record, Release())

    def _may_start_next(self) -> bool:
        """Whether nodes without samples of this epoch may go on to the next one."""
        asynchronous = self._barrier is None and not self._roster.alone
        return asynchronous and self._epoch < self._settings.epochs and not self._ledger.unallocated

    # ---- nodes -------------------------------------------------------------------------------------------------------

    def _owes(self, record: NodeRecord) -> bool:
        """Whether the node has something to do that does not depend on others."""
        if self._phase is Phase.STARTING:
            return record.trying
        if self._phase is Phase.PAUSING:
            return not record.paused
        return self._in_hand(record) > 0

    def _in_hand(self, record: NodeRecord) -> int:
        """Samples that the node is to train now."""
        trains = self._phase is Phase.TRAINING and not (self._barrier and self._barrier.holds(record.node))
        return self._ledger.outstanding(record.node) if trains else 0

    def _condemn(self, record: NodeRecord, reason: str, for_good: bool = False) -> None:
        """Have the node killed; its samples move when it is lost."""
        if record.healthy:
            record.condemned = True
            self._actions.append(Kill(record.node, reason, for_good))

    def _send(self, record: NodeRecord, message: Message) -> None:
        self._deadlines.sent(record, message, self._now)
        self._actions.append(Send(record.node, message))

    def _finish(self, outcome: Outcome, reason: str) -> None:
        self._phase = Phase.FINISHED
        for record in self._roster.live():
            self._send(record, Stop())
        self._actions.append(Finish(outcome, reason))

    def validate(self) -> None:
        """Check the machine and its ledger, O(N); AssertionError names what is broken. For tests and simulations."""
        self._ledger.validate()
        owners = set(self._ledger.owners().tolist()) - {UNOWNED}
        live = self._roster.live()
        hope = self._roster.hopeful()
        assert hope or self._phase in (Phase.RECORDING, Phase.FINISHED), "the run goes on though no node can be live"
        if live:
            assert not any(self._records[owner].lost for owner in owners), "a lost node owns samples"
        for record in live:
            committed, sent = self._ledger.committed(record.node), self._ledger.sent(record.node)
            assert committed <= record.samples_trained <= sent, f"{record.name} trained what it was not sent, or less"
        if self._barrier:
            held = [record.node for record in self._records if self._barrier.holds(record.node)]
            assert live or not held, "a merge waits for nobody"
        if self._phase is Phase.TRAINING:
            assert not any(record.paused for record in live), "a paused node while training"
            assert not self._ledger.is_complete(self._epoch), "a complete epoch goes on"
            condemned = any(record.condemned for record in live)
            owed = any(self._owes(record) for record in live)
            assert condemned or owed or not live, "no event can come: the run hangs"
        if self._phase is Phase.PAUSING:
            assert not all(record.paused for record in live), "all are paused but the epoch does not end"
        if self._phase is Phase.RECORDING:
            assert self._ledger.is_complete(self._epoch), "an incomplete epoch was ended"
