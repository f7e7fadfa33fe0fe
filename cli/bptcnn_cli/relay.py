"""Between a run and its display: a terminal that stands still (Ctrl-S, a sleeping connection) must not stop training.

    train ──setup, started, progress, ...──> queue ──> display thread ──> terminal

The display thread alone draws; it also moves what moves while nothing is told. Before the process is stopped (Ctrl-Z)
it leaves the terminal as it was, and draws nothing until the process goes on.
"""

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from bptcnn.standing_still import takes_part
from bptcnn.threads import start_thread
from bptcnn.training.progress import EpochRow, Observer, Snapshot

_FRAME_SECONDS = 0.1
_MOST_WAITING = 50  # snapshots pile up only while the terminal stands still: later ones are dropped
_INTERRUPTED_SECONDS = 2.0  # who wants to stop does not wait for the terminal to go on


class Display(Observer):
    """An observer that draws. All methods are called from one thread."""

    @property
    def moves(self) -> bool:
        """Whether something moves while nothing is told, so that `tick` is wanted."""
        return False

    def tick(self) -> None:
        """Some time has passed."""

    def close(self) -> None:
        """Nothing more will come: leave the terminal as it was."""

    def reopen(self) -> None:
        """Something will come after all."""


class Relay(Observer):
    """Hands everything on to `display`, in order, on a thread of its own; a context manager."""

    def __init__(self, display: Display) -> None:
        self._display = display
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._draw, name="display", daemon=True)
        self._error: Exception | None = None
        self._pauses: list[tuple[threading.Event, threading.Event]] = []  # asked for: closed, goes on
        self._taking_part = ExitStack()
        self.run_dir: Path | None = None

    @property
    def stuck(self) -> bool:
        """Whether the display still waits for its terminal."""
        return self._thread.is_alive()

    def __enter__(self) -> Self:
        start_thread(self._thread)
        self._taking_part.enter_context(takes_part(self._standing_still))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._taking_part.close()
        self._calls.put(None)
        self._thread.join(_INTERRUPTED_SECONDS if kind is KeyboardInterrupt else None)
        if kind is None and self._error is not None:
            raise self._error

    @contextmanager
    def _standing_still(self) -> Iterator[None]:
        """Have the display closed before all that waits to be drawn; a terminal that stands still is not waited for."""
        closed, goes_on = threading.Event(), threading.Event()
        self._pauses.append((closed, goes_on))
        self._calls.put(self._nothing)  # wakes the thread
        try:
            closed.wait(_INTERRUPTED_SECONDS if self._thread.is_alive() else 0.0)
            yield
        finally:
            goes_on.set()

    def _nothing(self) -> None:
        """Nothing is told."""

    def _pause(self) -> None:
        while self._pauses:
            closed, goes_on = self._pauses.pop(0)
            self._display.close()
            closed.set()
            goes_on.wait()
            self._display.reopen()

    def _draw(self) -> None:
        try:
            while True:
                try:
                    call = self._calls.get(timeout=_FRAME_SECONDS if self._display.moves else None)
                except queue.Empty:
                    call = self._display.tick
                self._pause()
                if call is None:
                    return
                call()
        except Exception as error:
            self._error = error
        finally:
            self._display.close()

    def saving(self, run_dir: Path) -> None:
        """Keep it for who asks."""
        self.run_dir = run_dir

    def setup(self, message: str) -> None:
        """Hand on."""
        self._calls.put(partial(self._display.setup, message))

    def started(self, names: tuple[str, ...], samples: int, epochs: int) -> None:
        """Hand on."""
        self._calls.put(partial(self._display.started, names, samples, epochs))

    def progress(self, snapshot: Snapshot) -> None:
        """Hand on, unless too many wait."""
        if self._calls.qsize() < _MOST_WAITING:
            self._calls.put(partial(self._display.progress, snapshot))

    def epoch_ended(self, row: EpochRow, best: bool) -> None:
        """Hand on."""
        self._calls.put(partial(self._display.epoch_ended, row, best))

    def warning(self, message: str) -> None:
        """Hand on."""
        self._calls.put(partial(self._display.warning, message))

    def submission_refused(self, name: str, reason: str) -> None:
        """Hand on."""
        self._calls.put(partial(self._display.submission_refused, name, reason))

    def node_lost(self, name: str, reason: str) -> None:
        """Hand on."""
        self._calls.put(partial(self._display.node_lost, name, reason))

    def node_joined(self, name: str) -> None:
        """Hand on."""
        self._calls.put(partial(self._display.node_joined, name))

    def node_returned(self, name: str) -> None:
        """Hand on."""
        self._calls.put(partial(self._display.node_returned, name))
