"""A run in virtual time: the real coordinator with simulated nodes, deaths and message delays; no clock.

Nodes train nothing, or, given a `Learner`, real weights (benchmarks/agwu_rules.py).

    clock: (time, what) -> node trains a batch, commits, merges, reports -> Coordinator.handle -> actions -> clock

The simulator keeps its own books: at each epoch's end every sample must have been committed exactly once, every live
node must stand still, and a synchronous merge must take in exactly what was staged; AssertionError otherwise.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np

from bptcnn.outer.coordinator import Coordinator
from bptcnn.outer.messages import (
    Action,
    EpochEnd,
    EpochRecorded,
    Event,
    Finish,
    Heartbeat,
    Kill,
    MergeRound,
    Message,
    NodeAbandoned,
    NodeEvent,
    NodeJoined,
    NodeLost,
    NodeReturned,
    Outcome,
    Pause,
    Paused,
    Refused,
    Resume,
    Send,
    Tick,
    Work,
)
from bptcnn.outer.node_record import NodeStatus
from bptcnn.outer.settings import RunSettings
from bptcnn.outer.simulated_node import Clock, Learner, Node, SimulatedNode, World
from bptcnn.outer.state import CoordinatorState, Counters

RETRY_SECONDS = 0.05  # a node that is back waits for the merge of its last submission


@dataclass(frozen=True, slots=True)
class Conditions:
    """What surrounds the nodes: seconds of message delay (at most), of a merge, of an evaluation, of noticing a death.

    `least_delay`: seconds of message delay at least. `staleness`: nodes more than so many updates behind submit early.
    `stop_at`: when the user stops the run; `target_epoch`: the epoch at whose end the target is reached; `hurdle`: the
    virtual time by which the run must be over.
    """

    delay: float = 0.002
    least_delay: float = 0.0
    merge_seconds: float = 0.005
    evaluation_seconds: float = 0.5
    notice_seconds: float = 0.5
    staleness: int | None = None
    stop_at: float | None = None
    target_epoch: int | None = None
    hurdle: float = 1e6
    seed: int = 0


@dataclass(frozen=True, slots=True)
class SimulatedRun:
    """How it went. `seconds` is training time, evaluations left out; efficiency is against the nodes' summed speed."""

    outcome: Outcome
    reason: str
    seconds: float
    efficiency: float
    counters: Counters
    epochs_ended: int
    statuses: tuple[NodeStatus, ...]
    shares: tuple[tuple[float, ...], ...]  # of each node, at each epoch's end
    states: tuple[CoordinatorState, ...]  # at each epoch's end
    submissions: int
    returns: int  # of lost nodes
    joins: int  # of nodes that got ready


