"""Convolutions of any groups, strides, dilations and paddings in float64, and the checks of kernels that do them.

A depthwise convolution is one with as many groups as input and output channels; its filters lie alike in memory.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from calling import GUARD, Doubles, Floats, Images, Numbers, assert_near, call, guards, normal
from hypothesis import strategies as st
from stepping import SEEDS

Pair = tuple[int, int]
Pads = tuple[Pair, Pair]
AROUND: Pads = ((1, 1), (1, 1))


def pairs(least: int, most: int) -> st.SearchStrategy[Pair]:
    """Draw two numbers, for rows and columns."""
    return st.tuples(st.integers(least, most), st.integers(least, most))


@dataclass(frozen=True)
class Shape:
    """Of a convolution: everything but numbers. Channels are per group; pads are ((top, bottom), (left, right))."""

    groups: int
    channels: int
    filters: int
    size: Pair
    kernel: Pair
    stride: Pair = (1, 1)
    dilation: Pair = (1, 1)
    pads: Pads = ((0, 0), (0, 0))

    @property
    def window(self) -> Pair:
        return (self.kernel[0] - 1) * self.dilation[0] + 1, (self.kernel[1] - 1) * self.dilation[1] + 1

    @property
    def out_size(self) -> Pair:
        """Not positive where the window does not fit."""
        rows, columns = ((self.size[i] + sum(self.pads[i]) - self.window[i]) // self.stride[i] + 1 for i in (0, 1))
        return rows, columns

    @property
    def zeros(self) -> Pads:
        """The zeros around an image that windows reach."""
        reach = [(self.out_size[i] - 1) * self.stride[i] + self.window[i] for i in (0, 1)]
        rows, columns = ((self.pads[i][0], max(0, reach[i] - self.pads[i][0] - self.size[i])) for i in (0, 1))
        return rows, columns

    def _padded(self, x: Doubles) -> Doubles:
        """Add the zeros, split the channels: (images, rows, columns, groups, channels)."""
        rows, columns = (self.size[i] + sum(self.zeros[i]) for i in (0, 1))
        padded = np.pad(x, ((0, 0), *self.zeros, (0, 0)))
        return padded.reshape(len(x), rows, columns, self.groups, self.channels)

    def _tap(self, padded: Doubles, row: int, column: int) -> Doubles:
        """View what a tap of the window meets at every output pixel."""
        top, left = row * self.dilation[0], column * self.dilation[1]
        rows, columns = self.out_size
        return padded[
            :,
            top : top + (rows - 1) * self.stride[0] + 1 : self.stride[0],
            left : left + (columns - 1) * self.stride[1] + 1 : self.stride[1],
        ]

    def _split(self, filters: Floats) -> Doubles:
        return filters.astype(np.float64).reshape(*self.kernel, self.channels, self.groups, self.filters)

    def forward(self, x: Floats, filters: Floats) -> Doubles:
        """Return the convolution of images (n, height, width, groups * channels)."""
        padded, split = self._padded(x.astype(np.float64)), self._split(filters)
        taps = [np.einsum("nyxgc,cgk->nyxgk", self._tap(padded, r, k), split[r, k]) for r, k in np.ndindex(self.kernel)]
        return np.sum(taps, axis=0).reshape(len(x), *self.out_size, self.groups * self.filters)

    def _grouped(self, g: Floats) -> Doubles:
        return g.astype(np.float64).reshape(*g.shape[:3], self.groups, self.filters)

    def by_input(self, g: Floats, filters: Floats) -> Doubles:
        """Return the gradient by the images."""
        padded = self._padded(np.zeros((len(g), *self.size, self.groups * self.channels)))
        split = self._split(filters)
        for r, k in np.ndindex(self.kernel):
            self._tap(padded, r, k)[...] += np.einsum("nyxgk,cgk->nyxgc", self._grouped(g), split[r, k])
        (top, _), (left, _) = self.zeros
        inside = padded[:, top : top + self.size[0], left : left + self.size[1]]
        return inside.reshape(len(g), *self.size, self.groups * self.channels)

    def by_filter(self, x: Floats, g: Floats) -> Doubles:
        """Return the gradient by the filters (KH, KW, channels, groups * filters)."""
        padded, grouped = self._padded(x.astype(np.float64)), self._grouped(g)
        taps = [np.einsum("nyxgc,nyxgk->cgk", self._tap(padded, r, k), grouped) for r, k in np.ndindex(self.kernel)]
        return np.reshape(taps, (*self.kernel, self.channels, self.groups * self.filters))


@dataclass(frozen=True)
class Kernels:
    """What is tested: a record, its task kernels, and `fields(case)`: the fields that only this record has."""

    record: np.dtype[Any]
    forward: int
    backward: int
    fields: Callable[["Case"], dict[str, Any]]


@dataclass
class Case:
    """One call over images [first, last) of `images`, of which the batch has `batch`, with random numbers."""

    kernels: Kernels
    shape: Shape
    images: int
    batch: int
    first: int
    last: int
    seed: int
    kept: list[Any] = field(default_factory=list, repr=False)  # memory that records point to

    def __post_init__(self) -> None:
        random = np.random.default_rng(self.seed)
        shape = self.shape
        outputs = shape.groups * shape.filters
        self.x = normal(random, self.images, *shape.size, shape.groups * shape.channels)
        self.filters = normal(random, *shape.kernel, shape.channels, outputs)
        self.bias = normal(random, outputs)
        self.y = normal(random, self.images, *shape.out_size, outputs)
        self.gradient = normal(random, *self.y.shape)

    @property
    def covered(self) -> slice:
        """The images that a call may touch."""
        return slice(self.first, max(self.first, min(self.last, self.batch)))

    def address(self, values: Any) -> int:
        """Put numbers into memory that lives as long as the case."""
        self.kept.append(Numbers(values))
        return int(self.kept[-1].address)

    def fields(self, output: Images) -> dict[str, Any]:
        """Return the fields that follow from shape and numbers; those of gradients are 0."""
        shape = self.shape
        self.source = Images(self.x, shape.zeros)
        fields: dict[str, Any] = dict.fromkeys(self.kernels.record.names or (), 0)
        fields.update(self.source.fields("input") | output.fields("output"))
        for name, pair in (("kernel", shape.kernel), ("stride", shape.stride), ("dilation", shape.dilation)):
            fields[f"{name}_rows"], fields[f"{name}_columns"] = pair
        fields.update(
            batch=self.address([self.batch]), input=self.source.window, channels=shape.groups * shape.channels,
            height=shape.size[0], width=shape.size[1], padding_top=shape.pads[0][0], padding_left=shape.pads[1][0],
            filters=self.address(self.filters), out_rows=shape.out_size[0], out_columns=shape.out_size[1],
            floor=-np.inf,
        )  # fmt: skip
        return fields | self.kernels.fields(self)

    def run_forward(self, bias: bool, floor: float) -> tuple[Floats, Floats]:
        """Return what is put out, and the guards of the images that are not in the range."""
        output = Images(guards(*self.y.shape), around=float(GUARD))
        fields = self.fields(output)
        fields.update(bias=self.address(self.bias) if bias else 0, floor=floor, rectified=int(floor == 0))
        call(self.kernels.forward, self.kernels.record, fields, self.first, self.last)
        assert output.intact()
        return output.view[self.covered], np.delete(output.view, self.covered, axis=0)

    def check_forward(self, bias: bool, floor: float) -> None:
        """Compare with the reference."""
        output, others = self.run_forward(bias, floor)
        expected = self.shape.forward(self.x[self.covered], self.filters) + (self.bias if bias else 0)
        assert_near("output", output, np.maximum(expected, floor))
        assert (others == GUARD).all()

    def run_backward(
        self, rectified: bool, accumulate: bool, wanted: bool = True, before: Floats | None = None
    ) -> tuple[Floats, Floats]:
        """Return the input gradient of all images, and the filter and bias gradient."""
        output, given = Images(self.y, around=float(GUARD)), Numbers(self.gradient)
        fields = self.fields(output)
        result = Numbers(guards(*self.x.shape) if before is None else before)
        partials = Numbers(guards(3, self.filters.size + self.bias.size))
        fields.update(
            rectified=int(rectified), output_gradient=given.address, accumulate=int(accumulate),
            input_gradient=result.address if wanted else 0, partials=partials.address, part_size=partials.view[0].size,
        )  # fmt: skip
        call(self.kernels.backward, self.kernels.record, fields, self.first, self.last, part=1, worker=1)
        assert all(memory.intact() for memory in self.kept)
        assert result.intact()
        assert partials.intact()
        np.testing.assert_array_equal(given.view, self.gradient)
        assert (partials.view[[0, 2]] == GUARD).all(), "other parts"
        return result.view, partials.view[1]

    def check_backward(self, rectified: bool, accumulate: bool) -> None:
        """Compare with the reference."""
        shape, covered = self.shape, self.covered
        before = normal(np.random.default_rng(self.seed + 1), *self.x.shape)
        result, partial = self.run_backward(rectified, accumulate, before=before)
        g = np.where(self.y > 0, self.gradient, 0) if rectified else self.gradient
        expected = shape.by_input(g[covered], self.filters) + (before[covered] if accumulate else 0)
        assert_near("input gradient", result[covered], expected)
        np.testing.assert_array_equal(np.delete(result, covered, axis=0), np.delete(before, covered, axis=0))
        filters = shape.by_filter(self.x[covered], g[covered])
        assert_near("filter gradient", partial[: filters.size].reshape(filters.shape), filters)
        assert_near("bias gradient", partial[filters.size :], g[covered].astype(np.float64).sum((0, 1, 2)))

    def check_nan(self, floor: float) -> None:
        """A NaN reaches what its window reaches, in its group and image only."""
        group = 1
        self.x[1, 2, 3, group * self.shape.channels] = np.nan
        output, _ = self.run_forward(False, floor)
        expected = self.shape.forward(self.x, self.filters)
        np.testing.assert_array_equal(np.isnan(output), np.isnan(expected))
        assert np.isnan(output).any()
        self.gradient[0, 1, 1, self.shape.filters * group] = np.nan
        result, partial = self.run_backward(False, False)
        expected = self.shape.by_input(self.gradient, self.filters)
        np.testing.assert_array_equal(np.isnan(result), np.isnan(expected))
        assert np.isnan(result).any()
        by_filter = self.shape.by_filter(self.x, self.gradient)
        np.testing.assert_array_equal(np.isnan(partial[: by_filter.size]), np.isnan(by_filter).ravel())
        assert np.isnan(by_filter).any()


def cases(kernels: Kernels, shapes: st.SearchStrategy[Shape]) -> st.SearchStrategy[Case]:
    """Draw calls over part of the images, of batches that are partly filled."""

    @st.composite
    def drawn(draw: st.DrawFn) -> Case:
        shape = draw(shapes.filter(lambda shape: min(shape.out_size) >= 1))
        images = draw(st.integers(1, 3))
        first = draw(st.integers(0, images - 1))
        batch, last = draw(st.integers(1, images)), draw(st.integers(first + 1, images))
        return Case(kernels, shape, images, batch, first, last, draw(SEEDS))

    return drawn()
