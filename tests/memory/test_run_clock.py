"""The run's clock in virtual time: what it leaves out, and that nobody sees it go back or count a stop."""

import os
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bptcnn.memory import RunClock, RunTime, SharedMemory

BEGAN = 1_000 * 10**9


class System:
    """A clock that goes when it is told to, in nanoseconds."""

    def __init__(self) -> None:
        self.now = BEGAN

    def __call__(self) -> int:
        return self.now

    def pass_by(self, seconds: float) -> None:
        self.now += round(seconds * 1e9)


def reader(clock: RunClock, system: System) -> RunTime:
    """A process that has mapped it."""
    return RunTime(SharedMemory(os.dup(clock.fd), 16), system)


@pytest.fixture
def clocks() -> Iterator[tuple[System, RunClock, RunTime]]:
    system = System()
    clock = RunClock(system)
    node = reader(clock, system)
    yield system, clock, node
    node.close()
    clock.close()


def elapsed(clock: RunTime) -> float:
    return clock.now() - BEGAN / 1e9


def test_it_is_the_systems_as_long_as_it_is_turned(clocks: tuple[System, RunClock, RunTime]) -> None:
    system, clock, node = clocks
    for turn in range(100):
        assert elapsed(clock) == elapsed(node) == pytest.approx(0.5 * turn)
        system.pass_by(0.5)
        clock.turn()
    assert clock.missed() == 0.0


@pytest.mark.parametrize("first", ["coordinator", "node"])
def test_it_stands_still_where_nobody_turns_it_whoever_looks_first(
    clocks: tuple[System, RunClock, RunTime], first: str
) -> None:
    system, clock, node = clocks
    system.pass_by(3600.0)
    if first == "node":
        assert elapsed(node) == pytest.approx(2.0)
    clock.turn()
    assert elapsed(node) == elapsed(clock) == pytest.approx(2.0)
    system.pass_by(0.25)
    assert elapsed(node) == elapsed(clock) == pytest.approx(2.25)
    assert clock.missed() == pytest.approx(3598.0)
    assert clock.missed() == 0.0


def test_held_it_stands_still_at_once_whatever_turns(clocks: tuple[System, RunClock, RunTime]) -> None:
    system, clock, node = clocks
    system.pass_by(1.0)
    clock.hold()
    system.pass_by(10.0)
    clock.turn()
    assert elapsed(node) == elapsed(clock) == pytest.approx(1.0)
    clock.go_on()
    system.pass_by(0.5)
    assert elapsed(node) == elapsed(clock) == pytest.approx(1.5)
    assert clock.missed() == pytest.approx(10.0)


@given(st.lists(st.tuples(st.sampled_from(["turn", "hold", "go on", "look"]), st.floats(0.0, 10.0)), max_size=40))
def test_it_never_goes_back(steps: list[tuple[str, float]]) -> None:
    system = System()
    clock = RunClock(system)
    node = reader(clock, system)
    seen, stopped_since = [elapsed(node)], system.now
    for what, seconds in steps:
        system.pass_by(seconds)
        {"turn": clock.turn, "hold": clock.hold, "go on": clock.go_on, "look": lambda: None}[what]()
        seen.append(elapsed(node))
    assert (np.diff(seen) >= 0.0).all()
    assert seen[-1] <= (system.now - stopped_since) / 1e9 + 1e-6
    assert seen[-1] <= 2.0 * (len(steps) + 1) + 1e-6
    node.close()
    clock.close()


def test_its_thread_turns_it() -> None:
    clock = RunClock()
    clock.start()
    clock.close()
    clock.close()
    assert clock.missed() == 0.0
