"""Who gets how many samples: IDPA and its two baselines, as arithmetic on exact fractions.

Source: the incremental data partitioning and allocation (IDPA) of BPT-CNN (Chen et al., TPDS 2019, arXiv 1810.07742).
Deviation: a round of the first epoch trains its increment only, so that every sample is trained once in it.
Speeds are images per second, or anything proportional to it; only their ratios matter.
"""

from collections.abc import Sequence
from fractions import Fraction
from math import isfinite, isnan
from statistics import median

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

MOST_ROUNDS = 16
FEWEST_ROUNDS = 4  # where the first epoch is long enough for it
ITERATIONS_A_ROUND = 2  # local iterations a node should have in a round, so that a round can be measured
BATCHES_A_ROUND = 4  # the same in batches, for short epochs


def largest_remainder(total: int, weights: Sequence[float] | Floats) -> Counts:
    """Divide `total` items in proportion to m weights; each count is within 1 of its quota and they sum to `total`.

    Ties go to the lower index. Raises ValueError for a negative total or a weight that is not positive and finite.
    """
    exact = _fractions(weights)
    if total < 0:
        raise ValueError(f"cannot divide {total} items")
    whole = sum(exact)
    return _round_to(total, [total * weight / whole for weight in exact])


def allocate(total: int, speeds: Sequence[float] | Floats, held: Sequence[int] | Counts) -> Counts:
    """Increments, int64 (m,), that bring nodes holding `held` samples to totals in proportion to their speeds.

    A node that already holds more than its target gets nothing and is taken out, and the targets of the others are
    recomputed, until none is over. The increments sum to exactly `total - sum(held)`; ValueError if that is negative.
    """
    exact = _fractions(speeds)
    holdings = [int(count) for count in held]
    if len(holdings) != len(exact):
        raise ValueError(f"{len(exact)} speeds but {len(holdings)} holdings")
    if min(holdings) < 0 or total < sum(holdings):
        raise ValueError(f"cannot allocate {total} samples over nodes that hold {holdings}")
    active = set(range(len(exact)))
    while True:
        budget = total - sum(holdings[node] for node in range(len(exact)) if node not in active)
        whole = sum((exact[node] for node in active), Fraction(0))
        target = {node: budget * exact[node] / whole for node in active}
        over = {node for node in active if holdings[node] > target[node]}
        if not over:
            break
        active -= over
    quotas = [target[node] - holdings[node] if node in active else Fraction(0) for node in range(len(exact))]
    return _round_to(total - sum(holdings), quotas)


def round_total(samples: int, done: int, rounds: int) -> int:
    """How many samples have been given out after `done` of `rounds` allocation rounds."""
    if not 0 <= done <= rounds or rounds < 1:
        raise ValueError(f"round {done} of {rounds} does not exist")
    return samples * done // rounds


def next_round(
    samples: int,
    done: int,
    rounds: int,
    speeds: Sequence[float] | Floats,
    held: Sequence[int] | Counts,
    elsewhere: int = 0,
) -> Counts:
    """Round done+1 of IDPA: increments towards totals in proportion to speed, int64 (m,).

    Round 1 (done = 0, nothing held) goes by profiled speeds, later ones by measured speeds 1 / t_j. `elsewhere`: what
    nodes hold that take no part in this round.
    """
    return allocate(round_total(samples, done + 1, rounds) - elsewhere, speeds, held)


def static(samples: int, speeds: Sequence[float] | Floats) -> Counts:
    """Baseline: everything in one round, in proportion to the profiled speeds."""
    return largest_remainder(samples, speeds)


def uniform(samples: int, nodes: int) -> Counts:
    """Baseline: the same number of samples for each node, the first ones getting the remainder."""
    return largest_remainder(samples, [1.0] * nodes)


def rebalance(sizes: Sequence[int] | Counts, fixed: Sequence[int] | Counts, speeds: Sequence[float] | Floats) -> Counts:
    """Shard sizes in proportion to speed that need the fewest moves, when `fixed` samples of each shard cannot move."""
    held = np.asarray(fixed, np.int64)
    return held + allocate(int(np.sum(sizes)), speeds, held)


def default_rounds(samples: int, nodes: int, batch_size: int, local_steps: int) -> int:
    """Allocation rounds A: 4 to 16, as many as leave a node a measurable stretch in each; fewer for few samples."""
    by_iteration = samples // (nodes * ITERATIONS_A_ROUND * local_steps * batch_size)
    by_batch = samples // (nodes * BATCHES_A_ROUND * batch_size)
    return max(1, min(MOST_ROUNDS, max(by_iteration, min(FEWEST_ROUNDS, by_batch))))


def estimate_speeds(profiled: Sequence[float] | Floats, seconds_per_sample: Sequence[float] | Floats) -> Floats:
    """Speeds, float64 (m,), from measurements t_j where there are any (NaN: none).

    A node without one keeps its profiled speed, scaled by the median of measured over profiled of the others.
    Raises ValueError for a speed or a time that is not positive and finite.
    """
    profile = _positive(profiled)
    seconds = [float(second) for second in seconds_per_sample]
    if len(seconds) != len(profile):
        raise ValueError(f"{len(profile)} profiled speeds but {len(seconds)} measurements")
    measured = [(second, speed) for second, speed in zip(seconds, profile, strict=True) if not isnan(second)]
    if not all(isfinite(second) and second > 0 for second, _ in measured):
        raise ValueError(f"seconds per sample must be positive and finite: {seconds}")
    scale = median(1.0 / (second * speed) for second, speed in measured) if measured else 1.0
    known = zip(seconds, profile, strict=True)
    return np.array([speed * scale if isnan(second) else 1.0 / second for second, speed in known])


def _fractions(weights: Sequence[float] | Floats) -> list[Fraction]:
    return [Fraction(value) for value in _positive(weights)]


def _positive(weights: Sequence[float] | Floats) -> list[float]:
    values = [float(weight) for weight in weights]
    if not values or not all(isfinite(value) and value > 0 for value in values):
        raise ValueError(f"speeds and weights must be positive and finite: {values}")
    return values


def _round_to(total: int, quotas: list[Fraction]) -> Counts:
    counts = [int(quota) for quota in quotas]
    by_remainder = sorted(range(len(quotas)), key=lambda node: (counts[node] - quotas[node], node))
    for node in by_remainder[: total - sum(counts)]:
        counts[node] += 1
    return np.array(counts, np.int64)
