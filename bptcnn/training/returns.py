"""Hosts that were lost, or were not there at the start, tried again and again; nodes that join, tried once.

away --its time has come--> starting --Ready--> back
  ^                            |
  +---- waits longer ----------+-- it fails for good --> abandoned
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from bptcnn.errors import UserError
from bptcnn.nodes import Node, NodeGone
from bptcnn.outer import Failed, NodeEvent, Ready

_FIRST_SECONDS, _LONGEST_SECONDS = 1.0, 30.0  # between attempts: doubled each time
_START_SECONDS = 90.0  # to a first sign of life, once a host is reached: a large network over a slow link, a machine
# that swaps; ssh's own deadlines, which see a link that is gone, are shorter
_SILENT_SECONDS = 20.0  # an attempt that has shown one and then none for so long has failed
_SLEPT_SECONDS = 1.0  # without being asked to attend: it is this process that was silent
_MOST_FAILURES = 5  # in a row, that are not the network's


@dataclass
class _Away:
    """One node: when to try next, how often, and the attempt under way."""

    next: float
    once: bool = False
    wait: float = _FIRST_SECONDS
    failures: int = 0
    node: Node | None = None
    heard: float = 0.0
    spoke: bool = False


@dataclass
class Outcome:
    """What came of looking after the nodes: (index, node) that are back, (index, why) that never will be."""

    back: list[tuple[int, Node]] = field(default_factory=list)
    abandoned: list[tuple[int, str]] = field(default_factory=list)


class Returns:
    """Looks after the nodes that are away.

    `start` starts node j's agent; `may_start`: whether its place is free; `reach_seconds`: what reaching it may take.
    """

    def __init__(
        self, start: Callable[[int], Node], may_start: Callable[[int], bool], reach_seconds: Callable[[], float]
    ) -> None:
        self._start, self._may_start, self._reach_seconds = start, may_start, reach_seconds
        self._away: dict[int, _Away] = {}
        self._attended = time.monotonic()

    def add(self, index: int) -> None:
        """Try to bring a host back from now on."""
        self._away[index] = _Away(time.monotonic() + _FIRST_SECONDS)

    def begin(self, index: int) -> None:
        """Start a node that joins."""
        self._away[index] = _Away(time.monotonic(), once=True)

    def drop(self, index: int) -> bool:
        """Try no more; return whether it was tried."""
        away = self._away.pop(index, None)
        if away is not None and away.node is not None:
            away.node.kill()
        return away is not None

    def attend(self) -> Outcome:
        """Do what is due, without waiting; called twice a second."""
        outcome = Outcome()
        now = time.monotonic()
        slept, self._attended = now - self._attended, now
        for index, away in list(self._away.items()):
            if slept > _SLEPT_SECONDS:
                away.heard += slept
            if away.node is None:
                if now >= away.next and self._may_start(index):
                    try:
                        away.node, away.heard, away.spoke = self._start(index), now, False
                    except UserError as error:
                        self._failed(index, away, NodeGone(str(error)), outcome)
                continue
            try:
                events = away.node.receive()
            except NodeGone as gone:
                self._failed(index, away, gone, outcome)
                continue
            if events:
                away.heard, away.spoke = now, True
            self._progress(index, away, events, outcome)
        return outcome

    def _progress(self, index: int, away: _Away, events: list[NodeEvent], outcome: Outcome) -> None:
        assert away.node is not None
        for event in events:
            match event:
                case Ready():
                    outcome.back.append((index, away.node))
                    del self._away[index]
                    return
                case Failed(reason=reason):
                    self._failed(index, away, NodeGone(reason), outcome)
                    return
        patience = _SILENT_SECONDS if away.spoke else _START_SECONDS + self._reach_seconds()
        if time.monotonic() - away.heard > patience:
            self._failed(index, away, NodeGone("silent while it started", may_return=True), outcome)

    def _failed(self, index: int, away: _Away, gone: NodeGone, outcome: Outcome) -> None:
        if away.node is not None:
            away.node.kill()
            away.node = None
        away.failures = 0 if gone.may_return else away.failures + 1
        if away.once or away.failures >= _MOST_FAILURES:
            outcome.abandoned.append((index, str(gone)))
            del self._away[index]
            return
        away.wait = min(_LONGEST_SECONDS, 2.0 * away.wait)
        away.next = time.monotonic() + away.wait

    def close(self) -> None:
        """End all attempts; safe to call again."""
        for away in self._away.values():
            if away.node is not None:
                away.node.kill()
        self._away.clear()
