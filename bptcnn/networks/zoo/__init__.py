"""The zoo: well-known networks for any input shape and number of classes.

Imports layers and the network only; each builder takes (input_shape, classes).
"""

from collections.abc import Callable, Sequence

from bptcnn.networks.network import Network
from bptcnn.networks.zoo.alexnet import alexnet
from bptcnn.networks.zoo.mobilenet import mobilenet
from bptcnn.networks.zoo.resnet import resnet18, resnet34, resnet50
from bptcnn.networks.zoo.small import cnn2, lenet5
from bptcnn.networks.zoo.vgg import vgg11, vgg16

ZOO: dict[str, Callable[[Sequence[int], int], Network]] = {
    "cnn2": cnn2,
    "lenet5": lenet5,
    "vgg11": vgg11,
    "vgg16": vgg16,
    "resnet18": resnet18,
    "resnet34": resnet34,
    "resnet50": resnet50,
    "alexnet": alexnet,
    "mobilenet": mobilenet,
}

__all__ = [
    "ZOO",
    "alexnet",
    "cnn2",
    "lenet5",
    "mobilenet",
    "resnet18",
    "resnet34",
    "resnet50",
    "vgg11",
    "vgg16",
]
