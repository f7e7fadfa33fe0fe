"""A run in virtual time: the real coordinator with simulated nodes, deaths and message delays; no weights, no clock.

    heap of (time, what) -> node trains a batch, commits, merges, reports -> Coordinator.handle -> actions -> heap

The simulator keeps its own books: at each epoch's end every sample must have been committed exactly once, every live
node must stand still, and a synchronous merge must take in exactly what was staged; AssertionError otherwise.
"""

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from bptcnn.outer.coordinator import Coordinator
from bptcnn.outer.messages import (
    Action,
    EpochEnd,
    EpochRecorded,
    Event,
    Failed,
    Finish,
    Heartbeat,
    Kill,
    MergeRound,
    Message,
    NodeEvent,
    NodeLost,
    Outcome,
    Pause,
    Paused,
    Ready,
    Release,
    Resume,
    Send,
    Stop,
    Submitted,
    Tick,
    Work,
)
from bptcnn.outer.node_record import NodeStatus
from bptcnn.outer.settings import RunSettings
from bptcnn.outer.state import CoordinatorState, Counters

Fate = Literal["dies", "hangs", "fails"]


@dataclass(frozen=True, slots=True)
class SimulatedNode:
    """A node that trains `speed` images/s, `drift` times that from `drift_at` seconds on.

    `fate_at`: when it dies (noticed by its exit), hangs (noticed by silence) or fails (says so); or, with
    `fate_after_commit` = n, right after its n-th commit, before anybody is told. `late`: seconds until it is ready.
    """

    speed: float
    drift: float = 1.0
    drift_at: float = 0.0
    fate: Fate = "dies"
    fate_at: float | None = None
    fate_after_commit: int | None = None
    late: float = 0.0


@dataclass(frozen=True, slots=True)
class Conditions:
    """What surrounds the nodes: seconds of message delay (at most), of a merge, of an evaluation, of noticing a death.

    `stop_at`: when the user stops the run; `target_epoch`: the epoch at whose end the target is reached; `hurdle`: the
    virtual time by which the run must be over.
    """

    delay: float = 0.002
    merge_seconds: float = 0.005
    evaluation_seconds: float = 0.5
    notice_seconds: float = 0.5
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


@dataclass(slots=True)
class _Node:
    """A simulated node and what it has in shared memory (the last five fields but one)."""

    node: int
    told: SimulatedNode
    stream: deque[tuple[int, int]] = field(default_factory=deque)  # (epoch, sample)
    iteration: list[tuple[int, int]] = field(default_factory=list)
    steps: int = 0
    local_steps: int = 1
    busy: bool = False
    dead: bool = False
    pausing: bool = False
    paused: bool = False
    waits: bool = False
    stopped: bool = False
    trained: int = 0
    seconds: float = 0.0
    timed_samples: int = 0
    timed_seconds: float = 0.0
    sequence: int = 0
    committed: int = 0
    quality: float = 0.0
    staged: bool = False
    base_version: int = 0
    last_arrival: float = 0.0
    last_delivery: float = 0.0


