"""How much of something a host may send: so many at once, and so many a second over time.

An honest agent stays far below what it is allowed. One that does not keeps the coordinator busy, or fills its disk or
memory: it is lost.
"""

import time


class Allowance:
    """A bucket that holds `burst` and fills at `rate` a second. One thread at a time."""

    def __init__(self, burst: float, rate: float) -> None:
        self._burst, self._rate = burst, rate
        self._left, self._at = burst, time.monotonic()

    def take(self, amount: float = 1.0) -> bool:
        """Take `amount`; tell whether that was allowed."""
        now = time.monotonic()
        self._left = min(self._burst, self._left + (now - self._at) * self._rate) - amount
        self._at = now
        return self._left >= 0.0
