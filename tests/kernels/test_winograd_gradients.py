"""Winograd's gradients by input and by filter, alone and as one backward pass, against float64."""

from dataclasses import replace

import numpy as np
import pytest
import reference_arithmetic as reference
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from stepping import SEEDS, assert_close
from test_winograd import LEAST, TOLERANCE, forward, shapes
from winograd_layers import GUARD, Floats, Forward, Layer, Shape, Sums, run

from bptcnn.kernels.winograd import transform_filters
from bptcnn.kernels.winograd_gradients import winograd_backward, winograd_by_filter
from bptcnn.kernels.winograd_sizes import BackwardSizes, WinogradSizes
from bptcnn.kernels.winograd_transforms import SIZES

MANY = settings(max_examples=4 * settings().max_examples)


class Gradients:
    """A layer with random output gradients, zeros around them, and the records of both gradients."""

    def __init__(self, shape: Shape, size: int, cache: int, seed: int, accumulate: bool = False) -> None:
        self.layer = Layer(shape, seed)
        self.forward = self.layer.forward_record(size, cache=cache)
        self.sizes = s = BackwardSizes(
            self.forward.sizes, shape.height, shape.width, shape.pads[0][0], shape.pads[1][0]
        )  # fmt: skip
        random = np.random.default_rng(seed + 1)
        self.dy = random.standard_normal(self.layer.convolved.shape, np.float32)
        held = self.layer.memory.floats((shape.held, s.rows, s.columns, shape.out_channels), 0)
        top, left = max(0, 2 - shape.pads[0][0]), max(0, 2 - shape.pads[1][0])
        held[: shape.images, top : top + shape.out_rows, left : left + shape.out_columns] = self.dy
        held[shape.images :] = np.nan
        reach = (s.rows - max(0, shape.pads[0][0] - 2), s.columns - max(0, shape.pads[1][0] - 2))
        address = held.ctypes.data
        self.by_input = self.layer.rotated_record(
            s.by_input, address + 4 * s.window, s.image, s.row, reach, accumulate
        )  # fmt: skip
        self.by_filter = self.layer.sums_record(self.forward, address + 4 * s.inside, s.image, s.row, 3)

    @property
    def expected(self) -> tuple[reference.Array, reference.Array]:
        layer = self.layer
        return reference.convolve_gradients(
            layer.x.astype(float),
            layer.filters.astype(float),
            (1, 1),
            layer.shape.pads,
            (1, 1),
            1,
            self.dy.astype(float),
        )


def check_filters(sums: Sums, expected: reference.Array, size: int) -> None:
    total = sums.partials[:, : expected.size].sum(0, dtype=float)
    assert_close("filters", total.reshape(expected.shape), expected, TOLERANCE[size], LEAST)


@MANY
@given(
    shape=shapes(),
    size=st.sampled_from(SIZES),
    cache=st.sampled_from([0, 1 << 20, 1 << 22]),
    accumulate=st.booleans(),
    seed=SEEDS,
)
def test_gradient_by_input(shape: Shape, size: int, cache: int, accumulate: bool, seed: int) -> None:
    gradients = Gradients(shape, size, cache, seed, accumulate)
    by_input = gradients.by_input
    before = np.random.default_rng(seed).standard_normal(by_input.output.shape, np.float32)
    if accumulate:
        by_input.output[...] = before
    forward(gradients.layer, by_input, 2)
    images = shape.images
    expected = gradients.expected[0] + (before[:images] if accumulate else 0)
    assert_close("input", by_input.output[:images], expected, TOLERANCE[size], LEAST)
    assert (by_input.output[images:] == (before[images:] if accumulate else GUARD)).all()


