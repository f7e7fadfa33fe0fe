"""Layers: frozen descriptions that know output and parameter shapes. Shapes are (height, width, channels).

Imports errors only. Blocks hold further layers; what they come to in forward order is in `Network.applications`.
"""

from bptcnn.networks.layers.arguments import (
    ACTIVATIONS,
    LEAKY_SLOPE,
    MOST_ELEMENTS,
    ActivationName,
    Pair,
    Shape,
    pair,
    shown,
)
from bptcnn.networks.layers.blocks import (
    LAYERS,
    AppliedLayer,
    Block,
    Concatenate,
    Join,
    Layer,
    Residual,
    SimpleLayer,
    Sum,
    layers_of,
)
from bptcnn.networks.layers.convolution import Conv2D, DepthwiseConv2D
from bptcnn.networks.layers.dense import Dense, Flatten
from bptcnn.networks.layers.elementwise import Activation, Dropout
from bptcnn.networks.layers.normalisation import BatchNorm
from bptcnn.networks.layers.pooling import AveragePool2D, GlobalAveragePool2D, MaxPool2D
from bptcnn.networks.layers.windows import Padding, Pads

__all__ = [
    "ACTIVATIONS",
    "LAYERS",
    "LEAKY_SLOPE",
    "MOST_ELEMENTS",
    "Activation",
    "ActivationName",
    "AppliedLayer",
    "AveragePool2D",
    "BatchNorm",
    "Block",
    "Concatenate",
    "Conv2D",
    "Dense",
    "DepthwiseConv2D",
    "Dropout",
    "Flatten",
    "GlobalAveragePool2D",
    "Join",
    "Layer",
    "MaxPool2D",
    "Padding",
    "Pads",
    "Pair",
    "Residual",
    "Shape",
    "SimpleLayer",
    "Sum",
    "layers_of",
    "pair",
    "shown",
]
