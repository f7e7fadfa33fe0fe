"""Convolutions of any shape: forward, gradients by input, filter and bias. No rectifier, no pooling: nothing can flip.

A linear 1x1 convolution goes before the one under test: its gradient shows the gradient by input.
"""

import numpy as np
import pytest
import reference
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from networks.drawn import convolutions, image_shapes
from stepping import SEEDS, Case, assert_close, check_step

from bptcnn.errors import UserError
from bptcnn.inner.executor import Executor
from bptcnn.inner.subnetwork import Subnetwork
from bptcnn.networks import Conv2D, Dense, Flatten, Layer, Network

MANY = settings(max_examples=4 * settings().max_examples)


def fitting(shape: tuple[int, int, int], layers: list[Layer]) -> Network:
    """Return the network, or have hypothesis draw another example where the kernel does not fit."""
    try:
        return Network(shape, layers)
    except UserError:
        assume(False)
        raise


def check_forward(case: Case, executor: Executor, batch_size: int) -> None:
    subnetwork = Subnetwork(case.network, batch_size, executor, training=False)
    subnetwork.weights[:] = case.weights
    expected, _ = reference.forward(case.network, case.weights, case.samples)
    assert_close("output", subnetwork.forward(case.samples), expected, 2e-5)


@MANY
@given(
    shape=image_shapes(15, 40),
    layer=convolutions(activations=st.none()),
    batch=st.integers(1, 5),
    spare=st.integers(0, 3),
    seed=SEEDS,
)
def test_forward(
    executor: Executor, shape: tuple[int, int, int], layer: Conv2D, batch: int, spare: int, seed: int
) -> None:
    check_forward(Case.draw(fitting(shape, [layer, Flatten()]), batch, seed), executor, batch + spare)


@MANY
@given(
    shape=image_shapes(15, 4),
    channels=st.integers(1, 70),
    layer=convolutions(activations=st.none()),
    images=st.integers(1, 5),
    spare=st.integers(0, 3),
    seed=SEEDS,
)
def test_gradients(
    executor: Executor,
    shape: tuple[int, int, int],
    channels: int,
    layer: Conv2D,
    images: int,
    spare: int,
    seed: int,
) -> None:
    network = fitting(shape, [Conv2D(channels, 1, bias=False), layer, Flatten(), Dense(5)])
    check_step(Case.draw(network, images, seed), executor, images + spare)


@MANY
@given(shape=image_shapes(15, 70), layer=convolutions(activations=st.none()), images=st.integers(1, 4), seed=SEEDS)
def test_gradients_of_the_first_layer(
    executor: Executor, shape: tuple[int, int, int], layer: Conv2D, images: int, seed: int
) -> None:
    check_step(Case.draw(fitting(shape, [layer, Flatten(), Dense(3)]), images, seed), executor, images)


@given(shape=image_shapes(9, 6), layer=convolutions(20, 5, st.just("relu")), images=st.integers(1, 3), seed=SEEDS)
def test_a_rectifier(executor: Executor, shape: tuple[int, int, int], layer: Conv2D, images: int, seed: int) -> None:
    case = Case.draw(fitting(shape, [Conv2D(3, 1), layer, Flatten(), Dense(4)]), images, seed)
    assume(case.decides_clearly())
    check_step(case, executor, images)


@pytest.mark.parametrize(
    ("shape", "layer"),
    [
        ((1, 1, 1), Conv2D(1, 1)),
        ((1, 1, 1), Conv2D(33, 7)),
        ((28, 28, 1), Conv2D(32, 3)),
        ((14, 14, 32), Conv2D(64, 3)),
        ((10, 10, 64), Conv2D(64, 3)),
        ((11, 11, 128), Conv2D(130, 3)),
        ((5, 5, 16), Conv2D(17, 3, strides=2)),
        ((9, 8, 3), Conv2D(5, 1, strides=3)),
        ((7, 7, 3), Conv2D(4, (1, 7), padding="valid")),
        ((6, 7, 3), Conv2D(4, (7, 1))),
        ((2, 2, 3), Conv2D(4, 2, padding=((3, 0), (0, 3)))),
        ((3, 3, 2), Conv2D(4, 2, strides=2, padding=((5, 5), (5, 5)))),
        ((8, 8, 2), Conv2D(4, 3, strides=2, padding="valid")),
        ((8, 40, 3), Conv2D(3, 2, strides=(1, 3), padding="valid")),
        ((3, 100, 2), Conv2D(20, 3)),
    ],
)
def test_corner_shapes(executor: Executor, shape: tuple[int, int, int], layer: Conv2D) -> None:
    check_forward(Case.draw(Network(shape, [layer, Flatten()]), 3, 1), executor, 4)
    network = Network((*shape[:2], 2), [Conv2D(shape[2], 1, bias=False), layer, Flatten(), Dense(5)])
    check_step(Case.draw(network, 3, 2), executor, 4)


def test_exact_numbers_give_exact_sums(executor: Executor) -> None:
    network = Network((6, 5, 3), [Conv2D(18, 3), Flatten()])
    random = np.random.default_rng(0)
    subnetwork = Subnetwork(network, 2, executor, training=False)
    subnetwork.weights[:] = random.integers(-4, 5, network.size)
    samples = random.integers(-4, 5, (2, 6, 5, 3)).astype(np.float32)
    expected, _ = reference.forward(network, subnetwork.weights, samples)
    # Transforms (Winograd's) round; what direct sums give is exact, and rounding to integers must restore it.
    np.testing.assert_array_equal(np.rint(subnetwork.forward(samples)), expected)
