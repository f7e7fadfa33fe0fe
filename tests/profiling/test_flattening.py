"""Networks as plain numbers for a peer: whoever reads them needs to know nothing else."""

import json
from typing import Any

import pytest

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
    MaxPool2D,
    Network,
    Residual,
)
from bptcnn.profiling.benchmarking.flattening import flattened
from bptcnn.profiling.benchmarking.torch_peer import LEAKY_SLOPE

EVERYTHING = Network(
    (11, 10, 3),
    [
        Conv2D(8, (4, 3), (2, 1), "same", "gelu", bias=False),
        Conv2D(12, 3, padding=((0, 2), (1, 0)), groups=4, dilation=(1, 2)),
        BatchNorm(0.8, 1e-3, "relu"),
        Residual([DepthwiseConv2D(3), Activation("leaky_relu")], [Conv2D(12, 1)], None),
        Concatenate([[], [MaxPool2D(3, 1, "same")], [AveragePool2D(2, 1, ((1, 0), (0, 1)))]]),
        Residual([Conv2D(36, 3)]),
        MaxPool2D(2),
        GlobalAveragePool2D(),
        Dropout(0.25),
        Dense(7, "relu", bias=False),
        BatchNorm(),
        Dense(5),
    ],
    "everything",
)
NETWORKS = [EVERYTHING, *(ZOO[name]((64, 48, 3), 10) for name in ZOO)]


def output_of(a: dict[str, Any], shapes: list[list[int]]) -> list[int]:
    """Return the shape that an application makes, from its numbers alone."""
    (shape, *others), kind = shapes, a["kind"]
    if kind in ("conv", "pool", "average"):
        size = a["kernel"] if kind == "conv" else a["window"]
        extents = [(k - 1) * d + 1 for k, d in zip(size, a.get("dilation", [1, 1]), strict=True)]
        image = zip(shape, a["pads"], extents, a["stride"], strict=False)
        places = [(length + sum(pads) - extent) // stride + 1 for length, pads, extent, stride in image]
        return [*places, a["output"][2] if kind == "conv" else shape[2]]
    if kind == "dense":
        return a["output"]
    if kind == "mean":
        return shape[2:]
    if kind == "flatten":
        return [shape[0] * shape[1] * shape[2]]
    if kind == "join":
        return [*shape[:2], shape[2] + sum(other[2] for other in others)]
    assert kind in ("norm", "activation", "dropout", "sum")
    return shape


def parameters_of(a: dict[str, Any]) -> int:
    """Return the parameters of an application, running statistics included, from its numbers alone."""
    if a["kind"] == "conv":
        assert a["shape"][2] % a["groups"] == a["output"][2] % a["groups"] == 0
        weights = a["kernel"][0] * a["kernel"][1] * a["shape"][2] // a["groups"] * a["output"][2]
        return weights + a["bias"] * a["output"][2]
    if a["kind"] == "dense":
        return (a["shape"][0] + a["bias"]) * a["output"][0]
    return 4 * a["shape"][-1] if a["kind"] == "norm" else 0


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.name)
def test_shapes_and_parameters_follow_from_the_numbers(network: Network) -> None:
    flat = json.loads(json.dumps(flattened(network)))
    assert flat["name"] == network.name
    assert flat["classes"] == network.classes
    shapes = [flat["input_shape"]]
    for a in flat["applications"]:
        inputs = [shapes[value] for value in a["inputs"]]
        assert a["shape"] == inputs[0]
        assert a["output"] == output_of(a, inputs)
        shapes.append(a["output"])
    assert shapes == [list(shape) for shape in network.shapes]
    assert sum(map(parameters_of, flat["applications"])) == network.size


def test_arguments_arrive() -> None:
    found = {}
    for a in flattened(EVERYTHING)["applications"]:
        found.setdefault(a["kind"], []).append(a)
    kinds = {"conv", "norm", "sum", "activation", "join", "pool", "average", "mean", "dropout", "dense"}
    assert set(found) == kinds, "every kind but flatten"
    first, grouped, depthwise, *_ = found["conv"]
    assert (first["activation"], first["bias"], first["pads"]) == ("gelu", False, [[1, 2], [1, 1]])
    assert (grouped["groups"], grouped["dilation"], grouped["pads"]) == (4, [1, 2], [[0, 2], [1, 0]])
    assert (depthwise["groups"], depthwise["activation"]) == (12, None)
    assert found["norm"][0] | {"momentum": 0.8, "epsilon": 1e-3, "activation": "relu"} == found["norm"][0]
    assert found["activation"][0]["activation"] == "leaky_relu"
    assert [a["activation"] for a in found["sum"]] == [None, "relu"]
    assert found["average"][0]["pads"] == [[1, 0], [0, 1]]
    assert found["dropout"][0]["rate"] == 0.25
    assert [a["activation"] for a in found["dense"]] == ["relu", None]


def test_the_peers_leaky_relu_is_ours() -> None:
    from bptcnn.networks.layers import LEAKY_SLOPE as OURS

    assert LEAKY_SLOPE == OURS


def test_flatten_is_named() -> None:
    flat = flattened(Network((4, 4, 2), [Flatten(), Dense(3)]))
    assert [a["kind"] for a in flat["applications"]] == ["flatten", "dense"]
