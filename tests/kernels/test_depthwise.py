"""Depthwise convolution and its gradients over drawn kernels, strides, dilations and paddings, against float64."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from calling import GUARD, Doubles, Floats, Images, Numbers, assert_near, call, guards, normal
from hypothesis import example, given, settings
from hypothesis import strategies as st
from stepping import SEEDS

from bptcnn.kernels.depthwise import DEPTHWISE, depthwise, depthwise_backward, scratch_image
from bptcnn.kernels.unit import UNIT

MANY = settings(max_examples=4 * settings().max_examples)
Pair = tuple[int, int]


@dataclass(frozen=True)
class Shape:
    """Of a depthwise convolution: everything but numbers. Pads are ((top, bottom), (left, right))."""

    channels: int
    size: Pair
    kernel: Pair
    stride: Pair = (1, 1)
    dilation: Pair = (1, 1)
    pads: tuple[Pair, Pair] = ((0, 0), (0, 0))

    @property
    def window(self) -> Pair:
        return (self.kernel[0] - 1) * self.dilation[0] + 1, (self.kernel[1] - 1) * self.dilation[1] + 1

    @property
    def out_size(self) -> Pair:
        """Not positive where the window does not fit."""
        rows, columns = ((self.size[i] + sum(self.pads[i]) - self.window[i]) // self.stride[i] + 1 for i in (0, 1))
        return rows, columns

    @property
    def zeros(self) -> tuple[Pair, Pair]:
        """The zeros around an image that windows reach."""
        rows, columns = (
            (
                self.pads[i][0],
                max(0, (self.out_size[i] - 1) * self.stride[i] + self.window[i] - self.pads[i][0] - self.size[i]),
            )
            for i in (0, 1)
        )
        return rows, columns

    def padded(self, x: Floats) -> Doubles:
        return np.pad(x.astype(np.float64), ((0, 0), *self.zeros, (0, 0)))

    def tap(self, padded: Doubles, row: int, column: int) -> Doubles:
        """View what a tap of the window meets at every output pixel."""
        top, left = row * self.dilation[0], column * self.dilation[1]
        rows, columns = self.out_size
        return padded[
            :,
            top : top + (rows - 1) * self.stride[0] + 1 : self.stride[0],
            left : left + (columns - 1) * self.stride[1] + 1 : self.stride[1],
        ]

    def forward(self, x: Floats, filters: Floats) -> Doubles:
        padded = self.padded(x)
        taps = np.ndindex(self.kernel)
        return np.sum([self.tap(padded, r, k) * filters[r, k].astype(np.float64) for r, k in taps], axis=0)

    def by_input(self, g: Floats, filters: Floats) -> Doubles:
        padded = self.padded(np.zeros((len(g), *self.size, self.channels), np.float32))
        for r, k in np.ndindex(self.kernel):
            self.tap(padded, r, k)[...] += g.astype(np.float64) * filters[r, k]
        (top, _), (left, _) = self.zeros
        return padded[:, top : top + self.size[0], left : left + self.size[1]]

    def by_filter(self, x: Floats, g: Floats) -> Doubles:
        padded, wide = self.padded(x), g.astype(np.float64)
        sums = [np.einsum("nyxc,nyxc->c", self.tap(padded, r, k), wide) for r, k in np.ndindex(self.kernel)]
        return np.reshape(sums, (*self.kernel, self.channels))


def pairs(least: int, most: int) -> st.SearchStrategy[Pair]:
    return st.tuples(st.integers(least, most), st.integers(least, most))


CHANNELS = st.one_of(st.integers(1, 2 * UNIT.lanes + 1), st.sampled_from([32, 48, 67]))
AROUND: tuple[Pair, Pair] = ((1, 1), (1, 1))
SHAPES = st.one_of(
    st.builds(Shape, CHANNELS, pairs(1, 12), st.just((3, 3)), st.sampled_from([(1, 1), (2, 2)]), pads=st.just(AROUND)),
    st.builds(Shape, CHANNELS, pairs(2, 12), st.just((3, 3)), st.just((2, 2)), pads=st.just(((0, 1), (0, 1)))),
    st.builds(
        Shape, CHANNELS, pairs(1, 12), pairs(1, 5), pairs(1, 4), pairs(1, 3), st.tuples(pairs(0, 3), pairs(0, 3))
    ),
).filter(lambda shape: min(shape.out_size) >= 1)


@dataclass
class Call:
    """One call over images [first, last) of `images`, of which the batch has `batch`."""

    shape: Shape
    images: int
    batch: int
    first: int
    last: int
    seed: int

    def __post_init__(self) -> None:
        random = np.random.default_rng(self.seed)
        shape = self.shape
        self.x = normal(random, self.images, *shape.size, shape.channels)
        self.filters = normal(random, *shape.kernel, shape.channels)
        self.bias = normal(random, shape.channels)
        self.y = normal(random, self.images, *shape.out_size, shape.channels)
        self.gradient = normal(random, *self.y.shape)

    @property
    def covered(self) -> slice:
        return slice(self.first, max(self.first, min(self.last, self.batch)))

    def fields(self) -> dict[str, Any]:
        """Return a record's fields that follow from the shape; addresses are 0."""
        shape = self.shape
        fields: dict[str, Any] = dict.fromkeys(DEPTHWISE.names or (), 0)
        self.count = np.array([self.batch])
        self.weights, self.source = Numbers(self.filters), Images(self.x, shape.zeros)
        for name, pair in (("kernel", shape.kernel), ("stride", shape.stride), ("dilation", shape.dilation)):
            fields[f"{name}_rows"], fields[f"{name}_columns"] = pair
        fields.update(self.source.fields("input"))
        fields.update(
            batch=self.count.ctypes.data, input=self.source.window, channels=shape.channels, height=shape.size[0],
            width=shape.size[1], padding_top=shape.pads[0][0], padding_left=shape.pads[1][0],
            filters=self.weights.address, out_rows=shape.out_size[0], out_columns=shape.out_size[1], floor=-np.inf,
        )  # fmt: skip
        return fields

    def run_forward(self, bias: bool, floor: float) -> tuple[Floats, Floats]:
        """Return what is put out, and the guards of the images that are not in the range."""
        fields, offsets = self.fields(), Numbers(self.bias)
        output = Images(guards(*self.y.shape), around=float(GUARD))
        fields.update(
            output.fields("output"), bias=offsets.address if bias else 0, floor=floor, rectified=int(floor == 0)
        )
        call(depthwise, DEPTHWISE, fields, self.first, self.last)
        assert output.intact()
        return output.view[self.covered], np.delete(output.view, self.covered, axis=0)

    def run_backward(
        self, rectified: bool, accumulate: bool, wanted: bool = True, before: Floats | None = None
    ) -> tuple[Floats, Floats]:
        """Return the input gradient of all images, and the partial sums (3 parts, of which part 1 is computed)."""
        shape, fields = self.shape, self.fields()
        halo = scratch_image(
            shape.size, shape.out_size, shape.kernel, shape.stride, shape.dilation, (shape.pads[0][0], shape.pads[1][0])
        )
        scratch = Numbers(np.zeros((2, halo.rows, halo.columns, shape.channels), np.float32))
        scratch.view[0] = np.nan  # worker 0's
        output, given = Images(self.y, around=float(GUARD)), Numbers(self.gradient)
        result = Numbers(guards(self.images, *shape.size, shape.channels) if before is None else before)
        partials = Numbers(guards(3, self.filters.size + shape.channels))
        fields.update(
            output.fields("output"), rectified=int(rectified),
            output_gradient=given.address, input_gradient=result.address if wanted else 0, accumulate=int(accumulate),
            gradient_scratch=scratch.address, gradient_scratch_worker=scratch.view[0].size,
            halo_top=halo.top, halo_left=halo.left, gradient_row=halo.columns * shape.channels,
            partials=partials.address, part_size=partials.view.shape[1],
        )  # fmt: skip
        call(depthwise_backward, DEPTHWISE, fields, self.first, self.last, part=1, worker=1)
        rows, columns = shape.out_size
        scratch.view[1, halo.top : halo.top + rows, halo.left : halo.left + columns] = 0
        assert not scratch.view[1].any(), "the halo stays zeros"
        assert scratch.intact()
        assert result.intact()
        assert partials.intact()
        np.testing.assert_array_equal(given.view, self.gradient)
        assert (partials.view[[0, 2]] == GUARD).all(), "other parts"
        return result.view, partials.view

    def check_backward(self, rectified: bool, accumulate: bool) -> None:
        shape, covered = self.shape, self.covered
        before = normal(np.random.default_rng(self.seed + 1), self.images, *shape.size, shape.channels)
        result, partials = self.run_backward(rectified, accumulate, before=before)
        g = np.where(self.y > 0, self.gradient, 0) if rectified else self.gradient
        expected = shape.by_input(g[covered], self.filters) + (before[covered] if accumulate else 0)
        assert_near("input gradient", result[covered], expected)
        np.testing.assert_array_equal(np.delete(result, covered, axis=0), np.delete(before, covered, axis=0))
        filters = shape.by_filter(self.x[covered], g[covered])
        assert_near("filter gradient", partials[1, : filters.size].reshape(filters.shape), filters)
        bias = g[covered].astype(np.float64).sum((0, 1, 2))
        assert_near("bias gradient", partials[1, filters.size :], bias)


