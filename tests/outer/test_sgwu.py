import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bptcnn.outer.sgwu import average, merge_scales, waiting


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6), st.integers(0, 1000))
def test_merging_deltas_equals_the_average(qualities: list[float], seed: int) -> None:
    rng = np.random.default_rng(seed)
    base = rng.normal(size=257).astype(np.float32)
    sets = [base + rng.normal(size=257).astype(np.float32) for _ in qualities]
    scales = merge_scales(qualities)
    assert scales.sum() == pytest.approx(1.0)
    merged = base.copy()
    for weights, scale in zip(sets, scales, strict=True):
        merged += np.float32(scale) * (weights - base)
    reference = average(sets, qualities)
    assert reference.dtype == np.float32
    np.testing.assert_allclose(merged, reference, rtol=1e-4, atol=1e-5)


def test_by_hand() -> None:
    assert merge_scales([0.5, 0.25, 0.25]).tolist() == [0.5, 0.25, 0.25]
    assert merge_scales([0.0, 0.0]).tolist() == [0.5, 0.5]
    sets = [np.array([1.0, 2.0], np.float32), np.array([3.0, 6.0], np.float32)]
    assert average(sets, [0.25, 0.75]).tolist() == [2.5, 5.0]
    assert sets[0].tolist() == [1.0, 2.0]


@pytest.mark.parametrize("wrong", [[], [-0.1], [float("nan")], [1.5]])
def test_impossible_accuracies_are_refused(wrong: list[float]) -> None:
    with pytest.raises(ValueError, match="accuracies"):
        merge_scales(wrong)


def test_waiting() -> None:
    assert waiting([1.0, 4.0, 2.0]) == 5.0
    assert waiting([2.0]) == 0.0
    assert waiting([]) == 0.0
