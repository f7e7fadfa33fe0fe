"""Residual networks (K. He et al., 2015, arXiv 1512.03385), with the stride of bottlenecks on their 3x3 convolution."""

from collections.abc import Sequence

from bptcnn.networks.layers import Dense, GlobalAveragePool2D, Layer, MaxPool2D, Residual
from bptcnn.networks.network import Network, image_shape
from bptcnn.networks.zoo.centred import around, normalised

SMALL = 64
"""Images up to so many pixels, on their larger side, keep their size in the stem, as in the paper's for CIFAR-10."""


def resnet18(input_shape: Sequence[int] = (32, 32, 3), classes: int = 10) -> Network:
    """Eight blocks of two 3x3 convolutions, in four stages of 64 to 512 channels.

    The stem is a 3x3 convolution for images up to 64 pixels; for larger ones, 7x7 with stride 2 and max pooling of 3x3
    with stride 2. This goes for `resnet34` and `resnet50` too.
    """
    return _resnet("resnet18", (2, 2, 2, 2), False, input_shape, classes)


def resnet34(input_shape: Sequence[int] = (32, 32, 3), classes: int = 10) -> Network:
    """Sixteen blocks of two 3x3 convolutions, in four stages of 64 to 512 channels."""
    return _resnet("resnet34", (3, 4, 6, 3), False, input_shape, classes)


def resnet50(input_shape: Sequence[int] = (224, 224, 3), classes: int = 1000) -> Network:
    """Sixteen bottlenecks of 1x1, 3x3 and 1x1 convolutions, in four stages of 256 to 2048 channels."""
    return _resnet("resnet50", (3, 4, 6, 3), True, input_shape, classes)


def _resnet(name: str, depths: tuple[int, ...], bottleneck: bool, input_shape: Sequence[int], classes: int) -> Network:
    layers: list[Layer] = [*normalised(64, 3)]
    if max(image_shape(input_shape)[:2]) > SMALL:
        layers = [*normalised(64, 7, 2), MaxPool2D(3, 2, around(3))]
    channels = 64
    for stage, depth in enumerate(depths):
        width = 64 << stage
        for index in range(depth):
            stride = 2 if stage and not index else 1
            layers.append(_block(channels, width, stride, bottleneck))
            channels = 4 * width if bottleneck else width
    return Network(input_shape, [*layers, GlobalAveragePool2D(), Dense(classes)], name)


def _block(channels: int, width: int, stride: int, bottleneck: bool) -> Residual:
    """Return a block of `width` on inputs of so many channels, with a projection where the shape changes."""
    if bottleneck:
        out = 4 * width
        path = [*normalised(width, 1), *normalised(width, 3, stride), *normalised(out, 1, relu=False)]
    else:
        out = width
        path = [*normalised(width, 3, stride), *normalised(width, 3, relu=False)]
    changes = stride > 1 or channels != out
    return Residual(path, normalised(out, 1, stride, relu=False) if changes else [])
