"""Winograd's backward pass, its tasks divided in every way, against float64."""

import numpy as np
import pytest
import reference_arithmetic as reference
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from stepping import SEEDS, assert_close
from test_winograd import LEAST, TOLERANCE, forward, shapes
from winograd_layers import Floats, Forward, Layer, Shape, run

from bptcnn.kernels.winograd import transform_filters, winograd
from bptcnn.kernels.winograd_gradients import winograd_backward, winograd_by_filter
from bptcnn.kernels.winograd_sizes import BackwardSizes, WinogradSizes
from bptcnn.kernels.winograd_transforms import SIZES

MANY = settings(max_examples=4 * settings().max_examples)


class Backward:
    """A layer after its forward pass, a random gradient of its output, and the records of the backward pass.

    `over`: tasks over channels take the gradient by filter ("sums"), that by input, too ("all"), or none ("none").
    """

    def __init__(
        self, shape: Shape, size: int, seed: int, *, cache: int = 1 << 20, relu: bool = False,
        pool: tuple[int, int] | None = None, over: str = "none", parts: int = 1, wanted: bool = True,
    ) -> None:  # fmt: skip
        self.layer, self.parts, self.wanted = Layer(shape, seed), parts, wanted
        self.relu, self.pool, blocked = relu, pool, over == "all"
        self.forward = self.layer.forward_record(
            size, bias=True, relu=relu, pool=pool, cache=cache, halo=1, blocked=blocked
        )  # fmt: skip
        forward(self.layer, self.forward)
        top, left = shape.pads[0][0], shape.pads[1][0]
        self.sizes = BackwardSizes(self.forward.sizes, shape.height, shape.width, top, left, over != "none")
        random = np.random.default_rng(seed + 1)
        self.gradient = self.layer.memory.copy(random.standard_normal(self.forward.output.shape, np.float32))
        self.gradient[shape.images :] = np.nan
        self.by_input = self.layer.rotated_record(self.sizes, True)
        self.before = random.standard_normal(self.by_input.output.shape, np.float32)
        self.by_input.output[...] = self.before
        self.sums = self.layer.sums_record(self.forward, self.sizes, parts)
        by_input = self.by_input if wanted else None
        self.record = self.layer.backward_record(self.forward, self.gradient, self.sums, by_input, self.sizes)

    def run(self) -> None:
        """Run the tasks of the backward pass: `parts` over images, then those over channels."""
        held, sizes, by_input = self.layer.shape.held, self.sizes, self.by_input
        for panel in range(0 if by_input.sizes.blocked else by_input.sizes.panels):
            run(transform_filters, by_input.record, panel, panel + 1)
        for part in range(self.parts):
            ends = [held * p // self.parts for p in (part, part + 1)]
            run(winograd_backward, self.record, *ends, part, worker=part % 2)
        for block in range(sizes.by_filter.blocks if sizes.sums_blocked else 0):
            run(winograd_by_filter, self.sums.record, 0, held, block, worker=block % 2)
        for block in range(by_input.sizes.out_blocks if by_input.sizes.blocked and self.wanted else 0):
            for begin, end in ((0, held // 2), (held // 2, held)):
                run(winograd, by_input.record, begin, end, block)

    def check(self, size: int) -> None:
        """Compare all three gradients with the reference."""
        layer, images = self.layer, self.layer.shape.images
        dy = spread(self.forward, layer.shape, self.gradient, self.relu, self.pool)
        dx, dw = reference.convolve_gradients(
            layer.x.astype(float), layer.filters.astype(float), (1, 1), layer.shape.pads, (1, 1), 1, dy
        )
        output = self.by_input.output
        if self.wanted:
            assert_close("input", output[:images], dx + self.before[:images], TOLERANCE[size], LEAST)
            assert (output[images:] == self.before[images:]).all()
        else:
            assert (output == self.before).all()
        filters = self.sums.filters.sum(0, dtype=float).reshape(dw.shape)
        assert_close("filters", filters, dw, TOLERANCE[size], LEAST)
        usual = max(0.1, float(np.sqrt(np.square(dy).sum((0, 1, 2))).max()))  # a sum that cancels is mostly rounding
        assert_close("bias", self.sums.bias.sum(0, dtype=float), dy.sum((0, 1, 2)), 1e-5, least=usual)


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
    shape=st.one_of(shapes(), shapes(140)),
    size=st.sampled_from(SIZES),
    cache=st.sampled_from([0, 1 << 20, 1 << 22]),
    relu=st.booleans(),
    pool=st.one_of(st.none(), st.tuples(st.integers(1, 3), st.integers(1, 3))),
    wanted=st.booleans(),
    over=st.sampled_from(["none", "sums", "all"]),
    parts=st.integers(1, 3),
    seed=SEEDS,
)
def test_backward(
    shape: Shape, size: int, cache: int, relu: bool, pool: tuple[int, int] | None, wanted: bool, over: str, parts: int,
    seed: int,
) -> None:  # fmt: skip
    """The input gradient adds to what is there; groups of images, partial sums, blocks and workers are all mixed."""
    assume(pool is None or (shape.out_rows >= pool[0] and shape.out_columns >= pool[1]))
    backward = Backward(shape, size, seed, cache=cache, relu=relu, pool=pool, over=over, parts=parts, wanted=wanted)
    backward.run()
    backward.check(size)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("over", ["none", "sums", "all"])
@pytest.mark.parametrize("channels", [(40, 512), (512, 40), (260, 300)])
def test_the_error_grows_little_with_the_channels(size: int, over: str, channels: tuple[int, int]) -> None:
    backward = Backward(Shape(8, 14, 14, *channels), size, 1, over=over)
    backward.run()
    backward.check(size)


def test_sizes_hold_whole_tiles() -> None:
    sizes = BackwardSizes(WinogradSizes(4, 3, 14, 14, 5), 14, 14, 1, 1)
    assert (sizes.rows, sizes.columns) == (18, 18)
    assert sizes.inside == sizes.row + 5
    assert sizes.window == 0
