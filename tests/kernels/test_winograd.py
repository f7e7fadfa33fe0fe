"""Winograd's forward pass against direct convolution in float64: shapes, edges, blocks, bias, rectifier, pooling."""

import numpy as np
import pytest
import reference_arithmetic as reference
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from stepping import SEEDS, assert_close
from winograd_layers import GUARD, Forward, Layer, Pads, Shape, run

from bptcnn.kernels.winograd import transform_filters, winograd
from bptcnn.kernels.winograd_transforms import FILTER, INPUT, OUTPUT, SIZES, transform_matrix

TOLERANCE = {2: 1e-5, 4: 1e-4, 5: 1e-4}
"""Relative to the largest output. Seen: 1e-6 with tiles of 2 x 2, 1e-5 with 4 x 4."""

LEAST = 1.0
"""Sums that cancel are compared with this: inputs, filters and gradients are of unit size."""

MANY = settings(max_examples=4 * settings().max_examples)
PADS = st.sampled_from([((1, 1), (1, 1)), ((0, 0), (0, 0)), ((2, 0), (1, 2))])


@st.composite
def shapes(draw: st.DrawFn, most_channels: int = 70) -> Shape:
    """Any 3x3 convolution that gives at least one pixel."""
    pads: Pads = draw(PADS)
    height, width = draw(st.integers(1, 20)), draw(st.integers(1, 20))
    images = draw(st.integers(1, 5))
    shape = Shape(
        images, height, width, draw(st.integers(1, most_channels)), draw(st.integers(1, most_channels)), pads,
        images + draw(st.integers(0, 2)),
    )  # fmt: skip
    assume(shape.out_rows > 0 and shape.out_columns > 0)
    return shape


