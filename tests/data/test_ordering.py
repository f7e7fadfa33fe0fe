"""Orders and splits: permutations, partitions, balance, and the same result for the same seed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bptcnn.data import Samples, order, split_validation
from bptcnn.errors import UserError

SEEDS = st.integers(0, 2**70)


def numbered(labels: list[int]) -> Samples:
    """Samples whose pixels tell which they are."""
    images = np.arange(len(labels)).reshape(-1, 1, 1, 1) / 1024
    return Samples(images.astype(np.float32), np.array(labels, np.int32))


def numbers(samples: Samples) -> list[int]:
    return [int(value) for value in samples.images.ravel() * 1024]


@settings(deadline=None)
@given(n=st.integers(0, 300), seed=SEEDS)
def test_order_is_a_permutation_fixed_by_the_seed(n: int, seed: int) -> None:
    first = order(n, seed)
    assert first.dtype == np.int32
    np.testing.assert_array_equal(np.sort(first), np.arange(n))
    np.testing.assert_array_equal(first, order(n, seed))


def test_order_is_the_same_on_every_host() -> None:
    assert order(10, 0).tolist() == [9, 2, 4, 7, 5, 0, 8, 6, 3, 1]
    assert len({tuple(order(50, seed)) for seed in [0, 1, 2, 2**32, 2**32 + 1, 2**64]}) == 6


@settings(deadline=None)
@given(labels=st.lists(st.integers(0, 6), min_size=2, max_size=120), fraction=st.floats(0.001, 0.999), seed=SEEDS)
def test_split_is_a_balanced_partition(labels: list[int], fraction: float, seed: int) -> None:
    samples = numbered(labels)
    train, validation = split_validation(samples, fraction, seed)
    assert len(train) >= 1
    assert len(validation) == min(max(round(fraction * len(labels)), 1), len(labels) - 1)
    assert sorted(numbers(train) + numbers(validation)) == list(range(len(labels)))
    for part in (train, validation):
        assert numbers(part) == sorted(numbers(part))
        assert [labels[number] for number in numbers(part)] == part.labels.tolist()
    for label in set(labels):
        exact = labels.count(label) * len(validation) / len(labels)
        assert abs(int((validation.labels == label).sum()) - exact) < 1
    assert numbers(split_validation(samples, fraction, seed)[1]) == numbers(validation)


def test_splits_differ_by_seed_and_from_the_order() -> None:
    samples = numbered([0, 1] * 100)
    validations = {tuple(numbers(split_validation(samples, 0.2, seed)[1])) for seed in range(20)}
    assert len(validations) == 20
    assert tuple(sorted(order(200, 0)[:40])) not in validations


def test_every_sample_can_be_drawn() -> None:
    samples = numbered([0] * 5 + [1] * 5)
    drawn = {number for seed in range(60) for number in numbers(split_validation(samples, 0.2, seed)[1])}
    assert drawn == set(range(10))


def test_a_class_of_its_own_with_a_large_number_costs_nothing() -> None:
    train, validation = split_validation(numbered([0, 0, 2**31 - 1, 2**31 - 1]), 0.5, 0)
    assert train.labels.tolist() == validation.labels.tolist() == [0, 2**31 - 1]


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.5, 1.5, float("nan"), float("inf")])
def test_fractions_outside_are_refused(fraction: float) -> None:
    with pytest.raises(UserError, match="not between 0 and 1"):
        split_validation(numbered([0, 1, 0, 1]), fraction, 0)


def test_what_cannot_be_split_or_seeded_is_refused() -> None:
    with pytest.raises(UserError, match="1 training sample"):
        split_validation(numbered([0]), 0.5, 0)
    with pytest.raises(UserError, match="seed -1 is negative"):
        order(3, -1)
    with pytest.raises(UserError, match="seed -1 is negative"):
        split_validation(numbered([0, 1]), 0.5, -1)