@st.composite
def calls(draw: st.DrawFn) -> Call:
    shape = draw(SHAPES)
    images = draw(st.integers(1, 3))
    first = draw(st.integers(0, images - 1))
    return Call(shape, images, draw(st.integers(1, images)), first, draw(st.integers(first + 1, images)), draw(SEEDS))


def unit_call(shape: Shape) -> Call:
    return Call(shape, 2, 2, 0, 2, 1)


MOBILE = [
    Shape(32, (9, 9), (3, 3), pads=((1, 1), (1, 1))),
    Shape(32, (9, 9), (3, 3), (2, 2), pads=((1, 1), (1, 1))),
    Shape(33, (8, 8), (3, 3), (2, 2), pads=((0, 1), (0, 1))),
]


@MANY
@given(case=calls(), bias=st.booleans(), floor=st.sampled_from([0.0, -np.inf]))
@example(case=unit_call(MOBILE[0]), bias=True, floor=0.0)
@example(case=unit_call(MOBILE[1]), bias=True, floor=0.0)
@example(case=unit_call(MOBILE[2]), bias=False, floor=0.0)
def test_forward(case: Call, bias: bool, floor: float) -> None:
    output, others = case.run_forward(bias, floor)
    expected = case.shape.forward(case.x[case.covered], case.filters) + (case.bias if bias else 0)
    assert_near("output", output, np.maximum(expected, floor))
    assert (others == GUARD).all()


