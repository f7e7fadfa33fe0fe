"""Networks of any layers and blocks against the float64 reference: a step's gradient, statistics, and inference."""

import numpy as np
import pytest
import reference
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from kernels.stepping import SEEDS, Case
from networks.drawn import block_networks

from bptcnn.inner.executor import Executor
from bptcnn.inner.subnetwork import Subnetwork
from bptcnn.kernels.dropout import dropout_multipliers
from bptcnn.networks import (
    Activation,
    AveragePool2D,
    BatchNorm,
    Concatenate,
    Conv2D,
    Dense,
    DepthwiseConv2D,
    Dropout,
    Flatten,
    GlobalAveragePool2D,
    Layer,
    MaxPool2D,
    Network,
    Residual,
)

TOLERANCE = 1e-4
MANY = settings(max_examples=2 * settings().max_examples)


def masks_of(network: Network, images: int) -> dict[str, reference.Array]:
    """What dropout multiplies with in a subnetwork's first step."""
    found = {}
    for index, application in enumerate(network.applications):
        if isinstance(application.layer, Dropout):
            shape = network.shapes[application.inputs[0]]
            size = int(np.prod(shape))
            multipliers = dropout_multipliers(0, 0, 0, index, images, size, application.layer.rate)
            found[application.name] = multipliers.astype(np.float64).reshape(images, *shape)
    return found


def check(case: Case, executor: Executor, batch_size: int, tolerance: float = TOLERANCE) -> None:
    """Compare a step's loss and gradient with the reference."""
    masks = masks_of(case.network, len(case.samples))
    result, gradient = case.stepped(executor, batch_size)
    loss, expected = reference.loss_and_gradient(case.network, case.weights, case.samples, case.labels, True, masks)
    assert abs(result.loss - loss) <= tolerance * max(1.0, abs(loss))
    error = np.linalg.norm(gradient - expected) / max(float(np.linalg.norm(expected)), 1e-30)
    assert error <= tolerance, f"{case.network.layers} on {case.network.input_shape}: error {error}"


@MANY
@given(network=block_networks(), images=st.integers(2, 6), spare=st.integers(0, 9), seed=SEEDS)
def test_random_networks(executor: Executor, network: Network, images: int, spare: int, seed: int) -> None:
    case = Case.draw(network, images, seed)
    assume(case.decides_clearly(masks=masks_of(network, images)))
    check(case, executor, images + spare, 3e-4)  # a normalisation over few pixels magnifies rounding


def block(channels: int, strides: int = 1) -> Residual:
    """A residual block as resnet18 has it."""
    main: list[Layer] = [Conv2D(channels, 3, strides=strides, bias=False), BatchNorm(activation="relu")]
    main += [Conv2D(channels, 3, bias=False), BatchNorm()]
    shortcut = [Conv2D(channels, 1, strides=strides, bias=False), BatchNorm()] if strides > 1 else []
    return Residual(main, shortcut)


NETWORKS = {
    "residual": [Conv2D(8, 3, bias=False), BatchNorm(activation="relu"), block(8), block(8), block(12, 2), block(12)],
    "gradients add up": [
        Conv2D(6, 3),
        Concatenate([[], [Conv2D(5, 3, strides=1, activation="relu")], [MaxPool2D(3, 1, padding="same")], []]),
        Residual([Residual([Conv2D(23, 1, activation="gelu")], activation=None)], activation="leaky_relu"),
        Concatenate([[AveragePool2D(2)], [Conv2D(4, 2, strides=2, padding="valid")], [Conv2D(3, 1, strides=2)]]),
    ],
    "a value read twice": [
        Conv2D(6, 3),
        Concatenate([[], []]),
        Residual([BatchNorm()], activation=None),
        Residual([Conv2D(12, 1)], activation="relu"),
        Residual([BatchNorm(activation="relu")]),
    ],
    "a value read twice, beside another that waits": [
        Conv2D(3, 1),
        Residual(
            [DepthwiseConv2D(1, activation="leaky_relu"), Residual([BatchNorm()], activation=None)], activation=None
        ),
    ],
    "across images": [Conv2D(64, 3, strides=2), block(64), MaxPool2D(2), Conv2D(70, 3, activation="relu"), block(70)],
}


