"""Average pooling, global too: padding does not count; overlapping, gappy and cut-off windows; NaN."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from calling import GUARD, Doubles, Floats, Images, Numbers, assert_near, call, guards, normal
from hypothesis import given, settings
from hypothesis import strategies as st
from stepping import SEEDS

from bptcnn.kernels.averaging import AVERAGING, average, average_backward

MANY = settings(max_examples=4 * settings().max_examples)
Pair = tuple[int, int]


@dataclass(frozen=True)
class Shape:
    """Of a pooling: everything but numbers; `behind` is the padding below and to the right."""

    channels: int
    size: Pair
    window: Pair
    stride: Pair
    padding: Pair
    behind: Pair

    @property
    def out_size(self) -> Pair:
        rows, columns = (
            (self.size[i] + self.padding[i] + self.behind[i] - self.window[i]) // self.stride[i] + 1 for i in (0, 1)
        )
        return rows, columns

    def weights(self, axis: int) -> Doubles:
        """Return which of the axis's pixels (columns) each window (rows) covers."""
        starts = np.arange(self.out_size[axis]) * self.stride[axis] - self.padding[axis]
        pixels = np.arange(self.size[axis])
        covered = (pixels >= starts[:, None]) & (pixels < starts[:, None] + self.window[axis])
        return covered / np.maximum(covered.sum(1, keepdims=True), 1)

    def forward(self, x: Floats) -> Doubles:
        return np.einsum("yh,xw,nhwc->nyxc", self.weights(0), self.weights(1), x.astype(np.float64))

    def backward(self, g: Floats) -> Doubles:
        return np.einsum("yh,xw,nyxc->nhwc", self.weights(0), self.weights(1), g.astype(np.float64))

    def fields(self) -> dict[str, Any]:
        pairs = {"window": self.window, "stride": self.stride, "out": self.out_size}
        fields: dict[str, Any] = dict.fromkeys(AVERAGING.names or (), 0)
        for name, pair in pairs.items():
            fields[f"{name}_rows"], fields[f"{name}_columns"] = pair
        fields["padding_top"], fields["padding_left"] = self.padding
        return fields | {"channels": self.channels, "height": self.size[0], "width": self.size[1]}


def pairs(least: int, most: int) -> st.SearchStrategy[Pair]:
    return st.tuples(st.integers(least, most), st.integers(least, most))


SHAPES = st.builds(Shape, st.integers(1, 35), pairs(1, 9), pairs(1, 4), pairs(1, 4), pairs(0, 3), pairs(0, 3)).filter(
    lambda shape: min(shape.out_size) >= 1
)


def check(shape: Shape, images: int, batch: int, first: int, ring: int, accumulate: bool, seed: int) -> None:
    random = np.random.default_rng(seed)
    x, before = (normal(random, images, *shape.size, shape.channels) for _ in range(2))
    g = normal(random, images, *shape.out_size, shape.channels)
    covered = slice(first, max(first, min(batch, images)))
    around = ((ring, ring), (ring, ring))
    source, output = Images(x, around), Images(guards(*g.shape), around, around=float(GUARD))
    gradient, result, count = Numbers(g), Numbers(before), Numbers([batch])
    record = shape.fields() | source.fields("input") | output.fields("output")
    record |= {"batch": count.address, "output_gradient": gradient.address, "accumulate": int(accumulate)}
    call(average, AVERAGING, record, first, images)
    call(average_backward, AVERAGING, record, first, images)  # nobody wants it
    np.testing.assert_array_equal(result.view, before)
    call(average_backward, AVERAGING, record | {"input_gradient": result.address}, first, images)
    assert_near("output", output.view[covered], shape.forward(x[covered]))
    expected = shape.backward(g[covered]) + (before[covered] if accumulate else 0)
    assert_near("input gradient", result.view[covered], expected)
    assert output.intact()
    assert result.intact()
    assert (np.delete(output.view, covered, axis=0) == GUARD).all()
    np.testing.assert_array_equal(np.delete(result.view, covered, axis=0), np.delete(before, covered, axis=0))


@MANY
@given(
    shape=SHAPES,
    images=st.integers(1, 3),
    batch=st.integers(1, 3),
    first=st.integers(0, 2),
    ring=st.integers(0, 2),
    accumulate=st.booleans(),
    seed=SEEDS,
)
def test_any_windows(shape: Shape, images: int, batch: int, first: int, ring: int, accumulate: bool, seed: int) -> None:
    check(shape, images, batch, first, ring, accumulate, seed)


@given(size=pairs(1, 9), channels=st.integers(1, 70), images=st.integers(1, 3), accumulate=st.booleans(), seed=SEEDS)
def test_global(size: Pair, channels: int, images: int, accumulate: bool, seed: int) -> None:
    shape = Shape(channels, size, size, (1, 1), (0, 0), (0, 0))
    assert shape.out_size == (1, 1)
    check(shape, images, images, 0, 0, accumulate, seed)


def test_nan_reaches_its_windows_only() -> None:
    shape = Shape(3, (6, 6), (2, 2), (2, 2), (0, 0), (0, 0))
    x = np.ones((1, 6, 6, 3), np.float32)
    x[0, 2, 3, 1] = np.nan
    source, output, count = Images(x), Images(guards(1, 3, 3, 3)), Numbers([1])
    record = shape.fields() | source.fields("input") | output.fields("output") | {"batch": count.address}
    call(average, AVERAGING, record, 0, 1)
    assert np.argwhere(np.isnan(output.view)).tolist() == [[0, 1, 1, 1]]
