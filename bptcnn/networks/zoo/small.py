"""Small networks of two convolutions."""

from collections.abc import Sequence

from bptcnn.networks.layers import Conv2D, Dense, Flatten, Layer, MaxPool2D
from bptcnn.networks.network import Network


def cnn2(input_shape: Sequence[int] = (28, 28, 1), classes: int = 10) -> Network:
    """Two 3x3 convolutions of 32 and 64 channels, each with pooling, and a dense layer of 128."""
    layers: list[Layer] = [
        Conv2D(32, 3, activation="relu"),
        MaxPool2D(2),
        Conv2D(64, 3, activation="relu"),
        MaxPool2D(2),
        Flatten(),
        Dense(128, activation="relu"),
        Dense(classes),
    ]
    return Network(input_shape, layers, "cnn2")


def lenet5(input_shape: Sequence[int] = (28, 28, 1), classes: int = 10) -> Network:
    """LeNet-5 with rectifiers and max pooling (after Y. LeCun et al., 1998)."""
    layers: list[Layer] = [
        Conv2D(6, 5, activation="relu"),
        MaxPool2D(2),
        Conv2D(16, 5, padding="valid", activation="relu"),
        MaxPool2D(2),
        Flatten(),
        Dense(120, activation="relu"),
        Dense(84, activation="relu"),
        Dense(classes),
    ]
    return Network(input_shape, layers, "lenet5")
