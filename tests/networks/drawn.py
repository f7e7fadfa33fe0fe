"""Hypothesis strategies for layers and for networks that fit together."""

from hypothesis import strategies as st

from bptcnn.errors import UserError
from bptcnn.networks import Conv2D, Dense, Flatten, Layer, MaxPool2D, Network

ACTIVATIONS = st.sampled_from([None, "relu"])


def pairs(largest: int) -> st.SearchStrategy[tuple[int, int]]:
    """Draw (rows, columns), each 1 to `largest`."""
    return st.tuples(st.integers(1, largest), st.integers(1, largest))


def paddings(largest: int = 3) -> st.SearchStrategy[str | tuple[tuple[int, int], tuple[int, int]]]:
    """Draw any of the three kinds of padding."""
    sides = st.tuples(st.integers(0, largest), st.integers(0, largest))
    return st.one_of(st.just("same"), st.just("valid"), st.tuples(sides, sides))


def convolutions(
    channels: int = 70, kernel: int = 7, activations: st.SearchStrategy[str | None] = ACTIVATIONS
) -> st.SearchStrategy[Conv2D]:
    """Draw convolutions of at most `channels` filters and kernels of at most `kernel` rows and columns."""
    return st.builds(
        Conv2D,
        st.integers(1, channels),
        pairs(kernel),
        strides=pairs(3),
        padding=paddings(),
        activation=activations,
        bias=st.booleans(),
    )


def poolings(window: int = 3) -> st.SearchStrategy[MaxPool2D]:
    """Draw disjoint, overlapping and gappy poolings."""
    return st.builds(MaxPool2D, pairs(window), strides=st.one_of(st.none(), pairs(window + 1)))


def image_shapes(size: int = 12, channels: int = 20, least: int = 1) -> st.SearchStrategy[tuple[int, int, int]]:
    """Draw (height, width, channels), height and width `least` to `size`."""
    return st.tuples(st.integers(least, size), st.integers(least, size), st.integers(1, channels))


@st.composite
def networks(draw: st.DrawFn, size: int = 14, channels: int = 40) -> Network:
    """Draw a network of up to four convolutions and poolings, then up to three dense layers."""
    shape = draw(image_shapes(size, least=draw(st.sampled_from((5, 9, 1)))))
    layers: list[Layer] = []
    for _ in range(draw(st.sampled_from((2, 3, 4, 1, 0)))):
        layer = draw(st.one_of(convolutions(channels, 5), convolutions(channels, 5), poolings()))
        try:
            Network(shape, [*layers, layer, Flatten(), Dense(1)])
        except UserError:  # does not fit any more
            continue
        layers.append(layer)
    layers.append(Flatten())
    for units in draw(st.lists(st.integers(1, 40), max_size=2)):
        layers.append(Dense(units, draw(ACTIVATIONS), draw(st.booleans())))
    layers.append(Dense(draw(st.integers(2, 12)), bias=draw(st.booleans())))
    return Network(shape, layers)
