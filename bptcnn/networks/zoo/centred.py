"""Convolutions with batch normalisation, padded alike on all sides, as residual networks and MobileNet use them."""

from bptcnn.networks.layers import BatchNorm, Conv2D, Layer, Pads


def around(kernel: int) -> Pads:
    """Return half of an odd kernel on every side: unlike "same", also alike where the stride is above 1."""
    return (kernel // 2, kernel // 2), (kernel // 2, kernel // 2)


def normalised(filters: int, kernel: int, stride: int = 1, *, relu: bool = True) -> list[Layer]:
    """Return a convolution without bias, batch normalisation and, with `relu`, a rectifier."""
    return [
        Conv2D(filters, kernel, stride, around(kernel), bias=False),
        BatchNorm(activation="relu" if relu else None),
    ]
