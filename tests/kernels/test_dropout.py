"""Dropout: the kernels multiply with what `dropout_multipliers` says, which is random and repeatable."""

from typing import Any

import numpy as np
import pytest
from calling import GUARD, Floats, Images, Numbers, call, guards, normal
from hypothesis import given
from hypothesis import strategies as st
from stepping import SEEDS

from bptcnn.kernels.dropout import DROPOUT, dropout, dropout_backward, dropout_multipliers

WORDS = st.integers(-(2**63), 2**63 - 1)
RATES = st.one_of(st.sampled_from([0.0, 0.5, 0.999]), st.floats(0, 0.99))


def fields(x: Images, batch: Numbers, drawing: Numbers, layer: int, rate: float) -> dict[str, Any]:
    _, rows, columns, channels = x.view.shape
    known = {"batch": batch.address, "rows": rows, "line": columns * channels}
    known |= {"layer": layer, "drawing": drawing.address}
    return dict.fromkeys(DROPOUT.names or (), 0) | known | x.fields("input") | {"rate": rate}


@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5), st.integers(1, 20)),
    ring=st.integers(0, 2),
    batch=st.integers(1, 4),
    first=st.integers(0, 3),
    rate=RATES,
    drawing=st.tuples(WORDS, WORDS, st.integers(0, 2**62)),
    layer=st.integers(0, 99),
    accumulate=st.booleans(),
    seed=SEEDS,
)
def test_kernels_multiply(
    shape: tuple[int, int, int, int], ring: int, batch: int, first: int, rate: float, drawing: tuple[int, int, int],
    layer: int, accumulate: bool, seed: int,
) -> None:  # fmt: skip
    random = np.random.default_rng(seed)
    x, g, before = (normal(random, *shape) for _ in range(3))
    covered = slice(first, max(first, min(batch, shape[0])))
    around = ((ring, ring), (ring, ring))
    source, output = Images(x, around), Images(guards(*shape), around, around=float(GUARD))
    given_gradient, result, count, words = Numbers(g), Numbers(before), Numbers([batch]), Numbers(list(drawing))
    record = fields(source, count, words, layer, rate)
    record |= output.fields("output") | {"output_gradient": given_gradient.address, "accumulate": int(accumulate)}
    call(dropout, DROPOUT, record, first, shape[0])
    call(dropout_backward, DROPOUT, record, first, shape[0])  # nobody wants it
    call(dropout_backward, DROPOUT, record | {"input_gradient": result.address}, first, shape[0])
    multipliers = dropout_multipliers(*drawing, layer, shape[0], x[0].size, rate).reshape(shape)[covered]
    np.testing.assert_array_equal(output.view[covered], x[covered] * multipliers)
    passed = g[covered] * multipliers
    if accumulate:
        np.testing.assert_allclose(result.view[covered], before[covered] + passed, rtol=1e-6, atol=1e-6)
    else:
        np.testing.assert_array_equal(result.view[covered], passed)
    assert output.intact()
    assert result.intact()
    assert (np.delete(output.view, covered, axis=0) == GUARD).all()
    np.testing.assert_array_equal(np.delete(result.view, covered, axis=0), np.delete(before, covered, axis=0))


def kept(*counters: int, images: int = 64, elements: int = 4096, rate: float = 0.5) -> Floats:
    return dropout_multipliers(*counters, images, elements, rate) > 0


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 0.9])
def test_the_share_that_is_dropped(rate: float) -> None:
    multipliers = dropout_multipliers(3, 4, 5, 7, 64, 4096, rate)
    assert set(np.unique(multipliers)) <= {np.float32(0), np.float32(1 / (1 - float(np.float32(rate))))}
    share = 1 - np.count_nonzero(multipliers) / multipliers.size
    assert abs(share - rate) <= 5 * np.sqrt(rate * (1 - rate) / multipliers.size)


OTHERS = [(2, 1, 2, 3), (1, 0, 2, 3), (1, 2, 1, 3), (2, 1, 1, 3), (1, 1, 3, 3), (1, 1, 2, 4), (1, 1, 2**40 + 2, 3)]


@pytest.mark.parametrize("other", [*OTHERS, (1, 1 << 63, 2, 3), (-1, 1, 2, 3)])
def test_every_counter_matters(other: tuple[int, int, int, int]) -> None:
    """Choices agree by chance only: half of the 2^18, within six standard deviations."""
    assert abs((kept(1, 1, 2, 3) == kept(*other)).mean() - 0.5) < 6 * 0.5 / 512


@pytest.mark.parametrize("counter", range(4))
def test_no_two_of_many_masks_are_alike(counter: int) -> None:
    """Seeds, nodes, steps, layers, each alone: 200 masks, every pair uncorrelated, and all elements kept as often."""
    masks = []
    for value in range(200):
        counters = [7, 7, 7, 7]
        counters[counter] = value
        masks.append(kept(*counters, images=1, elements=2048).ravel())
    found = np.array(masks)
    pairs = np.corrcoef(found)[np.triu_indices(len(found), 1)]
    assert np.abs(pairs).max() < 6 / np.sqrt(2048), "of 19,900 pairs"
    assert 0.9 < pairs.std() * np.sqrt(2048) < 1.1
    assert np.abs(found.mean(0) - 0.5).max() < 6 * 0.5 / np.sqrt(200)


def test_images_and_elements_are_independent() -> None:
    found = kept(1, 1, 2, 3)
    for lag in (1, 2, 16, 64, 1024):
        assert abs((found[:, lag:] == found[:, :-lag]).mean() - 0.5) < 6 * 0.5 / np.sqrt(found[:, lag:].size)
    correlations = np.corrcoef(found)[np.triu_indices(len(found), 1)]
    assert np.abs(correlations).max() < 6 / 64
    for axis in (0, 1):
        spread = found.mean(axis).std() * 2 * np.sqrt(found.shape[axis])
        assert 0.7 < spread < 1.3, "as of fair coins"


def test_nan_is_not_dropped() -> None:
    source, output = Images(np.full((1, 4, 4, 5), np.nan, np.float32)), Images(guards(1, 4, 4, 5))
    record = fields(source, Numbers([1]), Numbers([0, 0, 0]), 0, 0.9)
    record |= output.fields("output")
    call(dropout, DROPOUT, record, 0, 1)
    assert np.isnan(output.view).all()
