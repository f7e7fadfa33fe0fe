"""bfloat16 layer by layer: every network of the zoo, and random ones, against the float64 reference.

Over a whole network what rounding to bfloat16 moves grows without bound: in rectifiers and poolings that decide
otherwise, and in batch normalisation over few elements (see inner/README). Two things hold whatever the network:
each layer is right for what it was given, and the whole gradient is that of a reference that rounds where ours does.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import reference
from by_layer import ByLayer
from hypothesis import given
from hypothesis import strategies as st
from kernels.stepping import SEEDS, Case
from replaying import choices, lasting
from test_guarded_arena import wide_networks

from bptcnn.inner.executor import Executor
from bptcnn.inner.subnetwork import Subnetwork
from bptcnn.kernels.unit import MATRIX_UNIT
from bptcnn.networks import (
    ZOO,
    BatchNorm,
    Concatenate,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    GlobalAveragePool2D,
    Layer,
    MaxPool2D,
    Network,
    Residual,
)

pytestmark = pytest.mark.skipif(not MATRIX_UNIT, reason="this CPU multiplies no bfloat16 numbers")

BOUND = 2e-2
"""Of a layer's values and gradients, by relative norm: some eight times what rounding two factors to 8 bits makes."""

ROUNDED = 1e-2
"""Of a whole gradient, where the reference rounds as we do: float32's rounding may flip bfloat16's, rarely."""

SIDES = {
    "cnn2": 14, "lenet5": 16, "vgg11": 32, "vgg16": 32, "resnet18": 32, "resnet34": 32, "resnet50": 32, "alexnet": 64,
    "mobilenet": 32,
}  # fmt: skip
LARGE = ["alexnet", "resnet34", "resnet50", "vgg16"]
"""What takes long: their layers are in what runs by default, too."""

IMAGES, BATCH = 4, 6


@pytest.fixture(scope="module")
def executors() -> Iterator[list[Executor]]:
    made = [Executor(threads) for threads in (1, 2, 3)]
    yield made
    for executor in made:
        executor.close()


def gradients(network: Network, case: Case, executors: list[Executor]) -> list[bytes]:
    """The gradient of two steps without update on each number of threads; dropout is that of the step's number."""
    found = []
    for executor in executors:
        made = Subnetwork(network, BATCH, executor, precision="bf16", keeps_gradient=True)
        made.weights[:] = case.weights
        for _ in range(2):
            made.next_step = 0
            made.step(case.samples, case.labels)
            found.append(made.gradient.tobytes())
    return found


def check_layers(network: Network, executors: list[Executor]) -> ByLayer:
    """All threads agree bit for bit, from step to step, and each layer's values and gradients with the reference."""
    case = Case.draw(network, IMAGES, 0)
    kept = lasting(network, BATCH, executors[1], precision="bf16", sharing=False)
    kept.weights[:] = case.weights
    kept.step(case.samples, case.labels)
    found = gradients(network, case, executors)
    assert all(gradient == found[0] for gradient in found)
    assert found[0] == kept.gradient.tobytes(), "what shares no gradients is no longer the same step"
    checked = ByLayer(kept, case)
    for error in checked.errors:
        assert error.error <= BOUND, error
    parameters = {error.layer for error in checked.errors if error.what == "parameters"}
    assert parameters == {application.name for application in network.applications if application.parameters}
    return checked


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in LARGE else name for name in sorted(ZOO)]
)
def test_the_zoo(executors: list[Executor], name: str) -> None:
    network = ZOO[name]((SIDES[name], SIDES[name], 3), 5)
    check_layers(network, executors)


def bottleneck(channels: int, strides: int) -> Residual:
    """As resnet50 has it, with a projection."""
    main: list[Layer] = [
        Conv2D(channels, 1, bias=False), BatchNorm(activation="relu"),
        Conv2D(channels, 3, strides=strides, bias=False), BatchNorm(activation="relu"),
        Conv2D(4 * channels, 1, bias=False), BatchNorm(),
    ]  # fmt: skip
    return Residual(main, [Conv2D(4 * channels, 1, strides=strides, bias=False), BatchNorm()], "relu")


