"""Where parameters lie in the flat weight vector, and what they start from."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from networks.drawn import block_networks, networks

from bptcnn.networks import (
    ZOO,
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
    cnn2,
)


@given(network=st.one_of(networks(), block_networks()))
def test_parameters_cover_the_vector_without_gap_or_overlap(network: Network) -> None:
    offset = 0
    for parameter in network.parameters:
        assert parameter.offset == offset
        assert parameter.size == int(np.prod(parameter.shape)) > 0
        offset += parameter.size
    assert offset == network.size
    names = [parameter.name for parameter in network.parameters]
    assert len(set(names)) == len(names)


@given(network=networks())
def test_parameters_come_in_forward_order_filter_before_bias(network: Network) -> None:
    expected: list[tuple[int, ...]] = []
    for layer, shape in zip(network.layers, network.shapes, strict=False):
        if isinstance(layer, Conv2D):
            expected.append((*layer.kernel, shape[2], layer.filters))
            expected += [(layer.filters,)] if layer.bias else []
        elif isinstance(layer, Dense):
            expected.append((shape[0], layer.units))
            expected += [(layer.units,)] if layer.bias else []
    assert [parameter.shape for parameter in network.parameters] == expected


def test_names_count_each_kind_of_layer() -> None:
    layers: list[Layer] = [
        Conv2D(2, 3),
        MaxPool2D(2),
        Conv2D(3, 3, bias=False),
        Flatten(),
        Dense(4),
        Dense(2, bias=False),
    ]
    names = [parameter.name for parameter in Network((8, 8, 1), layers).parameters]
    assert names == ["conv1.filter", "conv1.bias", "conv2.filter", "dense1.weights", "dense1.bias", "dense2.weights"]


def test_names_count_over_all_paths_in_forward_order() -> None:
    block = Residual(
        [Conv2D(4, 3, bias=False), BatchNorm(activation="relu"), Concatenate([[], [DepthwiseConv2D(3)]])],
        [Conv2D(8, 1), BatchNorm()],
    )
    network = Network((6, 6, 2), [Conv2D(2, 3), block, BatchNorm(), GlobalAveragePool2D(), Dense(3)])
    assert [parameter.name for parameter in network.parameters] == [
        *("conv1.filter", "conv1.bias"),
        *("conv2.filter", "norm1.scale", "norm1.offset", "norm1.mean", "norm1.log_variance"),
        *("depthwise1.filter", "depthwise1.bias"),
        *("conv3.filter", "conv3.bias", "norm2.scale", "norm2.offset", "norm2.mean", "norm2.log_variance"),
        *("norm3.scale", "norm3.offset", "norm3.mean", "norm3.log_variance"),
        *("dense1.weights", "dense1.bias"),
    ]


def test_parameter_shapes_of_every_layer() -> None:
    layers: list[Layer] = [
        Conv2D(12, (3, 2), groups=2, dilation=2),
        DepthwiseConv2D((2, 5), 2, bias=False),
        BatchNorm(),
        Activation("gelu"),
        AveragePool2D(2),
        Dropout(0.5),
        Flatten(),
        BatchNorm(),
        Dense(3),
    ]
    network = Network((8, 8, 6), layers)
    assert [(p.name, p.shape) for p in network.parameters] == [
        ("conv1.filter", (3, 2, 3, 12)),
        ("conv1.bias", (12,)),
        ("depthwise1.filter", (2, 5, 1, 12)),
        *[(f"norm1.{part}", (12,)) for part in ("scale", "offset", "mean", "log_variance")],
        *[(f"norm2.{part}", (48,)) for part in ("scale", "offset", "mean", "log_variance")],
        ("dense1.weights", (48, 3)),
        ("dense1.bias", (3,)),
    ]


@given(network=st.one_of(networks(), block_networks()))
def test_running_statistics_alone_are_not_trainable(network: Network) -> None:
    for parameter in network.parameters:
        assert parameter.trainable != parameter.name.endswith((".mean", ".log_variance"))


@given(network=st.one_of(networks(), block_networks()), seed=st.integers(0, 2**40))
def test_initial_weights_follow_from_the_seed(network: Network, seed: int) -> None:
    weights = network.initial_weights(seed)
    assert weights.dtype == np.float32
    assert weights.shape == (network.size,)
    assert weights.tobytes() == network.initial_weights(seed).tobytes()
    assert weights.tobytes() != network.initial_weights(seed + 1).tobytes()


def test_initial_weights_have_hes_deviation_and_biases_are_zero() -> None:
    network = cnn2()
    weights = network.initial_weights(0)
    for parameter in network.parameters:
        part = weights[parameter.offset : parameter.offset + parameter.size]
        if parameter.name.endswith("bias"):
            assert not part.any()
        else:
            wanted = np.sqrt(2 / np.prod(parameter.shape[:-1]))
            assert abs(part.std() / wanted - 1) < 5 / np.sqrt(2 * part.size), "five deviations of the estimate"
            assert abs(part.mean()) < 5 * wanted / np.sqrt(part.size)


def test_initial_deviations_count_what_one_output_is_made_of() -> None:
    network = Network(
        (6, 6, 40), [Conv2D(4000, 3, groups=20), DepthwiseConv2D(5), Flatten(), Dense(1, bias=False)], "wide"
    )
    weights = network.initial_weights(1)
    for name, fan_in in (("conv1.filter", 3 * 3 * 2), ("depthwise1.filter", 5 * 5)):
        p = next(p for p in network.parameters if p.name == name)
        part = weights[p.offset : p.offset + p.size]
        assert abs(part.std() / np.sqrt(2 / fan_in) - 1) < 5 / np.sqrt(2 * part.size), "five deviations of the estimate"


@given(network=block_networks(), seed=st.integers(0, 2**40))
def test_batch_normalisation_starts_as_the_identity(network: Network, seed: int) -> None:
    weights = network.initial_weights(seed)
    for parameter in network.parameters:
        if len(parameter.shape) == 1:
            part = weights[parameter.offset : parameter.offset + parameter.size]
            assert (part == (1 if parameter.name.endswith(".scale") else 0)).all()


@pytest.mark.parametrize(("name", "start"), [("cnn2", "c1df4bb577b240df"), ("lenet5", "a57fc18e8e36576c")])
def test_runs_of_old_start_from_the_same_weights_still(name: str, start: str) -> None:
    assert hashlib.sha256(ZOO[name]((28, 28, 1), 10).initial_weights(5).tobytes()).hexdigest()[:16] == start
