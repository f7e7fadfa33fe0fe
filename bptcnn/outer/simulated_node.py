"""A node in virtual time: it trains batches, commits, pauses, dies and returns as told; weights by a `Learner` alone.

    stream -> local iteration -> commit (merging)                             a node beside the coordinator
    stream -> local iteration -> under way (it trains on) -> stub -> commit   a node behind a link, `travel` > 0

What a commit leaves (`sequence`, `committed`, `quality`, `staged`) lies in shared memory: it outlives the node.
"""

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from bptcnn.outer.agwu import over_stale
from bptcnn.outer.messages import (
    MOST_REFUSALS,
    Failed,
    Message,
    NodeEvent,
    Pause,
    Paused,
    Ready,
    Refused,
    Release,
    Resume,
    Stop,
    Submitted,
    Trial,
    Tried,
    Work,
)
from bptcnn.outer.settings import RunSettings

Fate = Literal["dies", "hangs", "fails"]


@dataclass(frozen=True, slots=True)
class SimulatedNode:
    """A node that trains `speed` images/s, `drift` times that from `drift_at` seconds on.

    `fate_at`: when it dies (noticed by its exit), hangs (noticed by silence) or fails (says so); or, with
    `fate_after_commit` = n, right after its n-th commit, before anybody is told. `late`: seconds until it is ready.
    `travel`: seconds that a submission is under way while the node trains on, at most one; 0 without a link.
    `return_after`: seconds after its loss is noticed until it stands ready again, `abandon_after`: until it is given
    up, if it is still away (None: never). `diverges`: the chance that a local iteration is refused and trained anew;
    after MOST_REFUSALS in a row it fails. Its first `deaths` lives end by its fate; each counts seconds and commits
    from its own start. `join_at`: when it asks to join the run, which it is no part of before; it is ready `late`
    seconds later. `join_again_after`: seconds after its loss for good is noticed until it joins once more, ready.
    """

    speed: float
    drift: float = 1.0
    drift_at: float = 0.0
    fate: Fate = "dies"
    fate_at: float | None = None
    fate_after_commit: int | None = None
    late: float = 0.0
    travel: float = 0.0
    return_after: float | None = None
    abandon_after: float | None = None
    diverges: float = 0.0
    deaths: int = 1
    join_at: float | None = None
    join_again_after: float | None = None


class Learner(Protocol):
    """What nodes train in virtual time: weights, a copy for each node, called in the order of events.

    Nodes behind a link, and nodes that are lost, are not played.
    """

    def refresh(self, node: int) -> None:
        """A local iteration begins: copy the weight set."""
        ...

    def step(self, node: int, epoch: int, samples: list[int]) -> None:
        """Train a batch, given by the samples' indices."""
        ...

    def submit(self, node: int, time: float) -> tuple[float, int]:
        """Commit (AGWU: merge) a local iteration at virtual `time`; return its sum of losses and correct samples."""
        ...

    def merge(self, scales: tuple[tuple[int, float], ...], time: float) -> None:
        """SGWU: merge what was committed, given (node, scale)."""
        ...


class Clock:
    """Virtual time: what is to happen, in order."""

    def __init__(self) -> None:
        self.now = 0.0
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._counter = 0

    def at(self, time: float, what: Callable[[], None]) -> None:
        """Have `what` happen then; of two things at the same time, the one asked for first."""
        self._counter += 1
        heapq.heappush(self._heap, (time, self._counter, what))

    def after(self, seconds: float, what: Callable[[], None]) -> None:
        """Have `what` happen in so many seconds."""
        self.at(self.now + seconds, what)

    def next(self) -> Callable[[], None]:
        """Go on to the next thing; AssertionError if there is none."""
        assert self._heap, "nothing can happen any more, but the run is not over"
        self.now, _, what = heapq.heappop(self._heap)
        return what


@dataclass
class World:
    """What nodes share: the clock, the count of updates, and the simulator's own books of committed samples."""

    settings: RunSettings
    merge_seconds: float
    clock: Clock
    random: np.random.Generator
    report: Callable[["Node", NodeEvent], None]  # to the coordinator, behind what was reported before
    lose: Callable[["Node", str], None]  # the driver will notice that the node is gone
    staleness: int | None = None
    learner: Learner | None = None
    ended: int = 0  # epochs
    updates: int = 0
    submissions: int = 0
    seen: dict[int, npt.NDArray[np.int64]] = field(default_factory=dict)


@dataclass(slots=True)
class _Iteration:
    """A local iteration: (epoch, sample) of what was trained in it."""

    base_version: int
    samples: list[tuple[int, int]] = field(default_factory=list)
    steps: int = 0
    seconds: float = 0.0
    timed_samples: int = 0
    timed_seconds: float = 0.0