def forward(layer: Layer, given: Forward, ranges: int = 1) -> None:
    """Run the forward tasks: filters' panels one by one, images in `ranges`, and blocks of output channels."""
    for panel in range(0 if given.sizes.blocked else given.sizes.panels):
        run(transform_filters, given.record, panel, panel + 1, worker=panel % 2)
    held = layer.shape.held
    for block in range(given.sizes.out_blocks):
        for part in range(ranges):
            run(winograd, given.record, held * part // ranges, held * (part + 1) // ranges, block, worker=part % 2)


def check(layer: Layer, given: Forward, expected: reference.Array, size: int) -> None:
    images = layer.shape.images
    assert_close("output", given.output[:images], expected, TOLERANCE[size], LEAST)
    assert (given.output[images:] == GUARD).all(), "an image that is not in the batch"
    assert given.guarded()


@pytest.mark.parametrize("size", SIZES)
def test_the_matrices_are_an_algorithm_for_convolution(size: int) -> None:
    """In one dimension, exactly: A^T [(G g) * (B^T d)] correlates d with g, for each pair of unit vectors."""
    outputs, filters, inputs = (transform_matrix(kind, size) for kind in (OUTPUT, FILTER, INPUT))
    for tap in range(3):
        for place in range(size + 2):
            products = [f[tap] * b[place] for f, b in zip(filters, inputs, strict=True)]
            sums = [sum(a * p for a, p in zip(row, products, strict=True)) for row in outputs]
            assert sums == [int(place == out + tap) for out in range(size)]


@MANY
@given(
    shape=shapes(),
    size=st.sampled_from(SIZES),
    bias=st.booleans(),
    relu=st.booleans(),
    cache=st.sampled_from([0, 1 << 18, 1 << 22]),
    halo=st.integers(0, 2),
    ranges=st.integers(1, 3),
    blocked=st.booleans(),
    seed=SEEDS,
)
def test_forward(
    shape: Shape, size: int, bias: bool, relu: bool, cache: int, halo: int, ranges: int, blocked: bool, seed: int
) -> None:
    layer = Layer(shape, seed)
    given = layer.forward_record(size, bias=bias, relu=relu, cache=cache, halo=halo, blocked=blocked)
    forward(layer, given, ranges)
    expected = layer.convolved + (layer.bias if bias else 0)
    check(layer, given, np.maximum(expected, 0) if relu else expected, size)


@MANY
@given(
    shape=st.one_of(shapes(20), shapes()),
    size=st.sampled_from(SIZES),
    window=st.tuples(st.integers(1, 5), st.integers(1, 4)),
    relu=st.booleans(),
    choices=st.booleans(),
    cache=st.sampled_from([0, 1 << 20]),
    halo=st.integers(0, 1),
    blocked=st.booleans(),
    seed=SEEDS,
)
def test_forward_with_pooling(
    shape: Shape, size: int, window: tuple[int, int], relu: bool, choices: bool, cache: int, halo: int, blocked: bool,
    seed: int,
) -> None:  # fmt: skip
    assume(shape.out_rows >= window[0] and shape.out_columns >= window[1])
    layer = Layer(shape, seed)
    given = layer.forward_record(
        size, bias=True, relu=relu, pool=window, choices=choices, cache=cache, halo=halo, blocked=blocked
    )
    forward(layer, given, 2)
    convolved = layer.convolved + layer.bias
    expected, best = reference.pool(np.maximum(convolved, 0) if relu else convolved, window, window, ((0, 0), (0, 0)))
    check(layer, given, expected, size)
    chosen = given.choice[: shape.images]
    assert (given.choice[shape.images :] == 77).all()
    if not choices:
        assert (chosen == 77).all()
        return
    alive = given.output[: shape.images] > 0 if relu else np.ones(chosen.shape, bool)
    assert (chosen[~alive] == 255).all()
    windows = np.lib.stride_tricks.sliding_window_view(convolved, window, axis=(1, 2))
    flat = windows[:, :: window[0], :: window[1]].reshape(*best.shape, -1)
    taken = np.take_along_axis(flat, np.minimum(chosen, flat.shape[-1] - 1)[..., None].astype(int), -1)[..., 0]
    assert (chosen[alive] < flat.shape[-1]).all()
    near = TOLERANCE[size] * np.abs(convolved).max()  # another choice is right where the two are that near
    assert (np.abs(taken - expected)[alive] <= near).all()


@pytest.mark.parametrize(
    ("size", "value", "relu"),
    [
        *((size, np.nan, True) for size in SIZES),
        *((size, np.inf, False) for size in SIZES),
        *((size, np.inf, True) for size in SIZES if size != 5),  # there it may be minus infinity, of which it makes 0
    ],
)
def test_what_is_no_number_stays_in_its_image_and_near_its_pixel(size: int, value: float, relu: bool) -> None:
    layer = Layer(Shape(3, 9, 10, 5, 6))
    layer.input[1, 5, 5] = value
    given = layer.forward_record(size, relu=relu)
    forward(layer, given)
    finite = np.isfinite(given.output)
    assert finite[[0, 2]].all()
    assert not finite[1, 3:6, 3:6].any(), "the window's own pixels show it"
    assert finite[1, 8:].all()
    assert finite[1, :, 8:].all()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("blocked", [False, True])
def test_accumulating_adds_to_what_is_there(size: int, blocked: bool) -> None:
    layer = Layer(Shape(3, 7, 9, 69, 71))
    given = layer.forward_record(size, halo=1, blocked=blocked)
    given.record["accumulate"] = 1
    before = np.random.default_rng(1).standard_normal(given.output.shape, np.float32)
    given.output[...] = before
    forward(layer, given)
    assert_close("output", given.output, before + layer.convolved, TOLERANCE[size])
    assert given.guarded()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [64, 512])
@pytest.mark.parametrize("blocked", [False, True])
def test_the_error_grows_little_with_the_channels(size: int, channels: int, blocked: bool) -> None:
    layer = Layer(Shape(1, 14, 14, channels, 48))
    given = layer.forward_record(size, blocked=blocked)
    forward(layer, given)
    check(layer, given, layer.convolved, size)
