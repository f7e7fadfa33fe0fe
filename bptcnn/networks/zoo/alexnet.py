"""AlexNet in the form of A. Krizhevsky, 2014, "One weird trick", arXiv 1404.5997."""

from collections.abc import Sequence

from bptcnn.networks.layers import Conv2D, Dense, Dropout, Flatten, Layer, MaxPool2D, Pads
from bptcnn.networks.network import Network, image_shape

LARGE = 64
"""Images from so many pixels on, on their smaller side, leave something for every pooling."""


def alexnet(input_shape: Sequence[int] = (224, 224, 3), classes: int = 1000) -> Network:
    """Five convolutions, pooled by 3x3 with stride 2 three times, and three dense layers, two of them after dropout.

    The first convolution is 11x11 with stride 4; for images below 64 pixels it is 3x3 with stride 1, and a pooling
    that would leave less than one pixel is left out.
    """
    stem = Conv2D(64, 3, activation="relu")
    if min(image_shape(input_shape)[:2]) >= LARGE:
        stem = Conv2D(64, 11, 4, _around(2), "relu")
    stages: list[list[Layer]] = [
        [stem],
        [Conv2D(192, 5, activation="relu")],
        [Conv2D(384, 3, activation="relu"), Conv2D(256, 3, activation="relu"), Conv2D(256, 3, activation="relu")],
    ]
    height, width, _ = stem.output_shape(image_shape(input_shape))
    layers: list[Layer] = []
    for stage in stages:
        layers += stage
        if min(height, width) >= 3:
            layers.append(MaxPool2D(3, 2))
            height, width = (height - 1) // 2, (width - 1) // 2
    layers.append(Flatten())
    for _ in range(2):
        layers += [Dropout(0.5), Dense(4096, "relu")]
    return Network(input_shape, [*layers, Dense(classes)], "alexnet")


def _around(size: int) -> Pads:
    return (size, size), (size, size)
