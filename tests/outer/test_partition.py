from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bptcnn.outer.partition import (
    allocate,
    default_rounds,
    estimate_speeds,
    largest_remainder,
    next_round,
    rebalance,
    round_total,
    static,
    uniform,
)

speed = st.floats(1e-3, 1e6)
extreme = st.floats(min_value=0.0, max_value=1e300, exclude_min=True, allow_infinity=False)
speeds = st.lists(speed, min_size=1, max_size=12)
NAN = float("nan")


@given(st.integers(0, 10**9), st.lists(extreme, min_size=1, max_size=12))
def test_largest_remainder_is_exact_near_its_quota_and_monotone(total: int, weights: list[float]) -> None:
    counts = largest_remainder(total, weights)
    assert counts.sum() == total
    assert np.all(counts >= 0)
    scaled = np.array(weights) / max(weights)
    assert np.all(np.abs(counts - total * scaled / scaled.sum()) < 1 + 1e-6 * max(1, total / 1e6))
    order = np.argsort(weights, kind="stable")
    for low, high in pairwise(order):
        assert weights[low] == weights[high] or counts[low] <= counts[high]


def test_largest_remainder_gives_ties_to_the_lower_index() -> None:
    assert largest_remainder(5, [1.0, 1.0, 1.0]).tolist() == [2, 2, 1]
    assert largest_remainder(2, [1.0] * 4).tolist() == [1, 1, 0, 0]


@given(speeds, st.data())
def test_allocate_takes_out_who_is_over_and_levels_the_rest(values: list[float], data: st.DataObject) -> None:
    held = data.draw(st.lists(st.integers(0, 5000), min_size=len(values), max_size=len(values)))
    total = sum(held) + data.draw(st.integers(0, 20000))
    increments = allocate(total, values, held)
    assert increments.sum() == total - sum(held)
    assert np.all(increments >= 0)
    pace = (np.array(held) + increments) / np.array(values)
    given_to = increments > 0
    if given_to.any():
        # whoever got something ends no later (but for one sample) than whoever got nothing
        slack = 1.0 / np.array(values)
        assert np.all((pace - slack)[given_to].max() <= pace + slack + 1e-9 * pace)


def test_allocate_by_hand() -> None:
    # targets 40, 20, 20 of 80; node 2 holds 50: out; the other 30 go 2:1
    assert allocate(80, [2.0, 1.0, 1.0], [0, 0, 50]).tolist() == [20, 10, 0]
    assert allocate(7, [1.0], [3]).tolist() == [4]
    assert allocate(3, [1.0, 1.0], [1, 2]).tolist() == [0, 0]


@given(st.integers(0, 5000), st.integers(1, 20), speeds)
def test_rounds_sum_to_the_samples_and_to_the_proportional_split(
    samples: int, rounds: int, values: list[float]
) -> None:
    held = np.zeros(len(values), np.int64)
    for done in range(rounds):
        increments = next_round(samples, done, rounds, values, held)
        assert increments.sum() == round_total(samples, done + 1, rounds) - round_total(samples, done, rounds)
        held = held + increments
    assert held.sum() == samples
    # a node that one round rounded up is taken out of the next: that may cost the others a sample together
    assert np.all(np.abs(held - samples * np.array(values) / sum(values)) <= 1 + len(values) / 2)


def test_a_misjudged_first_round_is_made_up_for() -> None:
    true = np.array([4.0, 2.0, 1.0, 1.0])
    held = next_round(8000, 0, 8, [1.0, 2.0, 4.0, 4.0], [0, 0, 0, 0])
    for done in range(1, 8):
        held = held + next_round(8000, done, 8, true, held)
    assert held.tolist() == [4000, 2000, 1000, 1000]


def test_samples_elsewhere_count_as_given_out() -> None:
    assert next_round(100, 1, 2, [1.0, 1.0], [10, 10], elsewhere=30).tolist() == [25, 25]


@given(speeds, st.data())
def test_rebalance_moves_no_more_than_it_must(values: list[float], data: st.DataObject) -> None:
    sizes = np.array(data.draw(st.lists(st.integers(0, 3000), min_size=len(values), max_size=len(values))), np.int64)
    fixed = np.array([data.draw(st.integers(0, int(size))) for size in sizes], np.int64)
    targets = rebalance(sizes, fixed, values)
    assert targets.sum() == sizes.sum()
    assert np.all(targets >= fixed)
    assert np.array_equal(rebalance(targets, np.minimum(fixed, targets), values), targets)


def test_baselines() -> None:
    assert static(10, [1.0, 0.5, 0.25, 0.25]).tolist() == [5, 3, 1, 1]
    assert uniform(10, 4).tolist() == [3, 3, 2, 2]
    assert uniform(2, 4).tolist() == [1, 1, 0, 0]


def test_speeds_without_measurement_are_scaled_by_the_others_median() -> None:
    assert estimate_speeds([10.0, 20.0, 30.0], [NAN, NAN, NAN]).tolist() == [10.0, 20.0, 30.0]
    estimated = estimate_speeds([10.0, 10.0, 10.0, 40.0], [1 / 20, 1 / 30, 1 / 90, NAN])
    assert np.allclose(estimated, [20.0, 30.0, 90.0, 120.0])


@pytest.mark.parametrize("wrong", [0.0, -1.0, NAN, float("inf")])
def test_impossible_speeds_are_refused(wrong: float) -> None:
    for call in (
        lambda: largest_remainder(5, [1.0, wrong]),
        lambda: allocate(5, [wrong, 1.0], [0, 0]),
        lambda: estimate_speeds([1.0, wrong], [NAN, NAN]),
    ):
        with pytest.raises(ValueError, match="positive and finite"):
            call()
    with pytest.raises(ValueError, match="positive and finite"):
        largest_remainder(5, [])
    if not np.isnan(wrong):
        with pytest.raises(ValueError, match="positive and finite"):
            estimate_speeds([1.0], [wrong])


@given(st.integers(1, 10**7), st.integers(1, 64), st.integers(1, 512), st.integers(1, 64))
def test_default_rounds_are_modest_and_leave_batches_to_measure(n: int, m: int, batch: int, steps: int) -> None:
    rounds = default_rounds(n, m, batch, steps)
    assert 1 <= rounds <= 16
    assert rounds == 1 or n // (rounds * m * batch) >= 2


def test_default_rounds_by_hand() -> None:
    assert default_rounds(60000, 4, 64, 4) == 16
    assert default_rounds(8000, 2, 64, 4) == 7
    assert default_rounds(100, 4, 64, 4) == 1
