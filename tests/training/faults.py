"""Faults in runs: killed at the moment when the coordinator handles its n-th event, or a little later."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from nodes.agents import await_end, has_ended
from training.books import Books
from training.runs import pids

from bptcnn.nodes import LocalNode
from bptcnn.outer import Action, Coordinator, Event, Heartbeat, Message, NodeJoined, NodeReturned, Send, Tick, Work
from bptcnn.training import Observer


@dataclass
class Lost(Observer):
    """Keeps which nodes were lost, and why."""

    reasons: dict[str, str] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)

    def node_lost(self, name: str, reason: str) -> None:
        assert name not in self.gone, "lost twice"
        self.gone.add(name)
        self.reasons[name] = reason

    def node_joined(self, name: str) -> None:
        self.gone.discard(name)


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
    pids: dict[str, int] = field(default_factory=dict)  # of the last process of each name
    processes: list[int] = field(default_factory=list)
    names: dict[int, str] = field(default_factory=dict)
    started: dict[str, Callable[[], None]] = field(default_factory=dict)  # what is done when a process is there...
    returned: dict[str, Callable[[], None]] = field(default_factory=dict)  # ...when it joins, or is back
    books: Books | None = None
    threads: list[threading.Thread] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def signal(self, name: str, number: int = signal.SIGKILL) -> None:
        """Send a node a signal, found as scripts do it: in nodes.json; what is killed has ended on return.

        One that is starting is not listed yet.
        """
        pid = pids(self.folder).get(name, self.pids.get(name))
        if pid is not None and not has_ended(pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
            if number == signal.SIGKILL:
                assert not await_end([pid])

    def stop(self, name: str) -> None:
        """Stop a node for good: it must be lost in time."""
        assert self.books is not None
        self.books.stop(next(node for node, known in self.names.items() if known == name))
        self.signal(name, signal.SIGSTOP)

    def slow(self, name: str, stopped: float, running: float, seconds: float) -> None:
        """For so long, have a node stand still for `stopped` and run for `running` seconds, over and over."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self.over.is_set():
            self.signal(name, signal.SIGSTOP)
            self.over.wait(stopped)
            self.signal(name, signal.SIGCONT)
            self.over.wait(running)

    def also(self, report: int, action: Callable[[], None]) -> None:
        """At a report, after what is to be done then anyway."""
        before = self.at.get(report)

        def both() -> None:
            if before:
                before()
            action()

        self.at[report] = both

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        """Do something so many seconds from now, unless the run is over."""

        def act() -> None:
            if not self.over.wait(seconds):
                action()

        self.threads.append(threading.Thread(target=act))
        self.threads[-1].start()

    def check(self) -> None:
        """Each node was sent what the coordinator meant it to get, in its order, as long as it lived."""
        for node in self.asked:
            self.compare(node)
        left = [pid for pid in self.processes if not has_ended(pid)]
        assert not left, f"still there: {left}"

    def compare(self, node: int) -> None:
        """Compare what a node was to get with what it got, and forget both: a new process of its may follow."""
        name = self.names[node]
        asked, sent = self.asked.get(node, []), self.sent.pop(name, [])
        order = [_words(message) for message in asked]
        assert [_words(message) for message in sent] == order[: len(sent)], f"{name} got messages out of order"
        self.asked[node] = []


def poisoned(monkeypatch: pytest.MonkeyPatch, how: str, nodes: str, first: int, count: int) -> None:
    """Have nodes go wrong: see poison/sitecustomize.py."""
    path = Path(__file__).with_name("poison")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(path), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("POISON", f"{how} {nodes} {first} {count}")


def _nothing() -> None:
    pass


def _words(message: Message) -> tuple[Any, ...]:
    if isinstance(message, Work):
        return ("Work", message.epoch, tuple(message.indices.tolist()))
    return (type(message).__name__,)


@contextmanager
def spying(folder: Path) -> Iterator[Spy]:
    """Watch the run in `folder`; at the end everything that it promised is checked."""
    spy = Spy(folder)
    owner = threading.get_ident()
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
        if spy.books is None:
            spy.books = Books.of(self)
            spy.names = dict(enumerate(status.name for status in self.statuses()))
        match event:
            case NodeJoined(node=node, name=name):
                spy.names[node] = name
            case NodeReturned(node=node):
                spy.compare(node)
                spy.returned.get(spy.names[node], _nothing)()
        actions = keep(handle(self, event))
        self.validate()
        spy.books.enter(event, actions, self.phase, self.counters().images_redone)
        return actions

    def sends(self: LocalNode, message: Message) -> None:
        spy.sent.setdefault(self.name, []).append(message)
        send(self, message)

    def starts(self: LocalNode, *arguments: Any) -> None:
        assert threading.get_ident() == owner, "an agent ends with the thread that starts it: that is to be the run's"
        start(self, *arguments)
        spy.pids[self.name] = self.pid
        spy.processes.append(self.pid)
        spy.started.get(self.name, _nothing)()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Coordinator, "handle", handles)
        patch.setattr(Coordinator, "stop", lambda self, reason: keep(stop(self, reason)))
        patch.setattr(LocalNode, "send", sends)
        patch.setattr(LocalNode, "__init__", starts)
        try:
            yield spy
        finally:
            spy.over.set()
            for thread in spy.threads:
                thread.join()
    spy.check()
