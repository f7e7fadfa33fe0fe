"""Networks as plain descriptions: there and back, through JSON and TOML, and what is refused."""

import json
import tomllib
from typing import Any

import pytest
import tomli_w
from hypothesis import given
from networks.drawn import networks

from bptcnn.errors import UserError
from bptcnn.networks import ZOO, Network

DENSE = {"layer": "Dense", "units": 3}
FLATTEN = {"layer": "Flatten"}


def assert_equal(one: Network, other: Network) -> None:
    assert one.to_dict() == other.to_dict()
    assert (one.name, one.input_shape, one.layers) == (other.name, other.input_shape, other.layers)
    assert one.parameters == other.parameters
    assert one.shapes == other.shapes


@given(network=networks())
def test_a_description_gives_the_network_back(network: Network) -> None:
    description = network.to_dict()
    assert_equal(Network.from_dict(description), network)
    assert_equal(Network.from_dict(json.loads(json.dumps(description))), network)
    assert_equal(Network.from_dict(tomllib.loads(tomli_w.dumps(description))), network)


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
    ],
)
def test_what_is_no_description_is_refused_in_one_line(description: dict[str, Any], about: str) -> None:
    with pytest.raises(UserError, match=about) as caught:
        Network.from_dict(description)
    assert "\n" not in str(caught.value)
