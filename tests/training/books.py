"""Books of a run, kept beside the coordinator: what was sent to whom and trained, and how long nothing moved."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from bptcnn.outer import (
    Action,
    Coordinator,
    EpochEnd,
    Event,
    Heartbeat,
    NodeJoined,
    NodeLost,
    NodeReturned,
    Phase,
    Refused,
    Send,
    Submitted,
    Tick,
    Work,
)

TICK_SECONDS = 0.5  # between the driver's ticks: a process that is held up ticks less...
SLEPT_SECONDS = 2.0  # ...and after so long without one, it gives all nodes a fresh period
MOST_TICKS = round(5.0 / TICK_SECONDS) + 2  # what the design allows, and what is on its way


@dataclass
class Books:
    """Of every epoch, how often each sample was trained; AssertionError where that is not once at its end.

    While the run trains, something must happen within MOST_TICKS, and a node that was stopped must be lost by then.
    """

    samples: int
    trained: dict[int, npt.NDArray[np.int64]] = field(default_factory=dict)
    ended: int = 0
    ticks: int = 0
    ticked: float = 0.0  # when it last did
    still: int = 0  # ticks since anything happened
    stopped: dict[int, int] = field(default_factory=dict)  # at which tick
    _streams: dict[int, deque[tuple[int, int]]] = field(default_factory=dict)
    _committed: dict[int, int] = field(default_factory=dict)
    _lost: set[int] = field(default_factory=set)
    redone: int = 0  # trained in vain, as far as nodes said
    _before: dict[int, int] = field(default_factory=dict)  # what earlier lives had committed...
    _heard: dict[int, int] = field(default_factory=dict)  # ...and what all have trained, by this one's heartbeats

    @classmethod
    def of(cls, coordinator: Coordinator) -> "Books":
        """New books; those of a resumed run begin with what its checkpoint says of the next epoch."""
        books = cls(coordinator._settings.samples)
        state = coordinator._state
        if state is not None:
            books.ended = state.epoch
            books.redone = state.counters.images_redone
            books.trained[state.epoch + 1] = state.ahead.astype(np.int64)
        return books

    def stop(self, node: int) -> None:
        """A node that is live is about to be stopped for good; to be called from any thread."""
        if node not in self._lost:
            self.stopped.setdefault(node, self.ticks)

    def close(self, images: int) -> None:
        """The run is over, at whatever moment: so many images were trained, none twice in an epoch."""
        counted = self.ended * self.samples
        for epoch, trained in self.trained.items():
            assert trained.max() <= 1, f"epoch {epoch}: samples {np.flatnonzero(trained > 1)[:8]} were trained twice"
            counted += int(trained.sum())
        assert images == counted

    def enter(self, event: Event, actions: Sequence[Action], phase: Phase, redone: int) -> None:
        """An event was handled; since then so many images count as redone."""
        match event:
            case Submitted() if event.node not in self._lost:
                self._commit(event.node, event.samples_committed)
            case Heartbeat() if event.node not in self._lost:
                heard = self._before.get(event.node, 0) + event.samples_trained
                self._heard[event.node] = max(heard, self._heard.get(event.node, 0))
            case Refused() if event.node not in self._lost:
                self.redone += event.samples
                self._heard.pop(event.node, None)
            case NodeLost() if event.node not in self._lost:
                self._commit(event.node, event.samples_committed)
                self.redone += max(0, self._heard.pop(event.node, 0) - event.samples_committed)
                self._streams.pop(event.node, None)
                self._lost.add(event.node)
                self.stopped.pop(event.node, None)
            case NodeJoined():
                self._lost.add(event.node)  # until it has returned
            case NodeReturned():
                self._lost.discard(event.node)
                self._before[event.node] = self._committed.get(event.node, 0)
            case Tick(time=now):
                self._tick(now, phase)
        assert redone == self.redone, f"{redone} images count as redone, {self.redone} were"
        if not isinstance(event, Tick | Heartbeat) or actions:
            self.still = 0
        for action in actions:
            match action:
                case Send(node=node, message=Work() as work):
                    assert node not in self._lost, f"node {node} is lost and was sent samples"
                    stream = self._streams.setdefault(node, deque())
                    stream.extend((work.epoch, int(sample)) for sample in work.indices)
                case EpochEnd(epoch=epoch):
                    assert epoch == self.ended + 1
                    wrong = np.flatnonzero(self.trained.pop(epoch) != 1)
                    assert not wrong.size, f"epoch {epoch}: samples {wrong[:8]} were not trained once"
                    self.ended = epoch

    def _commit(self, node: int, committed: int) -> None:
        stream = self._streams.setdefault(node, deque())
        for _ in range(committed - self._committed.get(node, 0)):
            epoch, sample = stream.popleft()
            self.trained.setdefault(epoch, np.zeros(self.samples, np.int64))[sample] += 1
        self._committed[node] = committed

    def _tick(self, now: float, phase: Phase) -> None:
        self.ticks += 1
        if now - self.ticked > SLEPT_SECONDS:
            self.still = 0
            self.stopped = dict.fromkeys(self.stopped, self.ticks)
        self.ticked = now
        if phase not in (Phase.TRAINING, Phase.PAUSING):
            return
        self.still += 1
        assert self.still <= MOST_TICKS, f"nothing has happened for {self.still * TICK_SECONDS} s"
        for node, since in self.stopped.copy().items():
            assert node in self._lost or self.ticks - since <= MOST_TICKS, f"node {node} is stopped and was not noticed"