class Simulation:
    """One run; `validate` checks the coordinator after every event."""

    def __init__(
        self,
        settings: RunSettings,
        nodes: tuple[SimulatedNode, ...],
        conditions: Conditions,
        state: CoordinatorState | None = None,
        validate: bool = True,
        learner: Learner | None = None,
    ) -> None:
        fates = ((told.fate_at, told.fate_after_commit, told.join_at) for told in nodes)
        if learner and (any(told.travel for told in nodes) or any(fate != (None, None, None) for fate in fates)):
            raise ValueError("a learner plays neither nodes behind a link nor nodes that are lost or join")
        self._conditions = conditions
        self._validate = validate
        self._coordinator = Coordinator(settings, state)
        self._inherited = state.counters.images_redone if state else 0
        self._random = np.random.default_rng([conditions.seed, 7])
        self._clock = Clock()
        self._world = World(
            settings,
            conditions.merge_seconds,
            self._clock,
            self._random,
            self._report,
            self._die,
            conditions.staleness,
            learner,
        )
        self._nodes = [Node(node, told, self._world) for node, told in enumerate(nodes) if told.join_at is None]
        assert len(self._nodes) == len(settings.nodes), "each node of the settings is there from the start"
        self._joining = [told for told in nodes if told.join_at is not None]
        self._joined: dict[int, float] = {}  # when nodes got ready that were not there at the start
        self._started: float | None = None
        self._evaluating = 0.0
        if state:
            self._world.ended = state.epoch
            self._world.seen[state.epoch + 1] = state.ahead.astype(np.int64)
        self._heard: dict[int, int] = {}  # samples that a node has trained over its lives, as far as events say
        self._redone = 0
        self._finish: Finish | None = None
        self._shares: list[tuple[float, ...]] = []
        self._states: list[CoordinatorState] = []

    def run(self) -> SimulatedRun:
        """Play all events; AssertionError if the run breaks a guarantee or does not end."""
        for node in self._nodes:
            node.start()
        self._clock.at(0.0, self._tick)
        for told in self._joining:
            self._clock.at(told.join_at or 0.0, partial(self._make_place, told))
        if self._conditions.stop_at is not None:
            reason = "stopped by the user"
            self._clock.at(self._conditions.stop_at, lambda: self._execute(self._coordinator.stop(reason)))
        while self._finish is None:
            what = self._clock.next()
            assert self._clock.now < self._conditions.hurdle, f"the run hangs: {self._coordinator.phase}"
            what()
        seconds = self._clock.now - (self._started or 0.0) - self._evaluating
        counters = self._coordinator.counters()
        trained = sum(status.totals.images for status in self._coordinator.statuses())
        trained += sum(node.totals.images for node in self._coordinator.departed())
        assert trained == counters.images_trained, "the nodes' images do not add up to the run's"
        assert self._inherited + self._redone == counters.images_redone, "images redone are miscounted"
        ideal = sum(self._possible(node, seconds) for node in self._nodes)
        return SimulatedRun(
            self._finish.outcome,
            self._finish.reason,
            seconds,
            counters.images_trained / ideal if ideal > 0 else 0.0,
            counters,
            self._world.ended,
            self._coordinator.statuses(),
            tuple(self._shares),
            tuple(self._states),
            self._world.submissions,
            sum(max(0, node.life) for node in self._nodes),
            len(self._joined),
        )

    def _possible(self, node: Node, seconds: float) -> float:
        """Images that the node could have trained while it was there."""
        if node.told.join_at is None:
            return node.told.speed * seconds
        return node.told.speed * (self._clock.now - self._joined.get(node.node, self._clock.now))

    def _delay(self) -> float:
        return float(self._random.uniform(self._conditions.least_delay, self._conditions.delay))

    def _tick(self) -> None:
        for node in self._nodes:
            if not (node.dead or node.stopped):
                self._report(node, Heartbeat(node.node, self._clock.now, node.trained))
        self._give(Tick(self._clock.now))
        self._clock.after(1.0, self._tick)

    # ---- the coordinator's side --------------------------------------------------------------------------------------

    def _give(self, event: Event) -> None:
        if self._finish is None:
            self._enter(event)
            self._execute(self._coordinator.handle(event))
            if self._validate:
                self._coordinator.validate()

    def _enter(self, event: Event) -> None:
        """Keep books of what was trained in vain, as far as events tell; a lost node's count no more."""
        if not isinstance(event, Heartbeat | Refused | NodeLost):
            return
        node = self._nodes[event.node]
        if isinstance(event, NodeLost):
            self._redone += max(0, self._heard.pop(event.node, 0) - node.committed)
        elif node.cut:
            return
        elif isinstance(event, Refused):
            self._redone += event.samples
            self._heard.pop(event.node, None)
        elif isinstance(event, Heartbeat):
            self._heard[event.node] = max(self._heard.get(event.node, 0), node.before + event.samples_trained)

    def _execute(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Send(node=node, message=message):
                    self._send(self._nodes[node], message)
                case Kill():
                    self._die(self._nodes[action.node], action.reason)
                case MergeRound():
                    self._merge(action)
                case EpochEnd():
                    self._end_epoch(action)
                case Finish():
                    self._finish = action

    def _send(self, node: Node, message: Message) -> None:
        now = self._clock.now
        node.last_delivery = max(node.last_delivery, now + self._delay())
        node.at(node.last_delivery, lambda: self._deliver(node, message))
        if node.linked and isinstance(message, Pause):
            node.hold()
            node.at(max(now, node.last_arrival), lambda: self._give(Paused(node.node, self._clock.now)))
        elif node.linked and isinstance(message, Resume):
            node.let_go()

    def _deliver(self, node: Node, message: Message) -> None:
        if self._started is None and isinstance(message, Work):
            self._started = self._clock.now
        node.deliver(message)

    def _merge(self, merge: MergeRound) -> None:
        staged = [node.node for node in self._nodes if node.staged]
        assert staged == [node for node, _ in merge.scales], "a merge missed or invented a submission"
        assert abs(sum(scale for _, scale in merge.scales) - 1.0) < 1e-9, "a merge's scales do not sum to 1"
        for node in self._nodes:
            node.staged = False
        if self._world.learner:
            self._world.learner.merge(merge.scales, self._clock.now)
        self._world.updates += 1

    def _end_epoch(self, end: EpochEnd) -> None:
        world = self._world
        assert end.epoch == world.ended + 1, f"epoch {end.epoch} ended after epoch {world.ended}"
        assert np.all(world.seen[end.epoch] == 1), f"epoch {end.epoch} did not train each sample once"
        moving = [node.node for node in self._nodes if not node.still]
        assert not moving, f"epoch {end.epoch} ended while nodes {moving} were moving"
        assert not any(node.staged for node in self._nodes), "an epoch ended with a submission not merged"
        if self._world.learner is None:
            assert not end.metrics.samples or abs(end.metrics.loss - 1.0) < 1e-9, "the epoch's loss is not the mean"
        world.ended = end.epoch
        self._shares.append(tuple(status.share for status in self._coordinator.statuses()))
        self._states.append(self._coordinator.state())
        seconds = self._conditions.evaluation_seconds
        stop = self._conditions.target_epoch == end.epoch

        def recorded() -> None:
            self._evaluating += seconds
            self._give(EpochRecorded(self._clock.now, stop))

        self._clock.after(seconds, recorded)

    # ---- the nodes' side ---------------------------------------------------------------------------------------------

    def _report(self, node: Node, event: NodeEvent) -> None:
        node.last_arrival = max(node.last_arrival, self._clock.now + self._delay())
        node.at(node.last_arrival, lambda: self._give(event))

    def _die(self, node: Node, reason: str) -> None:
        """The node is dead from now on; the driver notices, reaps it and reports what it had committed."""
        node.dead = True
        node.later(float(self._random.uniform(0.0, self._conditions.notice_seconds)), lambda: self._bury(node, reason))

    def _bury(self, node: Node, reason: str) -> None:
        if node.cut:
            return
        told, now = node.told, self._clock.now
        node.cut = True
        node.away = told.return_after is not None or told.abandon_after is not None
        self._give(
            NodeLost(node.node, now, node.sequence, node.committed, node.quality, node.committed, reason, node.away)
        )
        if told.return_after is not None:
            node.later(told.return_after, lambda: self._bring_back(node))
        if told.abandon_after is not None:
            node.later(told.abandon_after, lambda: self._abandon(node))
        if told.join_again_after is not None and not node.away:
            node.later(told.join_again_after, lambda: self._let_join(node, 0.0))

    def _make_place(self, told: SimulatedNode) -> None:
        node = Node(len(self._nodes), told, self._world)
        node.stay_out()
        self._nodes.append(node)
        self._let_join(node, told.late)
        if told.abandon_after is not None:
            node.later(told.abandon_after, lambda: self._abandon(node))

    def _let_join(self, node: Node, seconds: float) -> None:
        """It asks to join, and is ready in so many seconds."""
        node.away = True
        self._give(NodeJoined(node.node, self._clock.now, f"joined{node.node}", node.told.speed))
        node.later(seconds, lambda: self._bring_back(node))

    def _bring_back(self, node: Node) -> None:
        if not node.away:
            return
        if node.staged:
            node.later(RETRY_SECONDS, lambda: self._bring_back(node))
            return
        node.rise()
        if node.life == 0:
            self._joined[node.node] = self._clock.now
        self._give(NodeReturned(node.node, self._clock.now))

    def _abandon(self, node: Node) -> None:
        if node.away:
            node.away = False
            self._give(NodeAbandoned(node.node, self._clock.now, "given up"))


def simulate(
    settings: RunSettings,
    nodes: tuple[SimulatedNode, ...],
    conditions: Conditions | None = None,
    state: CoordinatorState | None = None,
    validate: bool = True,
    learner: Learner | None = None,
) -> SimulatedRun:
    """Play a whole run in virtual time; nodes[j] plays settings.nodes[j], those with `join_at` join as they say.

    Same arguments, same run. ValueError for a `learner` over nodes that it cannot play.
    """
    return Simulation(settings, nodes, conditions or Conditions(), state, validate, learner).run()