class Simulation:
    """One run; `validate` checks the coordinator after every event."""

    def __init__(
        self,
        settings: RunSettings,
        nodes: tuple[SimulatedNode, ...],
        conditions: Conditions,
        state: CoordinatorState | None = None,
        validate: bool = True,
    ) -> None:
        self._settings = settings
        self._conditions = conditions
        self._validate = validate
        self._coordinator = Coordinator(settings, state)
        self._nodes = [_Node(node, told) for node, told in enumerate(nodes)]
        self._random = np.random.default_rng([conditions.seed, 7])
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._counter = 0
        self._now = 0.0
        self._started: float | None = None
        self._evaluating = 0.0
        self._updates = 0
        self._submissions = 0
        self._ended = state.epoch if state else 0
        self._seen: dict[int, npt.NDArray[np.int64]] = {}
        if state:
            self._seen[state.epoch + 1] = state.ahead.astype(np.int64)
        self._finish: Finish | None = None
        self._shares: list[tuple[float, ...]] = []
        self._states: list[CoordinatorState] = []

    def run(self) -> SimulatedRun:
        """Play all events; AssertionError if the run breaks a guarantee or does not end."""
        for node in self._nodes:
            self._at(node.told.late, lambda node=node: self._ready(node))  # type: ignore[misc]
            if node.told.fate_at is not None:
                self._at(node.told.fate_at, lambda node=node: self._meet_fate(node))  # type: ignore[misc]
        self._at(0.0, self._tick)
        if self._conditions.stop_at is not None:
            self._at(self._conditions.stop_at, lambda: self._execute(self._coordinator.stop("stopped by the user")))
        while self._finish is None:
            assert self._heap, "nothing can happen any more, but the run is not over"
            self._now, _, what = heapq.heappop(self._heap)
            assert self._now < self._conditions.hurdle, f"the run hangs: {self._coordinator.phase}"
            what()
        seconds = self._now - (self._started or 0.0) - self._evaluating
        counters = self._coordinator.counters()
        trained = sum(status.totals.images for status in self._coordinator.statuses())
        trained += sum(node.totals.images for node in self._coordinator.departed())
        assert trained == counters.images_trained, "the nodes' images do not add up to the run's"
        ideal = sum(node.told.speed for node in self._nodes) * seconds
        return SimulatedRun(
            self._finish.outcome,
            self._finish.reason,
            seconds,
            counters.images_trained / ideal if ideal > 0 else 0.0,
            counters,
            self._ended,
            self._coordinator.statuses(),
            tuple(self._shares),
            tuple(self._states),
            self._submissions,
        )

    # ---- time --------------------------------------------------------------------------------------------------------

    def _at(self, time: float, what: Callable[[], None]) -> None:
        self._counter += 1
        heapq.heappush(self._heap, (time, self._counter, what))

    def _after(self, seconds: float, what: Callable[[], None]) -> None:
        self._at(self._now + seconds, what)

    def _delay(self) -> float:
        return float(self._random.uniform(0.0, self._conditions.delay))

    def _tick(self) -> None:
        for node in self._nodes:
            if not (node.dead or node.stopped):
                self._report(node, Heartbeat(node.node, self._now, node.trained))
        self._give(Tick(self._now))
        self._after(1.0, self._tick)

    # ---- the coordinator's side --------------------------------------------------------------------------------------

    def _give(self, event: Event) -> None:
        if self._finish is None:
            self._execute(self._coordinator.handle(event))
            if self._validate:
                self._coordinator.validate()

    def _execute(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Send():
                    node = self._nodes[action.node]
                    node.last_delivery = max(node.last_delivery, self._now + self._delay())
                    message = action.message
                    self._at(node.last_delivery, lambda node=node, message=message: self._deliver(node, message))  # type: ignore[misc]
                case Kill():
                    self._die(self._nodes[action.node], action.reason)
                case MergeRound():
                    staged = [node.node for node in self._nodes if node.staged]
                    assert staged == [node for node, _ in action.scales], "a merge missed or invented a submission"
                    assert abs(sum(scale for _, scale in action.scales) - 1.0) < 1e-9, (
                        "a merge's scales do not sum to 1"
                    )
                    for node in self._nodes:
                        node.staged = False
                    self._updates += 1
                case EpochEnd():
                    self._end_epoch(action)
                case Finish():
                    self._finish = action

    def _end_epoch(self, end: EpochEnd) -> None:
        assert end.epoch == self._ended + 1, f"epoch {end.epoch} ended after epoch {self._ended}"
        assert np.all(self._seen[end.epoch] == 1), f"epoch {end.epoch} did not train each sample once"
        moving = [node.node for node in self._nodes if not (node.dead or node.paused)]
        assert not moving, f"epoch {end.epoch} ended while nodes {moving} were moving"
        assert not any(node.staged for node in self._nodes), "an epoch ended with a submission not merged"
        assert not end.metrics.samples or abs(end.metrics.loss - 1.0) < 1e-9, "the epoch's loss is not the mean"
        self._ended = end.epoch
        self._shares.append(tuple(status.share for status in self._coordinator.statuses()))
        self._states.append(self._coordinator.state())
        seconds = self._conditions.evaluation_seconds
        stop = self._conditions.target_epoch == end.epoch

        def recorded() -> None:
            self._evaluating += seconds
            self._give(EpochRecorded(self._now, stop))

        self._after(seconds, recorded)

    # ---- the nodes' side ---------------------------------------------------------------------------------------------

    def _report(self, node: _Node, event: NodeEvent) -> None:
        node.last_arrival = max(node.last_arrival, self._now + self._delay())
        self._at(node.last_arrival, lambda: self._give(event))

    def _ready(self, node: _Node) -> None:
        if not node.dead:
            self._report(node, Ready(node.node, self._now))

    def _deliver(self, node: _Node, message: Message) -> None:
        if node.dead:
            return
        match message:
            case Work():
                self._started = self._now if self._started is None else self._started
                assert message.epoch <= self._ended + 2, "a node was sent more than one epoch ahead"
                node.stream.extend((message.epoch, int(sample)) for sample in message.indices)
                node.local_steps = message.local_steps
            case Pause():
                node.pausing = True
            case Resume():
                node.pausing = node.paused = False
            case Release():
                assert node.waits, "a node was released that did not wait"
                node.waits = False
            case Stop():
                node.stopped = True
        self._proceed(node)

    def _proceed(self, node: _Node) -> None:
        """What the node's loop does between two batches."""
        if node.dead or node.stopped or node.busy or node.waits or node.paused:
            return
        if node.pausing and not node.iteration:
            node.paused = True
            self._report(node, Paused(node.node, self._now))
            return
        if not node.stream:
            return
        if not node.iteration:
            node.base_version = self._updates
        epoch = node.stream[0][0]
        batch: list[tuple[int, int]] = []
        while node.stream and node.stream[0][0] == epoch and len(batch) < self._settings.batch_size:
            batch.append(node.stream.popleft())
        told = node.told
        speed = told.speed * (told.drift if self._now >= told.drift_at else 1.0)
        seconds = len(batch) / speed
        node.busy = True
        self._after(seconds, lambda: self._trained(node, batch, seconds))

    def _trained(self, node: _Node, batch: list[tuple[int, int]], seconds: float) -> None:
        if node.dead:
            return
        if node.trained:  # the first step of a run is not timed
            node.timed_samples += len(batch)
            node.timed_seconds += seconds
        node.trained += len(batch)
        node.seconds += seconds
        node.iteration.extend(batch)
        node.steps += 1
        node.busy = False
        goes_on = node.steps < node.local_steps and node.stream and node.stream[0][0] == batch[0][0]
        if goes_on:
            self._proceed(node)
        else:
            self._commit(node)

    def _commit(self, node: _Node) -> None:
        epoch, samples = node.iteration[0][0], len(node.iteration)
        seen = self._seen.setdefault(epoch, np.zeros(self._settings.samples, np.int64))
        for _, sample in node.iteration:
            seen[sample] += 1
        node.iteration, node.steps = [], 0
        correct = int(self._random.integers(0, samples + 1))
        node.sequence += 1
        node.committed += samples
        node.quality = correct / samples
        self._submissions += 1
        if self._settings.update == "sgwu":
            assert not node.staged, "a node staged over a submission not merged"
            node.staged = node.waits = True
        merge = self._conditions.merge_seconds
        report = Submitted(
            node=node.node,
            time=self._now + merge,
            sequence=node.sequence,
            samples_committed=node.committed,
            epoch=epoch,
            samples=samples,
            loss_sum=float(samples),
            correct=correct,
            staleness=self._updates - node.base_version,
            compute_seconds=node.seconds,
            wait_seconds=0.0,
            communication_seconds=merge,
            timed_samples=node.timed_samples,
            timed_seconds=node.timed_seconds + (merge if node.timed_samples else 0.0),
        )
        node.seconds, node.timed_samples, node.timed_seconds = 0.0, 0, 0.0
        if node.sequence == node.told.fate_after_commit:
            self._meet_fate(node)
            return
        node.busy = True
        self._after(merge, lambda: self._merged(node, report))

    def _merged(self, node: _Node, report: Submitted) -> None:
        if node.dead:
            return
        if self._settings.update != "sgwu":
            self._updates += 1
        node.busy = False
        self._report(node, report)
        self._proceed(node)

    def _meet_fate(self, node: _Node) -> None:
        if node.dead or node.stopped:
            return
        match node.told.fate:
            case "dies":
                self._die(node, "killed")
            case "hangs":
                node.dead = True
            case "fails":
                self._report(node, Failed(node.node, self._now, "out of memory"))
                node.busy = True  # it waits for its end

    def _die(self, node: _Node, reason: str) -> None:
        """The node is dead from now on; the driver notices, reaps it and reports what it had committed."""
        node.dead = True

        def lost() -> None:
            self._give(
                NodeLost(node.node, self._now, node.sequence, node.committed, node.quality, node.trained, reason)
            )

        self._after(float(self._random.uniform(0.0, self._conditions.notice_seconds)), lost)


def simulate(
    settings: RunSettings,
    nodes: tuple[SimulatedNode, ...],
    conditions: Conditions | None = None,
    state: CoordinatorState | None = None,
    validate: bool = True,
) -> SimulatedRun:
    """Play a whole run in virtual time; nodes[j] plays settings.nodes[j]. Same arguments, same run."""
    return Simulation(settings, nodes, conditions or Conditions(), state, validate).run()
