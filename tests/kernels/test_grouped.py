"""Convolution with groups, dilation and any stride, and its gradients, over drawn shapes, against float64."""

from typing import Any

import numpy as np
import pytest
from calling import GUARD, Numbers, call
from hypothesis import example, given, settings
from hypothesis import strategies as st
from windows import AROUND, Case, Kernels, Shape, cases, pairs

from bptcnn.kernels.grouped import GROUPED, grouped, grouped_backward, tap_offsets, transpose_grouped

MANY = settings(max_examples=4 * settings().max_examples)


def fields(case: Case) -> dict[str, Any]:
    """Tables, transposed filters, scratch for two workers."""
    shape = case.shape
    channels, outputs = shape.groups * shape.channels, shape.groups * shape.filters
    taps = tap_offsets(shape.kernel, shape.dilation, channels, shape.groups, case.source.row)
    scratch = np.full((2, *shape.out_size, outputs), np.nan, np.float32)
    return {
        "groups": shape.groups,
        "out_channels": outputs,
        "tap_offsets": case.address(taps),
        "transposed": case.address(case.filters.transpose(0, 1, 3, 2)),
        "gradient_scratch": case.address(scratch),
        "gradient_scratch_worker": scratch[0].size,
    }


KERNELS = Kernels(GROUPED, grouped, grouped_backward, fields)
SHAPES = st.one_of(
    st.builds(
        Shape, st.integers(1, 4), st.integers(1, 20), st.integers(1, 37), pairs(1, 10), pairs(1, 4), pairs(1, 3),
        pairs(1, 3), st.tuples(pairs(0, 3), pairs(0, 3)),
    ),
    st.builds(
        Shape, st.just(1), st.integers(1, 40), st.integers(1, 70), pairs(3, 18), st.just((3, 3)), pads=st.just(AROUND)
    ),
    st.builds(Shape, st.integers(2, 40), st.just(1), st.integers(1, 2), pairs(1, 8), pairs(1, 3)),
).filter(lambda shape: min(shape.out_size) >= 1)  # fmt: skip
SOME = [
    Shape(2, 3, 5, (9, 9), (3, 3), (1, 1), (2, 2), ((2, 2), (2, 2))),
    Shape(4, 4, 4, (8, 7), (3, 3), (2, 2), (1, 1), AROUND),
    Shape(2, 40, 33, (5, 20), (1, 2), (2, 1), (1, 3), ((0, 0), (3, 0))),
]


def whole(shape: Shape) -> Case:
    return Case(KERNELS, shape, 2, 2, 0, 2, 1)


@MANY
@given(case=cases(KERNELS, SHAPES), bias=st.booleans(), floor=st.sampled_from([0.0, -np.inf]))
@example(case=whole(SOME[0]), bias=True, floor=0.0)
@example(case=whole(SOME[1]), bias=False, floor=-np.inf)
@example(case=whole(SOME[2]), bias=True, floor=-np.inf)
def test_forward(case: Case, bias: bool, floor: float) -> None:
    case.check_forward(bias, floor)


@MANY
@given(case=cases(KERNELS, SHAPES), rectified=st.booleans(), accumulate=st.booleans())
@example(case=whole(SOME[0]), rectified=True, accumulate=False)
@example(case=whole(SOME[1]), rectified=True, accumulate=True)
@example(case=whole(SOME[2]), rectified=False, accumulate=False)
def test_backward(case: Case, rectified: bool, accumulate: bool) -> None:
    case.check_backward(rectified, accumulate)


@pytest.mark.parametrize("shape", SOME)
def test_nobody_wants_the_input_gradient(shape: Shape) -> None:
    result, partial = whole(shape).run_backward(True, False, wanted=False)
    assert (result == GUARD).all()
    np.testing.assert_array_equal(partial, whole(shape).run_backward(True, False)[1])


@pytest.mark.parametrize("floor", [0.0, -np.inf])
@pytest.mark.parametrize("shape", SOME)
def test_nan_stays_visible(shape: Shape, floor: float) -> None:
    whole(shape).check_nan(floor)


@given(shape=SHAPES, bounds=st.lists(st.integers(0, 99), min_size=2, max_size=2))
def test_filters_are_transposed_tap_by_tap(shape: Shape, bounds: list[int]) -> None:
    taps = shape.kernel[0] * shape.kernel[1]
    first, last = sorted(bound % (taps + 1) for bound in bounds)
    outputs = shape.groups * shape.filters
    filters = np.random.default_rng(0).random((taps, shape.channels, outputs), np.float32)
    source, target = Numbers(filters), Numbers(np.full((taps, outputs, shape.channels), GUARD))
    record = dict.fromkeys(GROUPED.names or (), 0)
    record |= {"groups": shape.groups, "channels": shape.groups * shape.channels, "out_channels": outputs}
    record |= {"filters": source.address, "transposed": target.address}
    call(transpose_grouped, GROUPED, record, first, last)
    np.testing.assert_array_equal(target.view[first:last], filters[first:last].transpose(0, 2, 1))
    assert (np.delete(target.view, slice(first, last), axis=0) == GUARD).all()
    assert target.intact()