CASES = [
    ("residual", 5),
    ("residual", 17),
    ("gradients add up", 4),
    ("a value read twice", 5),
    ("a value read twice, beside another that waits", 3),
    ("across images", 17),
]


@pytest.mark.parametrize(("name", "images"), CASES)
def test_networks_whose_gradients_share_memory(name: str, images: int, executor: Executor) -> None:
    network = Network((8, 8, 3), [*NETWORKS[name], GlobalAveragePool2D(), Dense(5)])
    for seed in range(50):
        case = Case.draw(network, images, seed)
        if case.decides_clearly():
            check(case, executor, 17, 3e-4)
            return
    pytest.fail("no case without near ties")


BEHIND_FLATTEN: dict[str, list[Layer]] = {
    "dropout": [Dropout(0.5), Dense(3)],
    "leaky_relu": [Activation("leaky_relu"), Dense(3)],
    "relu": [Activation("relu"), Dense(3)],
    "batch norm": [BatchNorm(), Dense(3)],
    "dense in a residual block": [Residual([Dense(100)]), Dense(3)],
    "batch norm in a residual block": [Residual([BatchNorm()]), Dense(3)],
    "dropout in one branch": [Concatenate([[Dense(7)], [Dropout(0.2)]]), Dense(3)],
}


@pytest.mark.parametrize("name", BEHIND_FLATTEN)
@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("beside", [False, True])
def test_layers_behind_flatten(name: str, pooled: bool, beside: bool, executor: Executor) -> None:
    """Flatten copies nothing: they read images of several rows, with a halo where a convolution reads them `beside`."""
    layers: list[Layer] = [Conv2D(4, 3), *([AveragePool2D(2)] if pooled else [])]
    flat: list[Layer] = [Flatten(), *BEHIND_FLATTEN[name]]
    if beside:
        layers.append(Concatenate([flat, [Conv2D(3, 3), Flatten(), Dense(4)]]))
    else:
        layers += flat
    check(Case.draw(Network((10, 10, 2) if pooled else (5, 5, 2), layers), 5, 1), executor, 6)


def test_running_statistics_follow_and_nothing_else_moves(executor: Executor) -> None:
    layers = [Conv2D(7, 3), BatchNorm(momentum=0.7, activation="relu"), block(7), Flatten(), Dense(6), BatchNorm(0.5)]
    case = Case.draw(Network((5, 6, 2), [*layers, Dense(3)]), 9, 1)
    subnetwork = Subnetwork(case.network, 12, executor)
    subnetwork.weights[:] = case.weights
    subnetwork.step(case.samples, case.labels, rate=0.0)
    expected = reference.followed_statistics(case.network, case.weights, case.samples)
    np.testing.assert_allclose(subnetwork.weights, expected, rtol=1e-4, atol=1e-5)


@MANY
@given(network=block_networks(), images=st.integers(1, 5), seed=SEEDS)
def test_inference_uses_them(executor: Executor, network: Network, images: int, seed: int) -> None:
    case = Case.draw(network, images, seed)
    subnetwork = Subnetwork(network, 6, executor, training=False)
    subnetwork.weights[:] = case.weights
    expected, _ = reference.forward(network, case.weights, case.samples, training=False)
    scale = max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(subnetwork.forward(case.samples), expected, rtol=1e-3, atol=1e-3 * scale)
    assert subnetwork.weights.tobytes() == case.weights.tobytes()


def test_dropout_draws_anew_in_every_step(executor: Executor) -> None:
    network = Network((4, 4, 2), [Flatten(), Dropout(0.5), Dense(3)])
    case = Case.draw(network, 8, 0)
    losses = set()
    subnetwork = Subnetwork(network, 8, executor)
    subnetwork.weights[:] = case.weights
    for _ in range(4):
        losses.add(subnetwork.step(case.samples, case.labels).loss)
    assert len(losses) == 4
