"""Runs without processes and kernels: the real driver, coordinator, run folder; nodes in this process, a clock of ours.

A node trains nothing, but commits to the real weight buffer whatever it is sent, one local iteration at each `receive`.
"""

import contextlib
import os
import selectors
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import inf
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
from training.books import Books

import bptcnn.nodes.servant as servant_module
import bptcnn.training.driver as driver_module
import bptcnn.training.joins as joins_module
import bptcnn.training.returns as returns_module
import bptcnn.training.run as run_module
from bptcnn.data import Samples
from bptcnn.memory import WeightBuffer
from bptcnn.nodes.exchange import Committer, Iteration
from bptcnn.nodes.optimizer_state import OptimizerState
from bptcnn.outer import (
    Action,
    Coordinator,
    Event,
    Heartbeat,
    Message,
    NodeEvent,
    Pause,
    Paused,
    Ready,
    Submitted,
    Tick,
    Trial,
    Tried,
    Work,
)
from bptcnn.training.launcher import MOST_JOINED
from bptcnn.training.members import Member
from bptcnn.training.optimizer_states import OptimizerStates

MOST_SECONDS = 2000.0  # of the run's clock: what is not over by then hangs
_BEAT_SECONDS = 0.5
_CALL_SECONDS = 1e-4  # that pass when the clock is read


class Hung(Exception):
    """The run does not end."""


class Clock:
    """Time that passes when it is read, and when somebody waits."""

    def __init__(self) -> None:
        self.seconds = self._began = self._beat = 1000.0
        self.nodes: list[StubNode] = []
        self.broken: list[AssertionError] = []  # what the audit has found

    def monotonic(self) -> float:
        self.seconds += _CALL_SECONDS
        if self.seconds - self._began > MOST_SECONDS:
            self._began = inf  # said once: the run is to be closed, too
            raise Hung(f"the run is not over after {MOST_SECONDS:g} s")
        return self.seconds

    now = monotonic  # it is the run's clock, too

    def missed(self) -> float:
        """Nothing stands still."""
        return 0.0

    def beat(self) -> None:
        """Have the nodes that live say so, twice a second."""
        if self.seconds - self._beat >= _BEAT_SECONDS:
            self._beat = self.seconds
            for node in self.nodes:
                node.beat()

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