class Node:
    """One node over all of its lives."""

    def __init__(self, node: int, told: SimulatedNode, world: World) -> None:
        self.node, self.told, self._world = node, told, world
        self.linked = told.travel > 0.0
        self.life = 0 if told.join_at is None else -1  # it is not there before it has joined
        self.away = False
        # shared memory
        self.sequence = self.committed = 0
        self.quality = 0.0
        self.staged = False
        self._begin_life()

    def _begin_life(self) -> None:
        self.dead = False  # it computes no more
        self.cut = False  # its generation is refused: nothing of it can commit any more
        self.stopped = False
        self.fresh = True  # it was not given anything yet
        self.paused = self.holding = False  # the node itself; its stub
        self.before, self.trained = self.committed, 0  # by earlier lives; in this one, as its heartbeats say
        self.last_arrival = self.last_delivery = 0.0
        self._stream: deque[tuple[int, int]] = deque()
        self._iteration: _Iteration | None = None
        self._travelling: _Iteration | None = None
        self._held: _Iteration | None = None  # arrived while the stub holds back
        self._local_steps = 1
        self._busy = self._pausing = self._waits = self._warm = self._failed = False
        self._commits = self._refusals = 0
        if 0 <= self.life < self.told.deaths and self.told.fate_at is not None:
            self.later(self.told.fate_at, self._meet_fate)

    def stay_out(self) -> None:
        """It is no part of the run yet."""
        self.dead = self.cut = True

    def later(self, seconds: float, what: Callable[[], None]) -> None:
        """Have `what` happen in so many seconds if this life of the node lasts so long."""
        self.at(self._world.clock.now + seconds, what)

    def at(self, time: float, what: Callable[[], None]) -> None:
        """Have `what` happen then if this life of the node lasts so long."""
        life = self.life

        def happen() -> None:
            if self.life == life:
                what()

        self._world.clock.at(time, happen)

    def start(self) -> None:
        """It will be ready when it was told to be."""

        def ready() -> None:
            if not self.dead:
                self._world.report(self, Ready(self.node, self._world.clock.now))

        self.later(self.told.late, ready)

    def rise(self) -> None:
        """A new agent stands ready: only shared memory is as it was."""
        self.life += 1
        self.away = False
        self._begin_life()

    @property
    def still(self) -> bool:
        """Whether nothing of it can commit before it hears of the coordinator again."""
        return self.dead or self.fresh or (self.holding if self.linked else self.paused)

    # ---- messages ----------------------------------------------------------------------------------------------------

    def hold(self) -> None:
        """Its stub holds submissions back, and says so at once."""
        self.holding = True

    def let_go(self) -> None:
        """Its stub commits what it held back."""
        self.holding = False
        held, self._held = self._held, None
        if held:
            self._land(held)

    def deliver(self, message: Message) -> None:
        """A message has arrived."""
        if self.dead:
            return
        match message:
            case Work():
                assert message.epoch <= self._world.ended + 2, "a node was sent more than one epoch ahead"
                self._stream.extend((message.epoch, int(sample)) for sample in message.indices)
                self._local_steps = message.local_steps
                self.fresh = False
            case Pause():
                self._pausing = True
            case Resume():
                self._pausing = self.paused = False
            case Release():
                assert self._waits, "a node was released that did not wait"
                self._waits = False
            case Trial():
                self._try(message)
            case Stop():
                self.stopped = True
        self._proceed()

    def _try(self, trial: Trial) -> None:
        images = trial.steps * self._world.settings.batch_size
        seconds = min(trial.seconds, images / self.told.speed)

        def tried() -> None:
            if not (self.dead or self._failed):
                event = Tried(self.node, self._world.clock.now, round(seconds * self.told.speed), seconds)
                self._world.report(self, event)

        self.later(seconds, tried)

    # ---- training ----------------------------------------------------------------------------------------------------

    def _proceed(self) -> None:
        """What the node's loop does between two batches."""
        if self.dead or self._failed or self.stopped or self._busy or self._waits or self.paused:
            return
        iteration = self._iteration
        if self._pausing:
            self.paused = True
            if not self.linked:
                self._world.report(self, Paused(self.node, self._world.clock.now))
            return
        more = bool(self._stream) and (not iteration or self._stream[0][0] == iteration.samples[0][0])
        if iteration and (not more or self._long_enough(iteration)) and not self._travelling:
            if self.told.diverges and self._world.random.random() < self.told.diverges:
                self._refuse(iteration)
            else:
                self._refusals = 0
                self._submit(iteration)
        elif more:
            self._train(iteration or self._begin())

    def _long_enough(self, iteration: _Iteration) -> bool:
        stale = over_stale(iteration.base_version, self._world.updates, self._world.staleness)
        return stale or iteration.steps >= self._local_steps

    def _begin(self) -> _Iteration:
        if self._world.learner:
            self._world.learner.refresh(self.node)
        return _Iteration(self._world.updates)

    def _train(self, iteration: _Iteration) -> None:
        epoch = self._stream[0][0]
        batch: list[tuple[int, int]] = []
        while self._stream and self._stream[0][0] == epoch and len(batch) < self._world.settings.batch_size:
            batch.append(self._stream.popleft())
        speed = self.told.speed * (self.told.drift if self._world.clock.now >= self.told.drift_at else 1.0)
        seconds = len(batch) / speed
        if self._world.learner:
            self._world.learner.step(self.node, epoch, [sample for _, sample in batch])

        def trained() -> None:
            if self.dead or self._failed:
                return
            if self._warm:  # the first step of an agent is not timed
                iteration.timed_samples += len(batch)
                iteration.timed_seconds += seconds
            self._warm = True
            self.trained += len(batch)
            iteration.seconds += seconds
            iteration.samples.extend(batch)
            iteration.steps += 1
            self._iteration = iteration
            self._busy = False
            self._proceed()

        self._busy = True
        self.later(seconds, trained)

    def _refuse(self, iteration: _Iteration) -> None:
        """What was trained goes back to the head of the stream."""
        self._refusals += 1
        self._iteration = None
        self._stream.extendleft(reversed(iteration.samples))
        self.trained -= len(iteration.samples)
        now = self._world.clock.now
        self._world.report(self, Refused(self.node, now, len(iteration.samples), "the loss became nan"))
        if self._refusals == MOST_REFUSALS:
            self._world.report(self, Failed(self.node, now, "training diverged"))
            self._failed = True  # it waits for its end
        self._proceed()

    # ---- submissions -------------------------------------------------------------------------------------------------

    def _submit(self, iteration: _Iteration) -> None:
        self._iteration = None
        self._waits = self._world.settings.update == "sgwu"
        if self.linked:
            self._travelling = iteration
            self.later(self.told.travel, lambda: self._arrive(iteration))
            self._proceed()
            return
        merge = self._world.merge_seconds
        report = self._commit(iteration, merge)
        if self._ends_after_commit():
            return

        def merged() -> None:
            if self.dead:
                return
            self._count_update()
            self._busy = False
            self._world.report(self, report)
            self._proceed()

        self._busy = True
        self.later(merge, merged)

    def _arrive(self, iteration: _Iteration) -> None:
        """What a dead node had sent arrives as well, until its generation is refused."""
        if self.cut:
            return
        if self.holding:
            self._held = iteration
        else:
            self._land(iteration)

    def _land(self, iteration: _Iteration) -> None:
        if self.cut:
            return
        report = self._commit(iteration, 0.0)
        self._count_update()
        self._travelling = None
        if not self._ends_after_commit():
            self._world.report(self, report)
            self._proceed()

    def _count_update(self) -> None:
        if self._world.settings.update != "sgwu":
            self._world.updates += 1

    def _commit(self, iteration: _Iteration, merge_seconds: float) -> Submitted:
        """Enter a submission into the books and shared memory; returns the report of it."""
        world = self._world
        epoch, samples = iteration.samples[0][0], len(iteration.samples)
        seen = world.seen.setdefault(epoch, np.zeros(world.settings.samples, np.int64))
        for _, sample in iteration.samples:
            seen[sample] += 1
        if world.learner:
            loss_sum, correct = world.learner.submit(self.node, world.clock.now)
        else:
            loss_sum, correct = float(samples), int(world.random.integers(0, samples + 1))
        self.sequence += 1
        self.committed += samples
        self.quality = correct / samples
        self._commits += 1
        world.submissions += 1
        if world.settings.update == "sgwu":
            assert not self.staged, "a node staged over a submission not merged"
            self.staged = True
        return Submitted(
            node=self.node,
            time=world.clock.now + merge_seconds,
            sequence=self.sequence,
            samples_committed=self.committed,
            epoch=epoch,
            samples=samples,
            loss_sum=loss_sum,
            correct=correct,
            staleness=world.updates - iteration.base_version,
            compute_seconds=iteration.seconds,
            wait_seconds=0.0,
            communication_seconds=merge_seconds,
            timed_samples=iteration.timed_samples,
            timed_seconds=iteration.timed_seconds + (merge_seconds if iteration.timed_samples else 0.0),
            transfer_seconds=self.told.travel,
        )

    # ---- its end -----------------------------------------------------------------------------------------------------

    def _ends_after_commit(self) -> bool:
        fated = self.life < self.told.deaths and self._commits == self.told.fate_after_commit
        if fated:
            self._meet_fate()
        return fated

    def _meet_fate(self) -> None:
        if self.dead or self.stopped:
            return
        match self.told.fate:
            case "dies":
                self._world.lose(self, "killed")
            case "hangs":
                self.dead = True
            case "fails":
                self._world.report(self, Failed(self.node, self._world.clock.now, "out of memory"))
                self._failed = True  # it waits for its end