@MANY
@given(
    shape=shapes(),
    size=st.sampled_from(SIZES),
    cache=st.sampled_from([0, 1 << 20, 1 << 22]),
    parts=st.integers(1, 3),
    seed=SEEDS,
)
def test_gradient_by_filter(shape: Shape, size: int, cache: int, parts: int, seed: int) -> None:
    gradients = Gradients(shape, size, cache, seed)
    for part in range(parts):
        ends = [shape.held * p // parts for p in (part, part + 1)]
        run(winograd_by_filter, gradients.by_filter.record, *ends, part, worker=part % 2)
    used = replace(gradients.by_filter, partials=gradients.by_filter.partials[:parts])
    check_filters(used, gradients.expected[1], size)


def spread(given: Forward, shape: Shape, gradient: Floats, relu: bool, pool: tuple[int, int] | None) -> reference.Array:
    """Return the convolution's output gradient, by the choices that the forward pass has made."""
    output, d = given.output[: shape.images], gradient[: shape.images].astype(float)
    if relu:
        d = d * (output > 0)
    if pool is None:
        return d
    choice = np.minimum(given.choice[: shape.images], pool[0] * pool[1] - 1).astype(np.intp)
    full = (shape.images, shape.out_rows, shape.out_columns, shape.out_channels)
    return reference.pool_gradient(full, pool, pool, ((0, 0), (0, 0)), choice, d)


@MANY
@given(
    shape=shapes(),
    size=st.sampled_from(SIZES),
    cache=st.sampled_from([0, 1 << 20]),
    relu=st.booleans(),
    pool=st.one_of(st.none(), st.tuples(st.integers(1, 3), st.integers(1, 3))),
    wanted=st.booleans(),
    parts=st.integers(1, 3),
    seed=SEEDS,
)
def test_backward(
    shape: Shape, size: int, cache: int, relu: bool, pool: tuple[int, int] | None, wanted: bool, parts: int, seed: int
) -> None:
    """The input gradient adds to what is there; groups of images, partial sums and workers are all mixed."""
    assume(pool is None or (shape.out_rows >= pool[0] and shape.out_columns >= pool[1]))
    layer = Layer(shape, seed)
    given = layer.forward_record(size, bias=True, relu=relu, pool=pool, cache=cache, halo=1)
    forward(layer, given)
    sizes = BackwardSizes(given.sizes, shape.height, shape.width, shape.pads[0][0], shape.pads[1][0])
    random = np.random.default_rng(seed + 1)
    gradient = layer.memory.copy(random.standard_normal(given.output.shape, np.float32))
    gradient[shape.images :] = np.nan
    by_input = layer.rotated_record(
        sizes.by_input, 0, sizes.image, sizes.row,
        (sizes.rows - max(0, shape.pads[0][0] - 2), sizes.columns - max(0, shape.pads[1][0] - 2)), True,
    )  # fmt: skip
    by_input.output[...] = before = random.standard_normal(by_input.output.shape, np.float32)
    sums = layer.sums_record(given, 0, sizes.image, sizes.row, parts)
    record = layer.backward_record(given, gradient, sums, by_input if wanted else None, sizes)
    for panel in range(by_input.sizes.panels):
        run(transform_filters, by_input.record, panel, panel + 1)
    for part in range(parts):
        ends = [shape.held * p // parts for p in (part, part + 1)]
        run(winograd_backward, record, *ends, part, worker=part % 2)
    dy = spread(given, shape, gradient, relu, pool)
    dx, dw = reference.convolve_gradients(
        layer.x.astype(float), layer.filters.astype(float), (1, 1), shape.pads, (1, 1), 1, dy
    )
    if wanted:
        assert_close("input", by_input.output[: shape.images], dx + before[: shape.images], TOLERANCE[size], LEAST)
        assert (by_input.output[shape.images :] == before[shape.images :]).all()
    else:
        assert (by_input.output == before).all()
    check_filters(sums, dw, size)
    bias = sums.partials[:, dw.size :].sum(0, dtype=float)
    usual = max(0.1, float(np.sqrt(np.square(dy).sum((0, 1, 2))).max()))  # a sum that cancels is mostly rounding
    assert_close("bias", bias, dy.sum((0, 1, 2)), 1e-5, least=usual)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [64, 512])
def test_the_error_grows_little_with_the_channels(size: int, channels: int) -> None:
    gradients = Gradients(Shape(4, 14, 14, 40, channels), size, 1 << 20, 1)
    forward(gradients.layer, gradients.by_input)
    assert_close("input", gradients.by_input.output, gradients.expected[0], TOLERANCE[size])
    gradients = Gradients(Shape(8, 14, 14, channels, 40), size, 1 << 20, 2)
    run(winograd_by_filter, gradients.by_filter.record, 0, 8)
    check_filters(replace(gradients.by_filter, partials=gradients.by_filter.partials[:1]), gradients.expected[1], size)


def test_sizes_hold_whole_tiles() -> None:
    sizes = BackwardSizes(WinogradSizes(4, 3, 14, 14, 5), 14, 14, 1, 1)
    assert (sizes.rows, sizes.columns) == (18, 18)
    assert sizes.inside == sizes.row + 5
    assert sizes.window == 0
