"""Emulating a slow node: a token bucket on the process's CPU time."""

import math
from collections.abc import Callable

CREDIT_SECONDS = 0.1  # of CPU time: what a node that waited may catch up on


class Throttle:
    """Lets a process use `rate` CPU-seconds per second (infinite: all), with at most CREDIT_SECONDS in credit.

    `clock` and `cpu_clock` return seconds of wall time and of the process's CPU time; `sleep` takes seconds.
    """

    def __init__(
        self, rate: float, clock: Callable[[], float], cpu_clock: Callable[[], float], sleep: Callable[[float], None]
    ) -> None:
        self._rate = rate
        self._clock, self._cpu_clock, self._sleep = clock, cpu_clock, sleep
        self._time, self._cpu = clock(), cpu_clock()
        self._tokens = 0.0

    def pay(self) -> None:
        """Sleep until the CPU time used since the last call is paid for."""
        if math.isinf(self._rate):
            return
        time, cpu = self._clock(), self._cpu_clock()
        earned = self._rate * (time - self._time) - (cpu - self._cpu)
        self._time, self._cpu = time, cpu
        self._tokens = min(CREDIT_SECONDS, self._tokens + earned)
        if self._tokens < 0.0:
            self._sleep(-self._tokens / self._rate)
