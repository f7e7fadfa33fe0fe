"""A node's surroundings as a script: the loop runs in the test's thread, and waits only where the script has more."""

import math
import queue
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from bptcnn.inner.subnetwork import StepResult
from bptcnn.nodes import loop as loop_module
from bptcnn.nodes.divergence import Diverged
from bptcnn.nodes.exchange import Iteration, Receipt
from bptcnn.nodes.loop import Loop
from bptcnn.nodes.optimizer_state import OptimizerState
from bptcnn.outer import Message, NodeEvent, Paused, Refused, Release, Resume, Stop, Submitted, Update, Work

STEP, IDLE, REFRESH, SUBMIT = 1.0, 16.0, 0.25, 0.5  # seconds on the script's clock
LOSS = 0.5


def work(epoch: int, indices: Sequence[int], steps: int = 2, rate: float | None = None) -> Work:
    return Work(epoch, np.array(indices, np.int32), 0.1 * epoch if rate is None else rate, steps)


class OverrunError(AssertionError):
    """The loop waits for a message but the script is over."""


@dataclass
class Surroundings:
    """What a loop is given, and what it did: `idle` is delivered, one list at a time, whenever it waits.

    `during` maps a step's number, from 0, to the messages that arrive while it computes; `others` likewise to the
    updates that other nodes make meanwhile. `trickle` arrives in its order, each message while the step of its number
    computes or, if there is no such step, before anything of `idle`.
    """

    idle: list[list[Message]]
    batch_size: int = 4
    update: Update = "agwu"
    staleness: int | None = None
    report_seconds: float = 0.0
    during: dict[int, list[Message]] = field(default_factory=dict)
    trickle: list[tuple[int, Message]] = field(default_factory=list)
    others: dict[int, int] = field(default_factory=dict)
    losses: dict[int, float] = field(default_factory=dict)
    diverging: frozenset[int] = frozenset()  # submissions, from 0 and attempts included, that are not finite
    speed: float = 1.0
    rests: list[float] | None = None  # of a node that uses a CPU all the time; None: it uses no CPU time
    log: list[str] = field(default_factory=list)
    steps: list[npt.NDArray[np.int32]] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    events: list[NodeEvent] = field(default_factory=list)
    now: float = 1000.0
    weights: npt.NDArray[np.float32] = field(default_factory=lambda: np.zeros(3, np.float32))
    velocity: npt.NDArray[np.float32] = field(default_factory=lambda: np.zeros(3, np.float32))
    version: int = 0
    attempts: int = 0
    started_with: float = 0.0  # its velocity
    first_step: int = 0
    usual_loss: float | None = None
    kept: list[OptimizerState] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.network = SimpleNamespace(size=3, classes=10)
        self.next_step = -1
        self._queue: deque[Message] = deque()
        self._committed = self._base_version = self._sequence = 0
        self.loop: Loop | None = None

    # ---- the inbox ---------------------------------------------------------------------------------------------------

    def empty(self) -> bool:
        return not self._queue

    def get(self, timeout: float | None = None) -> Message:
        if timeout is not None and not self._queue:
            assert self.rests is not None, f"a node that used no CPU time rests {timeout} s"
            self.rests.append(timeout)
            self.now += timeout
            raise queue.Empty
        if not self._queue:
            self.log.append("idle")
            self.now += IDLE
            if self.trickle:
                self._queue.append(self.trickle.pop(0)[1])
            elif self.idle:
                self._queue.extend(self.idle.pop(0))
            else:
                raise OverrunError("the loop waits for a message that will not come")
        return self._queue.popleft()

    # ---- the subnetwork ----------------------------------------------------------------------------------------------

    def step(
        self, images: Any, labels: Any, order: npt.NDArray[np.int32], rate: float, momentum: float, decay: float
    ) -> StepResult:
        number = len(self.steps)
        assert order.dtype == np.int32
        assert order.flags.c_contiguous
        assert (momentum, decay) == (0.75, 0.125)
        self.steps.append(order.copy())
        self.next_step += 1
        self.rates.append(rate)
        self.log.append(f"step {len(order)}")
        self.weights += 1.0
        self.velocity += 1.0
        self._queue.extend(self.during.get(number, ()))
        while self.trickle and self.trickle[0][0] <= number:
            self._queue.append(self.trickle.pop(0)[1])
        self.version += self.others.get(number, 0)
        self.now += STEP
        return StepResult(self.losses.get(number, LOSS), len(order) // 2, len(order))

    # ---- the exchange ------------------------------------------------------------------------------------------------

    overlapped = False

    def begin(self, weights: npt.NDArray[np.float32]) -> None:
        self.log.append("refresh")
        self.now += REFRESH
        weights[:] = 100.0 * self.version
        self._base_version = self.version

    def settle(self, weights: npt.NDArray[np.float32]) -> None:
        raise AssertionError("nothing travels")

    def ready(self) -> bool:
        return True

    def updates_behind(self) -> int:
        return self.version - self._base_version

    def submit(self, weights: npt.NDArray[np.float32], iteration: Iteration) -> Receipt:
        self.log.append(f"submit {iteration.samples}")
        self.now += SUBMIT
        self.attempts += 1
        if self.attempts - 1 in self.diverging:
            raise Diverged("the weights are no longer finite")
        staleness = self.version - self._base_version
        self._committed += iteration.samples
        self._sequence += 1
        self.version += self.update != "sgwu"
        return Receipt(self._sequence, self._committed, staleness)

    def forget(self) -> None:
        self.log.append("forget")

    def restore(self, velocity: npt.NDArray[np.float32]) -> None:
        velocity[:] = self.started_with

    def keep(self, state: OptimizerState) -> None:
        assert state.velocity is not None
        self.kept.append(replace(state, velocity=state.velocity.copy()))

    # ---- running -----------------------------------------------------------------------------------------------------

    def report(self, event: NodeEvent) -> None:
        assert len(self.kept) == self.pauses + isinstance(event, Paused), "its state is handed over before it is paused"
        self.log.append(type(event).__name__)
        self.events.append(event)

    def run(self, monkeypatch: pytest.MonkeyPatch) -> "Surroundings":
        """Run the loop until the script's Stop."""
        busy = self.rests is not None
        clock = SimpleNamespace(
            monotonic=lambda: self.now, process_time=lambda: STEP * len(self.steps) if busy else 0.0
        )
        monkeypatch.setattr(loop_module, "time", clock)
        configuration: Any = SimpleNamespace(
            node=5,
            cpu_limit=self.speed if self.speed < 1.0 else math.inf,
            batch_size=self.batch_size,
            momentum=0.75,
            weight_decay=0.125,
            update=self.update,
            staleness=self.staleness,
            report_seconds=self.report_seconds,
            first_step=self.first_step,
            usual_loss=self.usual_loss,
        )
        build: Callable[..., Loop] = Loop
        self.loop = build(configuration, self, None, None, self, self, self.report, clock.monotonic)
        self.loop.run()
        return self

    @property
    def submissions(self) -> list[Submitted]:
        return [event for event in self.events if isinstance(event, Submitted)]

    @property
    def refusals(self) -> list[Refused]:
        return [event for event in self.events if isinstance(event, Refused)]

    @property
    def pauses(self) -> int:
        return sum(isinstance(event, Paused) for event in self.events)

    def trained(self) -> list[int]:
        """All indices in the order of training."""
        return [int(index) for step in self.steps for index in step]


STOP, RELEASE, RESUME = Stop(), Release(), Resume()
