"""What a network is: layers, shapes, parameters in the flat weight vector, and the zoo.

Imports numpy only. Never knows arithmetic, threads or files of data.
"""

from bptcnn.networks.files import load_network
from bptcnn.networks.layers import Conv2D, Dense, Flatten, Layer, MaxPool2D
from bptcnn.networks.network import Network, Parameter
from bptcnn.networks.zoo import ZOO, cnn2, lenet5

__all__ = [
    "ZOO",
    "Conv2D",
    "Dense",
    "Flatten",
    "Layer",
    "MaxPool2D",
    "Network",
    "Parameter",
    "cnn2",
    "lenet5",
    "load_network",
]
