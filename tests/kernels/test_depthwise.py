"""Depthwise convolution and its gradients over drawn kernels, strides, dilations and paddings, against float64."""

from typing import Any

import numpy as np
import pytest
from calling import GUARD
from hypothesis import example, given, settings
from hypothesis import strategies as st
from windows import AROUND, Case, Kernels, Pads, Pair, Shape, cases, pairs

from bptcnn.kernels.depthwise import DEPTHWISE, depthwise, depthwise_backward, scratch_image
from bptcnn.kernels.unit import UNIT

MANY = settings(max_examples=4 * settings().max_examples)


def fields(case: Case) -> dict[str, Any]:
    """Scratch for two workers: NaN in worker 0's, which is not to be used."""
    shape = case.shape
    padding = shape.pads[0][0], shape.pads[1][0]
    halo = scratch_image(shape.size, shape.out_size, shape.kernel, shape.stride, shape.dilation, padding)
    scratch = np.zeros((2, halo.rows, halo.columns, shape.groups), np.float32)
    scratch[0] = np.nan
    return {
        "gradient_scratch": case.address(scratch),
        "gradient_scratch_worker": scratch[0].size,
        "halo_top": halo.top,
        "halo_left": halo.left,
        "gradient_row": halo.columns * shape.groups,
    }


KERNELS = Kernels(DEPTHWISE, depthwise, depthwise_backward, fields)


def depth(
    channels: int,
    size: Pair,
    kernel: Pair = (3, 3),
    stride: Pair = (1, 1),
    dilation: Pair = (1, 1),
    pads: Pads = AROUND,
) -> Shape:
    return Shape(channels, 1, 1, size, kernel, stride, dilation, pads)


CHANNELS = st.one_of(st.integers(1, 2 * UNIT.lanes + 1), st.sampled_from([32, 48, 67]))
SHAPES = st.one_of(
    st.builds(depth, CHANNELS, pairs(1, 12), stride=st.sampled_from([(1, 1), (2, 2)])),
    st.builds(depth, CHANNELS, pairs(2, 12), stride=st.just((2, 2)), pads=st.just(((0, 1), (0, 1)))),
    st.builds(
        depth, CHANNELS, pairs(1, 12), pairs(1, 5), pairs(1, 4), pairs(1, 3), st.tuples(pairs(0, 3), pairs(0, 3))
    ),
)
MOBILE = [
    depth(32, (9, 9)),
    depth(32, (9, 9), stride=(2, 2)),
    depth(33, (8, 8), stride=(2, 2), pads=((0, 1), (0, 1))),
    depth(5, (7, 6), (5, 2), (1, 3), pads=((2, 2), (0, 0))),
]


def whole(shape: Shape) -> Case:
    return Case(KERNELS, shape, 2, 2, 0, 2, 1)


@MANY
@given(case=cases(KERNELS, SHAPES), bias=st.booleans(), floor=st.sampled_from([0.0, -np.inf]))
@example(case=whole(MOBILE[0]), bias=True, floor=0.0)
@example(case=whole(MOBILE[1]), bias=True, floor=0.0)
@example(case=whole(MOBILE[2]), bias=False, floor=0.0)
def test_forward(case: Case, bias: bool, floor: float) -> None:
    case.check_forward(bias, floor)


@MANY
@given(case=cases(KERNELS, SHAPES), rectified=st.booleans(), accumulate=st.booleans())
@example(case=whole(MOBILE[0]), rectified=True, accumulate=False)
@example(case=whole(MOBILE[1]), rectified=True, accumulate=True)
@example(case=whole(MOBILE[2]), rectified=False, accumulate=False)
def test_backward(case: Case, rectified: bool, accumulate: bool) -> None:
    case.check_backward(rectified, accumulate)


@pytest.mark.parametrize("shape", MOBILE)
def test_the_halo_stays_zeros_and_other_workers_scratch_is_theirs(shape: Shape) -> None:
    case = whole(shape)
    case.run_backward(False, False)
    halo = fields(case)
    scratch = next(memory.view for memory in case.kept if memory.view.ndim == 4 and np.isnan(memory.view[0]).all())
    top, left = halo["halo_top"], halo["halo_left"]
    inside = scratch[1, top : top + shape.out_size[0], left : left + shape.out_size[1]]
    np.testing.assert_array_equal(inside, case.gradient[1])
    inside[...] = 0
    assert not scratch[1].any()
    assert np.isnan(scratch[0]).all()


@pytest.mark.parametrize("shape", MOBILE)
def test_nobody_wants_the_input_gradient(shape: Shape) -> None:
    result, partial = whole(shape).run_backward(True, False, wanted=False)
    assert (result == GUARD).all()
    np.testing.assert_array_equal(partial, whole(shape).run_backward(True, False)[1])


@pytest.mark.parametrize("floor", [0.0, -np.inf])
@pytest.mark.parametrize("shape", MOBILE)
def test_nan_stays_visible(shape: Shape, floor: float) -> None:
    whole(shape).check_nan(floor)
