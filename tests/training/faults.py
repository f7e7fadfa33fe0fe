"""Faults in runs: killed at the moment when the coordinator handles its n-th event, or a little later."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from nodes.agents import await_end, has_ended
from training.runs import pids

from bptcnn.nodes import LocalNode
from bptcnn.outer import Action, Coordinator, Event, Heartbeat, Message, Send, Tick, Work
from bptcnn.training import Observer


@dataclass
class Lost(Observer):
    """Keeps which nodes were lost, and why."""

    reasons: dict[str, str] = field(default_factory=dict)

    def node_lost(self, name: str, reason: str) -> None:
        assert name not in self.reasons, "lost twice"
        self.reasons[name] = reason


@dataclass
class Spy:
    """Sees what the coordinator handles and asks for, and what nodes are sent; checks it all the time.

    `at` maps the number of a report (heartbeats and ticks not counted) to what is then done.
    """

    folder: Path
    at: dict[int, Callable[[], None]] = field(default_factory=dict)
    reports: int = 0
    asked: dict[int, list[Message]] = field(default_factory=dict)
    sent: dict[str, list[Message]] = field(default_factory=dict)
    pids: dict[str, int] = field(default_factory=dict)
    timers: list[threading.Timer] = field(default_factory=list)

    def signal(self, name: str, number: int = signal.SIGKILL) -> None:
        """Send a node a signal, found as scripts do it: in nodes.json; what is killed has ended on return."""
        pid = pids(self.folder).get(name)
        if pid is not None and not has_ended(pid):
            os.kill(pid, number)
            if number == signal.SIGKILL:
                assert not await_end([pid])

    def later(self, seconds: float, name: str) -> None:
        """Kill a node so many seconds from now."""
        timer = threading.Timer(seconds, self.signal, (name,))
        self.timers.append(timer)
        timer.start()

    def check(self) -> None:
        """Each node was sent what the coordinator meant it to get, in its order, as long as it lived."""
        for node, asked in self.asked.items():
            sent = self.sent.get(f"node{node}", [])
            order = [_words(message) for message in asked]
            assert [_words(message) for message in sent] == order[: len(sent)], f"node{node} got messages out of order"
        left = [name for name, pid in self.pids.items() if not has_ended(pid)]
        assert not left, f"still there: {left}"


def _words(message: Message) -> tuple[Any, ...]:
    if isinstance(message, Work):
        return ("Work", message.epoch, tuple(message.indices.tolist()))
    return (type(message).__name__,)


@contextmanager
def spying(folder: Path) -> Iterator[Spy]:
    """Watch the run in `folder`; at the end everything that it promised is checked."""
    spy = Spy(folder)
    handle, stop, send, start = Coordinator.handle, Coordinator.stop, LocalNode.send, LocalNode.__init__

    def keep(actions: list[Action]) -> list[Action]:
        for action in actions:
            if isinstance(action, Send):
                spy.asked.setdefault(action.node, []).append(action.message)
        return actions

    def handles(self: Coordinator, event: Event) -> list[Action]:
        if not isinstance(event, Tick | Heartbeat):
            action = spy.at.get(spy.reports)
            spy.reports += 1
            if action:
                action()
        actions = keep(handle(self, event))
        self.validate()
        return actions

    def sends(self: LocalNode, message: Message) -> None:
        spy.sent.setdefault(self.name, []).append(message)
        send(self, message)

    def starts(self: LocalNode, *arguments: Any) -> None:
        start(self, *arguments)
        spy.pids[self.name] = self.pid

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Coordinator, "handle", handles)
        patch.setattr(Coordinator, "stop", lambda self, reason: keep(stop(self, reason)))
        patch.setattr(LocalNode, "send", sends)
        patch.setattr(LocalNode, "__init__", starts)
        try:
            yield spy
        finally:
            for timer in spy.timers:
                timer.cancel()
                timer.join()
    spy.check()
