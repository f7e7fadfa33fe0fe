"""Max pooling, on its own and within a convolution: disjoint, overlapping, gappy; ties; NaN."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from networks.drawn import image_shapes, poolings
from stepping import SEEDS, Case, check_step

from bptcnn.errors import UserError
from bptcnn.inner.executor import Executor
from bptcnn.inner.subnetwork import Subnetwork
from bptcnn.networks import Conv2D, Dense, Flatten, Layer, MaxPool2D, Network

MANY = settings(max_examples=4 * settings().max_examples)


def fitting(shape: tuple[int, int, int], layers: list[Layer]) -> Network:
    try:
        return Network(shape, layers)
    except UserError:
        assume(False)
        raise


@MANY
@given(
    shape=image_shapes(10, 3),
    pooling=poolings(4),
    activation=st.sampled_from([None, "relu"]),
    filters=st.integers(1, 36),
    images=st.integers(1, 4),
    spare=st.integers(0, 2),
    seed=SEEDS,
)
def test_pooling_behind_a_convolution(
    executor: Executor,
    shape: tuple[int, int, int],
    pooling: MaxPool2D,
    activation: str | None,
    filters: int,
    images: int,
    spare: int,
    seed: int,
) -> None:
    convolution = Conv2D(filters, 2, activation=activation)  # type: ignore[arg-type]
    case = Case.draw(fitting(shape, [convolution, pooling, Flatten(), Dense(4)]), images, seed)
    assume(case.decides_clearly())
    check_step(case, executor, images + spare)


@given(shape=image_shapes(12, 3), first=poolings(), second=poolings(), images=st.integers(1, 4), seed=SEEDS)
def test_pooling_behind_pooling(
    executor: Executor, shape: tuple[int, int, int], first: MaxPool2D, second: MaxPool2D, images: int, seed: int
) -> None:
    layers: list[Layer] = [Conv2D(7, 3, activation="relu"), first, second, Flatten(), Dense(4)]
    case = Case.draw(fitting(shape, layers), images, seed)
    assume(case.decides_clearly())
    check_step(case, executor, images)


@given(shape=image_shapes(12, 9), pooling=poolings(5), images=st.integers(1, 4), seed=SEEDS)
def test_pooling_of_the_input(
    executor: Executor, shape: tuple[int, int, int], pooling: MaxPool2D, images: int, seed: int
) -> None:
    case = Case.draw(fitting(shape, [pooling, Conv2D(4, 2), Flatten(), Dense(3)]), images, seed)
    check_step(case, executor, images)


@pytest.mark.parametrize("pooling", [MaxPool2D(2), MaxPool2D(3, 1), MaxPool2D(2, 3), MaxPool2D((15, 17))])
@pytest.mark.parametrize("activation", [None, "relu"])
def test_the_first_of_equals_gets_the_gradient(executor: Executor, pooling: MaxPool2D, activation: str | None) -> None:
    """Whole numbers tie often, and are exact: rounding cannot decide."""
    network = Network((17, 18, 1), [Conv2D(5, 1, activation=activation), pooling, Flatten(), Dense(3)])  # type: ignore[arg-type]
    case = Case.draw(network, 3, 0)
    case.weights[:10] = [1, -1, 2, 0, -2, 1, 0, -3, -1, 0]
    case.samples[:] = np.random.default_rng(1).integers(-2, 3, case.samples.shape)
    check_step(case, executor, 3)


@pytest.mark.parametrize(
    "layers",
    [
        [Conv2D(20, 3), MaxPool2D(2), Flatten(), Dense(4)],
        [Conv2D(20, 3, activation="relu"), MaxPool2D(2), Flatten(), Dense(4)],
        [Conv2D(20, 3, activation="relu"), MaxPool2D(3, 2), Flatten(), Dense(4, activation="relu"), Dense(3)],
        [MaxPool2D(2), Flatten(), Dense(4)],
        [Conv2D(20, 1), Flatten(), Dense(20, activation="relu"), Dense(4)],
    ],
)
@pytest.mark.parametrize("pixel", [0, 17, 35])
def test_nan_in_an_image_reaches_loss_and_output(executor: Executor, layers: list[Layer], pixel: int) -> None:
    case = Case.draw(Network((6, 6, 1), layers), 3, 3)
    clean, gradient = case.stepped(executor, 3)
    assert np.isfinite(clean.loss)
    assert np.isfinite(gradient).all()
    case.samples[1].flat[pixel] = np.nan
    result, gradient = case.stepped(executor, 3)
    assert np.isnan(result.loss)
    assert np.isnan(gradient).any()
    subnetwork = Subnetwork(case.network, 3, executor)
    subnetwork.weights[:] = case.weights
    logits = subnetwork.forward(case.samples)
    assert np.isnan(logits[1]).all()
    assert np.isfinite(logits[[0, 2]]).all(), "other images are not concerned"


def test_nothing_of_a_nan_step_stays_behind(executor: Executor) -> None:
    layers: list[Layer] = [
        Conv2D(20, 3, activation="relu"),
        Conv2D(9, 3, strides=2),
        MaxPool2D(2, 1),
        Flatten(),
        Dense(4),
    ]
    case = Case.draw(Network((7, 7, 2), layers), 4, 4)
    _, expected = case.stepped(executor, 4)
    subnetwork = Subnetwork(case.network, 4, executor, keeps_gradient=True)
    subnetwork.weights[:] = case.weights
    poisoned = np.full_like(case.samples, np.nan)
    assert np.isnan(subnetwork.step(poisoned, case.labels).loss)
    subnetwork.step(case.samples, case.labels)
    assert subnetwork.gradient.tobytes() == expected.tobytes()
    subnetwork.step(poisoned, case.labels)
    subnetwork.step(case.samples[:2], case.labels[:2])
    assert np.isfinite(subnetwork.gradient).all(), "images of an earlier, larger batch"