class StubNode:
    """A node that does at once what it is told, by the rules."""

    pid = None
    host = "here"
    first_step = 0

    def __init__(self, index: int, member: Member, buffer: WeightBuffer, batch: int, update: Any, clock: Clock) -> None:
        self.name, self._index, self._clock, self._batch = member.name, index, clock, batch
        self._committer = Committer(buffer, index, update)
        self._done_before = self._committer.samples_committed  # by earlier nodes in this place
        self._weights = np.zeros(buffer.layout.parameters, np.float32)
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._events: deque[NodeEvent] = deque()
        self._work: deque[tuple[int, int]] = deque()
        self._paused = False
        clock.nodes.append(self)
        self.tell(Ready(index, 0.0))

    def fileno(self) -> int:
        return self._bell

    def tell(self, event: NodeEvent) -> None:
        self._events.append(event)
        os.eventfd_write(self._bell, 1)

    def send(self, message: Message) -> None:
        match message:
            case Work():
                self._work.append((message.epoch, len(message.indices)))
            case Trial():
                self.tell(Tried(self._index, 0.0, 10 * self._batch, 0.1))
            case Pause():
                self._paused = True
                self.tell(Paused(self._index, 0.0))
                return
            case _:
                self._paused = False
        os.eventfd_write(self._bell, 1)

    def receive(self) -> list[NodeEvent]:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._bell)
        if self._work and not self._paused and not self._committer.pending():
            self._events.append(self._trained())
            os.eventfd_write(self._bell, 1)
        events = list(self._events)
        self._events.clear()
        return events

    def beat(self) -> None:
        self.tell(Heartbeat(self._index, 0.0, self._committer.samples_committed - self._done_before))

    def optimizer_state(self) -> OptimizerState:
        return OptimizerState(self.first_step + self._committer.samples_committed, 1.0, self._weights.copy())

    def _trained(self) -> Submitted:
        epoch, samples = self._work.popleft()
        taken = min(samples, 2 * self._batch)
        if taken < samples:
            self._work.appendleft((epoch, samples - taken))
        version = self._committer.refresh(self._weights)
        self._committer.delta[:] = 1e-3
        receipt = self._committer.commit(version, taken, taken // 2, 1e-3, self._weights)
        seconds = 1e-3 * taken
        return receipt.report(
            self._index, 0.0, Iteration(epoch, taken, 1.0 * taken, taken // 2, seconds, 0.0, 0.0, taken, seconds)
        )

    def kill(self) -> str:
        if self._bell >= 0:
            self._clock.nodes.remove(self)
            os.close(self._bell)
            self._bell = -1
        return ""

    def end(self, deadline: float) -> str:
        return self.kill()


class StubLauncher:
    """A launcher of nodes in this process; `node` makes one, where it is not to be a StubNode."""

    node: Callable[..., Any] = StubNode
    clock = Clock()

    def __init__(
        self,
        network: Any,
        settings: Any,
        members: Sequence[Member],
        dataset: Any,
        train: Any,
        folder: Any,
        tuning: Any,
        states: dict[str, OptimizerState],
    ) -> None:
        self.network, self.settings, self.members = network, settings, list(members)
        self.buffer = WeightBuffer.create(network.size, len(members), MOST_JOINED)
        self._states = OptimizerStates(states)

    @property
    def places(self) -> int:
        return self.buffer.layout.writers

    def make_room(self, index: int, member: Member) -> None:
        self.buffer.admit(index)

    def start(self, index: int) -> Any:
        settings = self.settings
        state = self._states.start(self.members[index].name, fresh=not self.buffer.submission(index).sequence)
        make = StubNode if self.members[index].host is None else type(self).node
        node = make(index, self.members[index], self.buffer, settings.batch_size, settings.update, type(self).clock)
        node.first_step = state.step
        return node

    def optimizer_states(self, nodes: Mapping[int, Any]) -> dict[str, OptimizerState]:
        return self._states.at_cut({node.name: node.optimizer_state() for node in nodes.values()})

    def close(self) -> None:
        self.buffer.close()


class StubEvaluator:
    """An evaluator that finds every weight set as good as its mean is large."""

    def __init__(self, network: Any = None, threads: int = 1, reserved: int = 0) -> None:
        pass

    def accuracy(self, weights: Any, samples: Samples) -> float:
        return 0.5 + 0.4 * float(np.tanh(np.mean(weights)))

    def close(self) -> None:
        pass


@contextmanager
def stubbed(node: Callable[..., Any] = StubNode) -> Iterator[Clock]:
    """Have `train_run` and the driver use all this; what the coordinator gives out is audited."""
    clock = Clock()

    class Virtual(selectors.DefaultSelector):
        """Waits on our clock."""

        def select(self, timeout: float | None = None) -> Any:
            found = super().select(0)
            if not found:
                clock.seconds += timeout or 0.0
            clock.beat()
            return found

    handle = Coordinator.handle
    books: list[Books] = []

    def audited(self: Coordinator, event: Event) -> list[Action]:
        if not books:  # of the one run in here
            books.append(Books.of(self))
        actions = handle(self, event)
        # how long nothing moves is judged by our clock: of a tick, only what it causes is entered
        entered: Any = None if isinstance(event, Tick | Heartbeat) else event
        if entered is None and not actions:
            return actions
        try:
            self.validate()
            # what was trained in vain is what nodes say, and some lie
            books[-1].enter(entered, actions, self.phase, mock.ANY)
        except AssertionError as error:  # the driver would take it for the end of a node
            clock.broken.append(error)
        return actions

    launcher = type("Launcher", (StubLauncher,), {"node": staticmethod(node), "clock": clock})
    kept = SimpleNamespace(DefaultSelector=Virtual, EVENT_READ=selectors.EVENT_READ)
    with contextlib.ExitStack() as stack:
        for module in (servant_module, driver_module, joins_module, returns_module):
            stack.enter_context(mock.patch.object(module, "time", clock))
        stack.enter_context(mock.patch.object(driver_module, "selectors", kept))
        stack.enter_context(mock.patch.object(Coordinator, "handle", audited))
        stack.enter_context(mock.patch.object(run_module, "Launcher", launcher))
        stack.enter_context(mock.patch.object(run_module, "Evaluator", StubEvaluator))
        stack.enter_context(mock.patch.object(run_module, "tuning_record", return_value=None))
        stack.enter_context(mock.patch.object(run_module, "write_report"))  # takes most of the time
        yield clock
    if clock.broken:
        raise clock.broken[0]
