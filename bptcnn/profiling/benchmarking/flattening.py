"""A network as plain numbers, for a peer that knows nothing of ours: its applications, paddings worked out."""

from typing import Any

from bptcnn.networks import (
    Activation,
    Application,
    AveragePool2D,
    BatchNorm,
    Conv2D,
    Dense,
    DepthwiseConv2D,
    Dropout,
    MaxPool2D,
    Network,
    Sum,
)


def flattened(network: Network) -> dict[str, Any]:
    """Return the network as JSON can hold it.

    `applications`, in forward order, application i making value i + 1 and value 0 being the input, each with `kind`,
    `inputs` (values), `shape` and `output` (without the batch: height, width, channels; or units), and its layer's
    arguments. Depthwise convolutions are convolutions in as many groups as there are channels.
    """
    return {
        "name": network.name,
        "input_shape": list(network.input_shape),
        "classes": network.classes,
        "applications": [_application(network, a, number) for number, a in enumerate(network.applications)],
    }


def _application(network: Network, application: Application, number: int) -> dict[str, Any]:
    layer = application.layer
    shape = network.shapes[application.inputs[0]]
    found: dict[str, Any] = {
        "kind": "conv" if isinstance(layer, DepthwiseConv2D) else layer.kind,
        "inputs": list(application.inputs),
        "shape": list(shape),
        "output": list(network.shapes[number + 1]),
    }
    if isinstance(layer, Conv2D | DepthwiseConv2D):
        found |= {
            "kernel": list(layer.kernel),
            "stride": list(layer.stride),
            "dilation": list(layer.dilations),
            "pads": [list(sides) for sides in layer.pads(shape)],
            "groups": layer.groups if isinstance(layer, Conv2D) else shape[2],
            "bias": layer.bias,
        }
    elif isinstance(layer, MaxPool2D | AveragePool2D):
        found |= {
            "window": list(layer.window),
            "stride": list(layer.stride),
            "pads": [list(sides) for sides in layer.pads(shape)],
        }
    elif isinstance(layer, BatchNorm):
        found |= {"momentum": layer.momentum, "epsilon": layer.epsilon}
    elif isinstance(layer, Dense):
        found |= {"bias": layer.bias}
    elif isinstance(layer, Dropout):
        found |= {"rate": layer.rate}
    if isinstance(layer, Conv2D | DepthwiseConv2D | BatchNorm | Dense | Sum):
        found["activation"] = layer.activation
    elif isinstance(layer, Activation):
        found["activation"] = layer.function
    return found
