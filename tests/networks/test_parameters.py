"""Where parameters lie in the flat weight vector, and what they start from."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from networks.drawn import networks

from bptcnn.networks import ZOO, Conv2D, Dense, Flatten, Layer, MaxPool2D, Network, cnn2, lenet5


@given(network=networks())
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


def test_the_zoos_networks_are_what_they_are_known_for() -> None:
    assert cnn2().size == (9 * 32 + 32) + (9 * 32 * 64 + 64) + (7 * 7 * 64 * 128 + 128) + (128 * 10 + 10)
    assert lenet5().size == (25 * 6 + 6) + (25 * 6 * 16 + 16) + (400 * 120 + 120) + (120 * 84 + 84) + (84 * 10 + 10)


@pytest.mark.parametrize("name", sorted(ZOO))
def test_every_network_of_the_zoo_takes_shape_and_classes(name: str) -> None:
    network = ZOO[name]((32, 32, 3), 7)
    assert (network.name, network.input_shape, network.classes) == (name, (32, 32, 3), 7)


@given(network=networks(), seed=st.integers(0, 2**40))
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
