"""Convolutions with few output pixels in a step, as dense layers over gathered windows."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from kernels.stepping import SEEDS, Case, check_step

from bptcnn.errors import UserError
from bptcnn.inner.executor import Executor
from bptcnn.inner.gathered import GatheredConvolution
from bptcnn.inner.lowering import lower
from bptcnn.networks import BatchNorm, Conv2D, Dense, Flatten, MaxPool2D, Network, Residual

pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))
pads = st.sampled_from(["same", "valid", ((1, 0), (2, 1)), ((0, 3), (3, 0))])


def gathered(network: Network, batch: int) -> list[str]:
    """Return the names of the convolutions that a step of `batch` images gathers."""
    return [op.name for op in lower(network, True, batch=batch).operations if isinstance(op, GatheredConvolution)]


@given(
    height=st.integers(1, 5),
    width=st.integers(1, 5),
    kernel=pairs,
    strides=pairs,
    padding=pads,
    filters=st.integers(200, 240),
    activation=st.sampled_from([None, "relu", "gelu"]),
    bias=st.booleans(),
    images=st.integers(1, 3),
    spare=st.integers(0, 2),
    seed=SEEDS,
)
def test_any_shape(executor: Executor, height, width, kernel, strides, padding, filters, activation, bias, images,
                   spare, seed) -> None:  # type: ignore[no-untyped-def]  # fmt: skip
    first, layer = (
        Conv2D(33000 // (200 * kernel[0] * kernel[1]) + 1, 1, bias=False),
        Conv2D(filters, kernel, strides=strides, padding=padding, activation=activation, bias=bias),
    )
    try:
        network = Network((height, width, 3), [first, layer, Flatten(), Dense(4)])
    except UserError:
        assume(False)
        raise
    assume(gathered(network, images + spare) == ["conv2"])
    case = Case.draw(network, images, seed)
    assume(case.decides_clearly())
    check_step(case, executor, images + spare)


def test_what_follows_and_what_else_reads_the_input(executor: Executor) -> None:
    """Pooling, normalisation, a halo around the output, a block whose branches add up their gradients."""
    block = Residual([Conv2D(64, 3), BatchNorm(activation="relu"), Conv2D(64, 3)], activation="relu")
    layers = [Conv2D(64, 1), block, Conv2D(64, 3, activation="relu"), MaxPool2D(2), Conv2D(8, 3), Flatten(), Dense(5)]
    network = Network((4, 4, 3), layers)
    assert gathered(network, 3) == ["conv2", "conv3", "conv4"]
    for seed in range(20):
        case = Case.draw(network, 3, seed)
        if case.decides_clearly():
            return check_step(case, executor, 3)
    raise AssertionError("no batch decides clearly")


@pytest.mark.parametrize(("batch", "found"), [(0, []), (1, ["conv2"]), (4, ["conv2"]), (5, [])])
def test_only_few_pixels_and_large_filters(batch: int, found: list[str]) -> None:
    network = Network((4, 4, 3), [Conv2D(64, 3), Conv2D(64, 3), Flatten(), Dense(4)])
    assert gathered(network, batch) == found
