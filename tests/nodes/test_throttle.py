"""The token bucket, on clocks that only move when they are told to."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bptcnn.nodes.throttle import CREDIT_SECONDS, Throttle


class Clocks:
    """Wall and CPU time of a process; sleeping costs no CPU time."""

    def __init__(self) -> None:
        self.wall = 100.0
        self.cpu = 7.0
        self.slept = 0.0

    def sleep(self, seconds: float) -> None:
        assert seconds > 0.0
        self.slept += seconds
        self.wall += seconds

    def compute(self, seconds: float, threads: int = 1) -> None:
        self.wall += seconds
        self.cpu += threads * seconds

    def throttle(self, rate: float) -> Throttle:
        return Throttle(rate, lambda: self.wall, lambda: self.cpu, self.sleep)


RATES = st.floats(0.05, 1.0)
STEPS = st.lists(st.floats(0.0, 0.5), min_size=1, max_size=30)


@given(rate=RATES, steps=STEPS)
def test_never_more_than_the_rate_plus_the_credit(rate: float, steps: list[float]) -> None:
    clocks = Clocks()
    throttle = clocks.throttle(rate)
    for step in steps:
        clocks.compute(step)
        throttle.pay()
        assert clocks.cpu - 7.0 <= rate * (clocks.wall - 100.0) + CREDIT_SECONDS + 1e-9


@given(rate=RATES, steps=st.lists(st.floats(0.001, 0.5), min_size=1, max_size=30))
def test_a_busy_process_gets_its_whole_rate(rate: float, steps: list[float]) -> None:
    clocks = Clocks()
    throttle = clocks.throttle(rate)
    for step in steps:
        clocks.compute(step)
        throttle.pay()
    assert clocks.cpu - 7.0 == pytest.approx(rate * (clocks.wall - 100.0))


@given(rate=RATES, idle=st.floats(10.0, 1e6))
def test_a_long_idle_time_is_not_caught_up(rate: float, idle: float) -> None:
    clocks = Clocks()
    throttle = clocks.throttle(rate)
    clocks.wall += idle
    throttle.pay()
    assert clocks.slept == 0.0
    clocks.compute(2.0)
    throttle.pay()
    assert clocks.slept == pytest.approx(max(0.0, (2.0 * (1.0 - rate) - CREDIT_SECONDS) / rate))


def test_the_credit_is_a_tenth_of_a_second() -> None:
    assert CREDIT_SECONDS == 0.1


def test_two_threads_at_rate_one_sleep_half_the_time() -> None:
    clocks = Clocks()
    throttle = clocks.throttle(1.0)
    for _ in range(10):
        clocks.compute(0.2, threads=2)
        throttle.pay()
    assert clocks.slept == pytest.approx(2.0)


def test_a_process_within_its_rate_never_sleeps() -> None:
    clocks = Clocks()
    throttle = clocks.throttle(2.0)
    for _ in range(100):
        clocks.compute(0.25, threads=2)
        throttle.pay()
    assert clocks.slept == 0.0
