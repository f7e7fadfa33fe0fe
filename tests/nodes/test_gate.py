"""The gate under real threads: what `close` and `shut` promise when they return."""

import contextlib
import random
import sys
import threading
from collections.abc import Callable, Iterator

import pytest

from bptcnn.nodes.gate import Gate, Shut

SECONDS = 30.0
ROUNDS = 300
WALKERS = 3


@pytest.fixture
def restless() -> Iterator[None]:
    """Threads change as often as they can: what can go wrong in between does."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


class Walkers:
    """Threads that pass a gate over and over, and count it."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self.passed = self.inside = self.most = 0
        self.threads = [threading.Thread(target=self._walk) for _ in range(WALKERS)]
        for thread in self.threads:
            thread.start()

    def _walk(self) -> None:
        with contextlib.suppress(Shut):
            while True:
                with self.gate.passing():
                    self.inside += 1
                    self.most = max(self.most, self.inside)
                    self.passed += 1
                    self.inside -= 1

    def join(self) -> None:
        for thread in self.threads:
            thread.join(SECONDS)
            assert not thread.is_alive()


def started(run: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=run)
    thread.start()
    return thread


@pytest.mark.usefixtures("restless")
def test_nothing_passes_between_close_and_open() -> None:
    gate = Gate()
    walkers = Walkers(gate)
    chance = random.Random(1)
    for _ in range(ROUNDS):
        gate.close()
        assert not walkers.inside
        before = walkers.passed
        for _ in range(chance.randrange(200)):
            assert walkers.passed == before
        gate.open()
    gate.shut()
    walkers.join()
    assert walkers.most == 1


@pytest.mark.usefixtures("restless")
def test_nothing_passes_after_shut() -> None:
    for number in range(ROUNDS // 5):
        gate = Gate()
        walkers = Walkers(gate)
        while walkers.passed < number:
            pass
        if number % 3 == 0:
            gate.close()  # shut lets out who waits before a closed gate, too
        gate.shut()
        assert not walkers.inside
        before = walkers.passed
        gate.open()
        walkers.join()
        assert walkers.passed == before
        assert walkers.most <= 1


@pytest.mark.parametrize("name", ["close", "shut"])
def test_who_closes_waits_for_who_is_inside(name: str) -> None:
    gate = Gate()
    inside, leave, left = threading.Event(), threading.Event(), threading.Event()

    def pass_slowly() -> None:
        with gate.passing():
            inside.set()
            assert leave.wait(SECONDS)
            left.set()

    walker = started(pass_slowly)
    assert inside.wait(SECONDS)
    seen: list[bool] = []

    def close() -> None:
        getattr(gate, name)()
        seen.append(left.is_set())

    closer = started(close)
    assert not seen
    leave.set()
    closer.join(SECONDS)
    walker.join(SECONDS)
    assert seen == [True]


def test_a_failure_inside_leaves_the_gate_free() -> None:
    gate = Gate()
    with pytest.raises(ZeroDivisionError), gate.passing():
        raise ZeroDivisionError
    gate.close()
    gate.open()
    with gate.passing():
        pass
    gate.shut()
    gate.shut()
    with pytest.raises(Shut), gate.passing():
        raise AssertionError("shut for good")


def test_who_waits_before_a_closed_gate_goes_when_it_opens_and_fails_when_it_is_shut() -> None:
    for end, expected in (("open", "passed"), ("shut", "Shut")):
        gate = Gate()
        gate.close()
        outcome: list[str] = []

        def walk(gate: Gate = gate, outcome: list[str] = outcome) -> None:
            try:
                with gate.passing():
                    outcome.append("passed")
            except Shut:
                outcome.append("Shut")

        walker = started(walk)
        assert not outcome
        getattr(gate, end)()
        walker.join(SECONDS)
        assert outcome == [expected]
