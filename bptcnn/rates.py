"""Amounts per second, where the seconds were measured."""

LEAST_SECONDS = 1e-6  # less is no time that a clock of ours tells: two looks at it lie as far apart


def rate(amount: float, seconds: float) -> float:
    """Return amount / seconds; 0.0, for "not known", where no time to speak of was measured."""
    return amount / seconds if seconds >= LEAST_SECONDS else 0.0