def test_bottlenecks(executors: list[Executor]) -> None:
    stem: list[Layer] = [Conv2D(32, 3, bias=False), BatchNorm(activation="relu")]
    blocks = [bottleneck(16, 1), bottleneck(32, 2), bottleneck(64, 2)]
    check_layers(Network((12, 12, 3), [*stem, *blocks, GlobalAveragePool2D(), Dense(5)]), executors)


def test_large_windows_and_dropout(executors: list[Executor]) -> None:
    features: list[Layer] = [
        Conv2D(32, 11, strides=4, activation="relu"),
        MaxPool2D(3, 2),
        Conv2D(48, 5, activation="relu"),
    ]
    head: list[Layer] = [Flatten(), Dropout(0.5), Dense(64, "relu"), Dropout(0.5), Dense(5)]
    check_layers(Network((48, 48, 3), [*features, MaxPool2D(3, 2), *head]), executors)


SECOND: list[Layer] = [
    Conv2D(15, 3), Conv2D(4, 1), Conv2D(64, 3, groups=4), Conv2D(32, 3, dilation=2), Conv2D(32, 3), BatchNorm(),
]  # fmt: skip


@pytest.mark.parametrize("second", SECOND, ids=repr)
def test_a_bfloat16_convolution_on_the_input(executors: list[Executor], second: Layer) -> None:
    """Its ones, which sum up the bias's gradient, once lay over the partial sums of what came next."""
    checked = check_layers(Network((12, 7, 64), [Conv2D(64, 3), second, Flatten(), Dense(3)]), executors)
    assert {error.what for error in checked.errors if error.layer == "conv1"} == {"value", "gradient", "parameters"}


def test_two_that_read_one_value_divide_its_gradient_differently(executors: list[Executor]) -> None:
    """As resnet50's projections do: the second adds to the gradient of all that the first wrote, on any threads."""
    both = [[Conv2D(512, 1, strides=2)], [Conv2D(32, 1, strides=2)]]
    network = Network((8, 8, 16), [Conv2D(64, 1), Concatenate(both), Flatten(), Dense(3)])
    check_layers(network, executors)


@given(
    network=wide_networks(dropout=False),
    batch=st.sampled_from([1, 2, 3, 5, 16, 33]),
    lacking=st.integers(0, 32),
    seed=SEEDS,
)
def test_random_networks_round_as_the_reference(
    executor: Executor, network: Network, batch: int, lacking: int, seed: int
) -> None:
    images = max(1, batch - lacking)
    case = Case.draw(network, images, seed)
    kept = lasting(network, batch, executor, precision="bf16")
    kept.weights[:] = case.weights
    loss = kept.step(case.samples, case.labels).loss
    decided = choices(kept, images)
    expected, gradient = reference.loss_and_gradient(network, case.weights, case.samples, case.labels, choices=decided)
    size = max(float(np.linalg.norm(gradient)), 1e-3)
    assert np.linalg.norm(kept.gradient - gradient) <= ROUNDED * size
    assert abs(loss - expected) <= ROUNDED * max(1.0, abs(expected))


def test_normalisation_over_two_elements_enlarges_rounding(executor: Executor) -> None:
    """It maps any two numbers to -1 and 1: so rounding alone moves the gradient by far more than bfloat16's precision.

    The float64 reference moves as far when it rounds, so this is no fault of ours; see inner/README.
    """
    network = Network((2, 1, 32), [Conv2D(64, 1), BatchNorm(), Flatten(), Dense(10)])
    moved, left = [], []
    for seed in range(20):
        case = Case.draw(network, 1, seed)
        kept = lasting(network, 1, executor, precision="bf16")
        kept.weights[:] = case.weights
        kept.step(case.samples, case.labels)
        decided = choices(kept, 1)
        for errors, given_choices in ((moved, replace(decided, bfloat16=())), (left, decided)):
            _, gradient = reference.loss_and_gradient(
                network, case.weights, case.samples, case.labels, choices=given_choices
            )
            errors.append(np.linalg.norm(kept.gradient - gradient) / np.linalg.norm(gradient))
    assert max(moved) > 10 * 2**-8
    assert max(left) < 1e-4
