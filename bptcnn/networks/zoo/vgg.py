"""VGG (K. Simonyan and A. Zisserman, 2014, arXiv 1409.1556), with one dense layer in place of three."""

from collections.abc import Sequence

from bptcnn.networks.layers import Conv2D, Dense, Flatten, Layer, MaxPool2D
from bptcnn.networks.network import Network, image_shape


def vgg11(input_shape: Sequence[int] = (32, 32, 3), classes: int = 10) -> Network:
    """Eight 3x3 convolutions with rectifiers, pooled by 2 five times, and one dense layer.

    A pooling that would leave less than one pixel is left out, here and in `vgg16`.
    """
    return _vgg("vgg11", [[64], [128], [256] * 2, [512] * 2, [512] * 2], input_shape, classes)


def vgg16(input_shape: Sequence[int] = (32, 32, 3), classes: int = 10) -> Network:
    """Thirteen 3x3 convolutions with rectifiers, pooled by 2 five times, and one dense layer."""
    return _vgg("vgg16", [[64] * 2, [128] * 2, [256] * 3, [512] * 3, [512] * 3], input_shape, classes)


def _vgg(name: str, stages: list[list[int]], input_shape: Sequence[int], classes: int) -> Network:
    height, width, _ = image_shape(input_shape)
    layers: list[Layer] = []
    for stage in stages:
        layers += [Conv2D(filters, 3, activation="relu") for filters in stage]
        if min(height, width) >= 2:
            layers.append(MaxPool2D(2))
            height, width = height // 2, width // 2
    return Network(input_shape, [*layers, Flatten(), Dense(classes)], name)
