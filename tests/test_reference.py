"""The float64 reference itself: values against plain loops and definitions, gradients against finite differences."""

import itertools
import math

import numpy as np
import pytest
import reference
from hypothesis import assume, given
from hypothesis import strategies as st
from kernels.stepping import SEEDS, Case
from networks.drawn import block_networks, depthwise_convolutions, grouped_convolutions, image_shapes, padded_poolings
from reference_arithmetic import Array, activate

from bptcnn.errors import UserError
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

STEP = 1e-6
"""Finite differences look so far to both sides."""


def drawn_masks(network: Network, images: int, seed: int) -> dict[str, Array]:
    """Return multipliers for every dropout, as training draws them."""
    random, masks = np.random.default_rng(seed), {}
    for application in network.applications:
        if isinstance(application.layer, Dropout):
            kept = 1 - application.layer.rate
            masks[application.name] = (random.random((images, *network.shapes[application.inputs[0]])) < kept) / kept
    return masks


def check_gradient(case: Case, training: bool, masks: dict[str, Array]) -> None:
    """Compare each parameter's gradient, in a random direction, with central differences of the loss."""
    _, gradient = reference.loss_and_gradient(case.network, case.weights, case.samples, case.labels, training, masks)
    random = np.random.default_rng(0)
    for p in case.network.parameters:
        if not p.trainable:
            assert not gradient[p.offset : p.offset + p.size].any(), p.name
            if not training:
                continue  # the loss depends on them, yet nothing trains them
        direction = np.zeros(case.network.size)
        direction[p.offset : p.offset + p.size] = random.standard_normal(p.size) / math.sqrt(p.size)
        losses = [
            reference.loss_and_gradient(
                case.network, case.weights + side * STEP * direction, case.samples, case.labels, training, masks
            )[0]
            for side in (1, -1)
        ]
        measured = (losses[0] - losses[1]) / (2 * STEP)
        assert abs(gradient @ direction - measured) <= 1e-6 + 1e-5 * abs(measured), p.name


def checked(network: Network, seeds: range, training: bool = True) -> None:
    """Check the first case without near ties."""
    for seed in seeds:
        case, masks = Case.draw(network, 5, seed), drawn_masks(network, 5, seed)
        if case.decides_clearly(training, masks):
            check_gradient(case, training, masks)
            return
    pytest.fail("no case without near ties")


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "layers",
    [
        [Conv2D(6, 3, 2, ((1, 0), (2, 1)), "gelu", True, 2, (2, 1))],
        [Conv2D(8, 3, activation="leaky_relu", groups=4, dilation=2)],
        [DepthwiseConv2D((3, 2), 2, "valid", "leaky_relu")],
        [DepthwiseConv2D(3, dilation=2, bias=False), Conv2D(3, 1, activation="relu")],
        [Conv2D(5, 2), BatchNorm(activation="relu")],
        [Conv2D(5, 2), BatchNorm(epsilon=0.1), Activation("gelu")],
        [Conv2D(5, 2), MaxPool2D(3, 2, "same")],
        [Conv2D(5, 2), MaxPool2D((2, 3), 1, ((1, 0), (2, 2))), Activation("relu")],
        [Conv2D(5, 2), AveragePool2D(3, 2, "same")],
        [Conv2D(5, 2), AveragePool2D((2, 3), None, ((1, 0), (2, 2)))],
        [Conv2D(5, 2), Dropout(0.5), Conv2D(4, 3, activation="relu")],
        [Residual([Conv2D(4, 3), BatchNorm(activation="relu"), Conv2D(4, 3)])],
        [Conv2D(3, 1), Residual([Conv2D(5, 3, 2)], [Conv2D(5, 1, 2)], "gelu"), Residual([BatchNorm()], (), None)],
        [Conv2D(3, 1), Concatenate([[], [Conv2D(5, 3)], [MaxPool2D(3, 1, "same"), Conv2D(2, 1)], []])],
        [Conv2D(3, 1), Residual([Concatenate([[Residual([Conv2D(3, 3)])], []]), Conv2D(3, 1)])],
    ],
)
@pytest.mark.parametrize(
    "end", [[Flatten(), Dense(4)], [GlobalAveragePool2D(), Dense(6, "gelu"), BatchNorm(), Dense(3)]]
)
def test_gradients_of_every_layer(layers: list[Layer], end: list[Layer], training: bool) -> None:
    checked(Network((6, 5, 4), [*layers, *end]), range(50), training)


@given(network=block_networks(6, 4), images=st.integers(2, 4), seed=SEEDS)
def test_gradients_of_random_networks(network: Network, images: int, seed: int) -> None:
    assume(network.size < 20_000)
    case, masks = Case.draw(network, images, seed), drawn_masks(network, images, seed)
    assume(case.decides_clearly(masks=masks))
    check_gradient(case, True, masks)


def output_of(shape: tuple[int, int, int], layer: Layer, seed: int) -> tuple[Case, Array, Array]:
    """Return a case of this layer alone, its output before the activation, and its filter and bias in one vector."""
    try:
        network = Network(shape, [layer, Flatten(), Dense(1)])
    except UserError:
        assume(False)
        raise
    case = Case.draw(network, 2, seed)
    applied = reference.forward(network, case.weights, case.samples)[1][0]
    return case, applied.linear, case.weights.astype(np.float64)