@MANY
@given(case=calls(), rectified=st.booleans(), accumulate=st.booleans())
@example(case=unit_call(MOBILE[0]), rectified=True, accumulate=False)
@example(case=unit_call(MOBILE[1]), rectified=True, accumulate=True)
@example(case=unit_call(MOBILE[2]), rectified=False, accumulate=False)
def test_backward(case: Call, rectified: bool, accumulate: bool) -> None:
    case.check_backward(rectified, accumulate)


@pytest.mark.parametrize("shape", MOBILE)
def test_nobody_wants_the_input_gradient(shape: Shape) -> None:
    case = unit_call(shape)
    result, partials = case.run_backward(True, False, wanted=False)
    assert (result == GUARD).all()
    np.testing.assert_array_equal(partials, case.run_backward(True, False)[1])


@pytest.mark.parametrize("floor", [0.0, -np.inf])
@pytest.mark.parametrize("shape", [*MOBILE, Shape(5, (7, 6), (5, 2), (1, 3), pads=((2, 2), (0, 0)))])
def test_nan_stays_visible(shape: Shape, floor: float) -> None:
    """A NaN reaches what its window reaches, in its channel and image only."""
    case = unit_call(shape)
    case.x[1, 3, 3, 2] = np.nan
    output, _ = case.run_forward(False, floor)
    expected = shape.forward(case.x, np.where(case.filters == 0, 1, case.filters))
    np.testing.assert_array_equal(np.isnan(output), np.isnan(expected))
    assert np.isnan(output).any()
    case.gradient[0, 1, 1, 3] = np.nan
    result, partials = case.run_backward(False, False)
    assert np.isnan(result[0, :, :, 3]).any()
    assert not np.isnan(result[1]).any()
    assert np.isnan(partials[1].reshape(-1, shape.channels)[:, [2, 3]]).any(axis=0).all()
    assert not np.isnan(partials[1].reshape(-1, shape.channels)[:, [0, 1, 4]]).any()
