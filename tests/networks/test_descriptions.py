"""Networks as plain descriptions: there and back, through JSON and TOML, and what is refused."""

import json
import tomllib
from typing import Any

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st
from networks.drawn import block_networks, networks

from bptcnn.errors import UserError
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
    GlobalAveragePool2D,
    MaxPool2D,
    Network,
    Residual,
)

DENSE = {"layer": "Dense", "units": 3}
FLATTEN = {"layer": "Flatten"}
NORM = {"layer": "BatchNorm"}
WRITTEN = """
input_shape = [12, 10, 2]
[[layers]]
layer = "Conv2D"
filters = 4
kernel_size = 3
groups = 2
dilation = [1, 2]
bias = false
[[layers]]
layer = "Residual"
activation = "gelu"
[[layers.layers]]
layer = "DepthwiseConv2D"
kernel_size = [3, 2]
strides = 2
[[layers.layers]]
layer = "BatchNorm"
momentum = 0.5
activation = "leaky_relu"
[[layers.layers]]
layer = "Residual"
activation = "none"
layers = [{layer = "Dropout", rate = 0}]
[[layers.shortcut]]
layer = "AveragePool2D"
pool_size = 2
padding = "same"
[[layers]]
layer = "Concatenate"
branches = [
    [],
    [
        {layer = "MaxPool2D", pool_size = 3, strides = 1, padding = [[1, 1], [1, 1]]},
        {layer = "Activation", function = "relu"},
    ],
]
[[layers]]
layer = "GlobalAveragePool2D"
[[layers]]
layer = "Dense"
units = 5
"""


def nested(layer: dict[str, Any]) -> dict[str, Any]:
    """Return a description with `layer` as layer 1 of the main path of layer 0."""
    return {"input_shape": [4, 4, 1], "layers": [{"layer": "Residual", "layers": [NORM, layer]}, FLATTEN, DENSE]}


def assert_equal(one: Network, other: Network) -> None:
    assert one.to_dict() == other.to_dict()
    assert (one.name, one.input_shape, one.layers) == (other.name, other.input_shape, other.layers)
    assert one.parameters == other.parameters
    assert one.applications == other.applications
    assert one.shapes == other.shapes


@given(network=st.one_of(networks(), block_networks()))
def test_a_description_gives_the_network_back(network: Network) -> None:
    description = network.to_dict()
    assert_equal(Network.from_dict(description), network)
    assert_equal(Network.from_dict(json.loads(json.dumps(description))), network)
    assert_equal(Network.from_dict(tomllib.loads(tomli_w.dumps(description))), network)


def test_a_description_written_by_hand() -> None:
    inner = Residual([Dropout(0)], activation=None)
    main = [DepthwiseConv2D((3, 2), 2), BatchNorm(0.5, activation="leaky_relu"), inner]
    expected = [
        Conv2D(4, 3, bias=False, groups=2, dilation=(1, 2)),
        Residual(main, [AveragePool2D(2, padding="same")], "gelu"),
        Concatenate([[], [MaxPool2D(3, 1, ((1, 1), (1, 1))), Activation("relu")]]),
        GlobalAveragePool2D(),
        Dense(5),
    ]
    assert_equal(Network.from_dict(tomllib.loads(WRITTEN)), Network((12, 10, 2), expected))


def test_no_activation_where_one_is_the_default() -> None:
    network = Network((2, 2, 1), [Residual([BatchNorm()], activation=None), GlobalAveragePool2D()])
    again = Network.from_dict(tomllib.loads(tomli_w.dumps(network.to_dict())))
    assert again.layers[0] == Residual([BatchNorm()], activation=None) != Residual([BatchNorm()])


@pytest.mark.parametrize("name", sorted(ZOO))
def test_the_zoo_survives_its_description(name: str) -> None:
    network = ZOO[name]((32, 32, 3), 11)
    assert_equal(Network.from_dict(network.to_dict()), network)


