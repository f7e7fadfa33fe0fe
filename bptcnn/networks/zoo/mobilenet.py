"""MobileNet, its first version (A. Howard et al., 2017, arXiv 1704.04861)."""

from collections.abc import Sequence

from bptcnn.networks.layers import BatchNorm, Dense, DepthwiseConv2D, GlobalAveragePool2D, Layer
from bptcnn.networks.network import Network, image_shape
from bptcnn.networks.zoo.centred import around, normalised

SMALL = 64
"""Images up to so many pixels, on their larger side, keep their size in the stem."""

BLOCKS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1))
"""(channels, stride)"""


def mobilenet(input_shape: Sequence[int] = (224, 224, 3), classes: int = 1000) -> Network:
    """A 3x3 convolution and thirteen blocks, each a 3x3 depthwise and a 1x1 convolution, all normalised and rectified.

    The first convolution has stride 2, for images up to 64 pixels stride 1.
    """
    layers = normalised(32, 3, 2 if max(image_shape(input_shape)[:2]) > SMALL else 1)
    for channels, stride in BLOCKS:
        depthwise: list[Layer] = [DepthwiseConv2D(3, stride, around(3), bias=False), BatchNorm(activation="relu")]
        layers += [*depthwise, *normalised(channels, 1)]
    return Network(input_shape, [*layers, GlobalAveragePool2D(), Dense(classes)], "mobilenet")
