"""What a network is: layers, shapes, parameters in the flat weight vector, and the zoo.

Imports numpy only. Never knows arithmetic, threads or files of data.
"""

from bptcnn.networks.applications import Application, Parameter
from bptcnn.networks.files import load_network
from bptcnn.networks.layers import (
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
    Join,
    Layer,
    MaxPool2D,
    Residual,
    Sum,
)
from bptcnn.networks.network import Network
from bptcnn.networks.zoo import (
    ZOO,
    alexnet,
    cnn2,
    lenet5,
    mobilenet,
    resnet18,
    resnet34,
    resnet50,
    vgg11,
    vgg16,
)

__all__ = [
    "ZOO",
    "Activation",
    "Application",
    "AveragePool2D",
    "BatchNorm",
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
    "Network",
    "Parameter",
    "Residual",
    "Sum",
    "alexnet",
    "cnn2",
    "lenet5",
    "load_network",
    "mobilenet",
    "resnet18",
    "resnet34",
    "resnet50",
    "vgg11",
    "vgg16",
]