@pytest.mark.parametrize(
    ("description", "about"),
    [
        ({}, "layers"),
        ({"input_shape": [4, 4, 1]}, "layers"),
        ({"input_shape": [4, 4, 1], "layers": {}}, "layers"),
        ({"input_shape": [4, 4, 1], "layers": [FLATTEN, DENSE], "optimizer": "sgd"}, "optimizer"),
        ({"layers": [FLATTEN, DENSE]}, "input_shape"),
        ({"input_shape": 28, "layers": [FLATTEN, DENSE]}, "input_shape"),
        ({"input_shape": [4, 4], "layers": [FLATTEN, DENSE]}, "input_shape"),
        ({"input_shape": ["4", 4, 1], "layers": [FLATTEN, DENSE]}, "input_shape"),
        ({"input_shape": [4, 4, 1], "layers": [FLATTEN, "Dense"]}, "layer 1"),
        ({"input_shape": [4, 4, 1], "layers": [FLATTEN, {}]}, "layer 1"),
        ({"input_shape": [4, 4, 1], "layers": [FLATTEN, {"layer": "Softmax"}]}, "layer 1"),
        ({"input_shape": [4, 4, 1], "layers": [FLATTEN, {"layer": ["Dense"], "units": 3}]}, "layer 1"),
        ({"input_shape": [4, 4, 1], "layers": [FLATTEN, {"layer": "Dense"}]}, "layer 1.*units"),
        ({"input_shape": [4, 4, 1], "layers": [FLATTEN, {**DENSE, "kernel": 3}]}, "layer 1.*kernel"),
        ({"input_shape": [4, 4, 1], "layers": [FLATTEN, {**DENSE, "units": -3}]}, "layer 1.*units"),
        ({"input_shape": [4, 4, 1], "layers": [{"layer": "Conv2D", "filters": 3, "kernel_size": 2.5}]}, "kernel_size"),
        ({"input_shape": [4, 4, 1], "layers": [{"layer": "MaxPool2D", "pool_size": {}}]}, "pool_size"),
        (nested({**DENSE, "activation": "none"}), "layer 0, main, layer 1: Dense: activation"),
        (nested({"layer": "Sum", "activation": "relu"}), "layer 0, main, layer 1 must name one of"),
        (nested({"layer": "Residual", "layers": 3}), "layer 0, main, layer 1, main, layers must be a list"),
        (nested({"layer": "Residual", "layers": []}), "layer 0, main, layer 1: Residual: .*at least one"),
        (nested({"layer": "Residual"}), "layer 0, main, layer 1: Residual lacks layers"),
        (
            nested({"layer": "Residual", "layers": [NORM], "shortcut": [NORM, 7]}),
            "layer 1, shortcut, layer 1 must name",
        ),
        (nested({"layer": "Concatenate", "branches": 3}), "layer 0, main, layer 1: Concatenate: branches"),
        (nested({"layer": "Concatenate", "branches": [[]]}), "layer 0, main, layer 1: Concatenate: .*at least two"),
        (nested({"layer": "Concatenate", "branches": [[], 3]}), "layer 1, branch 1, layers must be a list"),
        (
            nested({"layer": "Concatenate", "branches": [[], [NORM, {**NORM, "momentum": 2}]]}),
            "layer 0, main, layer 1, branch 1, layer 1: BatchNorm: momentum",
        ),
        (
            nested({"layer": "Concatenate", "branches": [[], [{"layer": "MaxPool2D", "pool_size": 9}]]}),
            "layer 0, main, layer 1, branch 1, layer 0: MaxPool2D: .*does not fit",
        ),
    ],
)
def test_what_is_no_description_is_refused_in_one_line(description: dict[str, Any], about: str) -> None:
    with pytest.raises(UserError, match=about) as caught:
        Network.from_dict(description)
    assert "\n" not in str(caught.value)