@given(data=st.data(), shape=image_shapes(7, 6), depthwise=st.booleans(), seed=SEEDS)
def test_convolutions_are_what_loops_give(
    data: st.DataObject, shape: tuple[int, int, int], depthwise: bool, seed: int
) -> None:
    layer = data.draw(depthwise_convolutions(3) if depthwise else grouped_convolutions(shape[2], 9, 3))
    case, found, weights = output_of(shape, layer, seed)
    filters = case.network.parameters[0]
    kernel = weights[: filters.size].reshape(filters.shape)
    bias = weights[filters.size : filters.size + found.shape[-1]] if layer.bias else np.zeros(found.shape[-1])
    per_group, share = found.shape[-1] // (shape[2] // filters.shape[2]), filters.shape[2]
    (top, _), (left, _) = layer.pads(shape)
    expected = np.zeros_like(found)
    for n, y, x, k in np.ndindex(found.shape):
        for i, j, c in np.ndindex(filters.shape[:3]):
            row = y * layer.stride[0] + i * layer.dilations[0] - top
            column = x * layer.stride[1] + j * layer.dilations[1] - left
            if 0 <= row < shape[0] and 0 <= column < shape[1]:
                expected[n, y, x, k] += case.samples[n, row, column, k // per_group * share + c] * kernel[i, j, c, k]
    np.testing.assert_allclose(found, expected + bias, rtol=1e-9, atol=1e-9)


@given(data=st.data(), shape=image_shapes(9, 3), seed=SEEDS)
def test_poolings_are_what_loops_give(data: st.DataObject, shape: tuple[int, int, int], seed: int) -> None:
    layer = data.draw(padded_poolings(4))
    case, found, _ = output_of(shape, layer, seed)
    (top, _), (left, _) = layer.pads(shape)
    for n, y, x in np.ndindex(found.shape[:3]):
        rows = range(y * layer.stride[0] - top, y * layer.stride[0] - top + layer.window[0])
        columns = range(x * layer.stride[1] - left, x * layer.stride[1] - left + layer.window[1])
        seen = np.array(
            [
                case.samples[n, i, j]
                for i, j in itertools.product(rows, columns)
                if 0 <= i < shape[0] and 0 <= j < shape[1]
            ],
            np.float64,
        )
        assert len(seen) > 0, "a window always holds an element"
        expected = seen.max(0) if isinstance(layer, MaxPool2D) else seen.mean(0)
        np.testing.assert_allclose(found[n, y, x], expected, rtol=1e-12)


def test_normalisation_by_the_batch_and_by_running_statistics() -> None:
    layer = BatchNorm(0.8, 1e-3)
    network = Network((3, 4, 2), [layer, Flatten(), Dense(1)])
    case = Case.draw(network, 5, 0)
    scale, offset, mean, log_variance = case.weights[:8].astype(np.float64).reshape(4, 2)
    flat = case.samples.astype(np.float64).reshape(-1, 2)
    batch_mean, batch_variance = flat.mean(0), ((flat - flat.mean(0)) ** 2).mean(0)
    for training, used in ((True, (batch_mean, batch_variance)), (False, (mean, np.exp(log_variance)))):
        found = reference.forward(network, case.weights, case.samples, training)[1][0].linear
        expected = scale * (flat - used[0]) / np.sqrt(used[1] + 1e-3) + offset
        np.testing.assert_allclose(found.reshape(-1, 2), expected, rtol=1e-9, atol=1e-12)
    followed = reference.followed_statistics(network, case.weights, case.samples)
    np.testing.assert_allclose(followed[4:6], 0.8 * mean + 0.2 * batch_mean, rtol=1e-12)
    np.testing.assert_allclose(np.exp(followed[6:8]), 0.8 * np.exp(log_variance) + 0.2 * batch_variance, rtol=1e-12)
    np.testing.assert_array_equal(np.delete(followed, range(4, 8)), np.delete(case.weights, range(4, 8)))


def test_dropout_wants_to_be_told_in_training_and_does_nothing_at_inference() -> None:
    network = Network((2, 2, 1), [Dropout(0.5), Flatten(), Dense(3, bias=False)])
    case = Case.draw(network, 2, 0)
    with pytest.raises(ValueError, match="dropout1"):
        reference.forward(network, case.weights, case.samples)
    with pytest.raises(ValueError, match="dropout1"):
        reference.forward(network, case.weights, case.samples, masks={"dropout1": np.ones((2, 4))})
    mask = np.array([[[[0], [2]], [[2], [2]]]] * 2)
    dropped, _ = reference.forward(network, case.weights, case.samples, masks={"dropout1": mask})
    matrix = case.weights.astype(np.float64).reshape(4, 3)
    np.testing.assert_allclose(dropped, (case.samples * mask).reshape(2, 4) @ matrix)
    kept, _ = reference.forward(network, case.weights, case.samples, training=False)
    np.testing.assert_allclose(kept, case.samples.reshape(2, 4) @ matrix)


def test_activations() -> None:
    x = np.array([-3.0, -1, 0, 1, 3])
    np.testing.assert_allclose(activate(x, "relu"), [0, 0, 0, 1, 3])
    np.testing.assert_allclose(activate(x, "leaky_relu"), [-0.03, -0.01, 0, 1, 3])
    phi = np.array([0.0013498980316301, 0.1586552539314571, 0.5, 0.8413447460685429, 0.9986501019683699])
    np.testing.assert_allclose(activate(x, "gelu"), x * phi, rtol=1e-12)
    np.testing.assert_array_equal(activate(x, None), x)


def test_blocks_add_and_join_their_paths() -> None:
    network = Network(
        (2, 2, 2), [Concatenate([[], [Residual([Activation("leaky_relu")], activation="relu")]]), Flatten(), Dense(1)]
    )
    x = np.random.default_rng(0).standard_normal((3, 2, 2, 2))
    joined = reference.forward(network, network.initial_weights(0), x)[1][2].linear
    np.testing.assert_allclose(joined[..., :2], x)
    np.testing.assert_allclose(joined[..., 2:], np.where(x > 0, 2 * x, 0))
