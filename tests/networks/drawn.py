"""Hypothesis strategies for layers and for networks that fit together."""

from hypothesis import strategies as st

from bptcnn.errors import UserError
from bptcnn.networks import (
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
    Layer,
    MaxPool2D,
    Network,
    Residual,
)

ACTIVATIONS = st.sampled_from([None, "relu"])
ANY_ACTIVATION = st.sampled_from([None, "relu", "leaky_relu", "gelu"])


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


@st.composite
def grouped_convolutions(
    draw: st.DrawFn, channels: int, largest: int = 40, kernel: int = 4, same: bool = False
) -> Conv2D:
    """Draw convolutions of inputs of `channels`, in groups that divide them, dilated; `same` keeps height and width."""
    groups = draw(st.sampled_from([n for n in range(1, channels + 1) if channels % n == 0]))
    return Conv2D(
        groups * draw(st.integers(1, max(1, largest // groups))),
        draw(pairs(kernel)),
        (1, 1) if same else draw(pairs(3)),
        "same" if same else draw(paddings()),
        draw(ANY_ACTIVATION),
        draw(st.booleans()),
        groups,
        draw(st.one_of(st.just((1, 1)), pairs(3))),
    )


def depthwise_convolutions(kernel: int = 4, same: bool = False) -> st.SearchStrategy[DepthwiseConv2D]:
    """Draw depthwise convolutions; `same` keeps height and width."""
    return st.builds(
        DepthwiseConv2D,
        pairs(kernel),
        strides=st.just(1) if same else pairs(3),
        padding=st.just("same") if same else paddings(),
        activation=ANY_ACTIVATION,
        bias=st.booleans(),
        dilation=st.one_of(st.just((1, 1)), pairs(3)),
    )


@st.composite
def padded_poolings(draw: st.DrawFn, window: int = 3, same: bool = False) -> MaxPool2D | AveragePool2D:
    """Draw poolings of either kind with any padding; `same` keeps height and width."""
    kind = draw(st.sampled_from([MaxPool2D, AveragePool2D]))
    size = draw(pairs(window))
    if same:
        return kind(size, 1, "same")
    sides = st.tuples(*[st.tuples(*[st.integers(0, extent - 1)] * 2) for extent in size])
    padding = draw(st.one_of(st.sampled_from(["same", "valid"]), sides))
    return kind(size, draw(st.one_of(st.none(), pairs(window + 1))), padding)


def norms() -> st.SearchStrategy[BatchNorm]:
    """Draw batch normalisations."""
    return st.builds(
        BatchNorm, st.sampled_from([0.9, 0.5, 0.99]), st.sampled_from([1e-5, 1e-3]), activation=ANY_ACTIVATION
    )


def dropouts() -> st.SearchStrategy[Dropout]:
    """Draw dropouts, those that drop nothing too."""
    return st.builds(Dropout, st.sampled_from([0.0, 0.2, 0.5, 0.9]))


def any_layers(channels: int, same: bool = False, dropout: bool = True) -> st.SearchStrategy[Layer]:
    """Draw any layer but blocks that takes and gives images; `same`: of equal height and width."""
    alike: list[st.SearchStrategy[Layer]] = [
        norms(),
        st.builds(Activation, st.sampled_from(["relu", "leaky_relu", "gelu"])),
    ]
    sliding: list[st.SearchStrategy[Layer]] = [
        grouped_convolutions(channels, same=same),
        depthwise_convolutions(same=same),
        padded_poolings(same=same),
    ]
    return st.one_of(*sliding, *alike, *([dropouts()] if dropout else []))


def channels_after(shape: tuple[int, int, int], layers: list[Layer]) -> int:
    """Return how many channels `layers` make of images of `shape`; raise UserError where they do not fit."""
    return Network(shape, [*layers, GlobalAveragePool2D(), Dense(1)]).shapes[-2][0]


@st.composite
def paths(draw: st.DrawFn, shape: tuple[int, int, int], depth: int, dropout: bool, least: int = 0) -> list[Layer]:
    """Draw layers on images of `shape` that keep height and width, with blocks at most `depth` deep."""
    layers: list[Layer] = []
    for _ in range(draw(st.integers(least, 3))):
        here = (*shape[:2], channels_after(shape, layers))
        block = depth > 0 and draw(st.sampled_from((False, True, False)))
        layers.append(draw(blocks(here, depth, dropout) if block else any_layers(here[2], True, dropout)))
    return layers


@st.composite
def blocks(draw: st.DrawFn, shape: tuple[int, int, int], depth: int = 2, dropout: bool = True) -> Layer:
    """Draw a residual block or a concatenation on images of `shape`, with blocks at most `depth` deep, itself included.

    Identity and projecting shortcuts, branches of one to three layers, and the empty branch.
    """
    if draw(st.booleans()):
        return Concatenate([draw(paths(shape, depth - 1, dropout)) for _ in range(draw(st.integers(2, 3)))])
    main = draw(paths(shape, depth - 1, dropout, least=1))
    shortcut: list[Layer] = []
    if channels_after(shape, main) != shape[2] or draw(st.booleans()):
        shortcut = [
            Conv2D(channels_after(shape, main), 1, bias=draw(st.booleans())),
            *draw(st.lists(norms(), max_size=1)),
        ]
    return Residual(main, shortcut, draw(ANY_ACTIVATION))


@st.composite
def block_networks(draw: st.DrawFn, size: int = 10, channels: int = 6, dropout: bool = True) -> Network:
    """Draw a network of any layers and blocks, flattened or averaged, and up to three dense layers."""
    shape = draw(image_shapes(size, channels, least=draw(st.sampled_from((4, 1)))))
    layers: list[Layer] = []
    for _ in range(draw(st.integers(1, 4))):
        here = Network(shape, [*layers, Flatten(), Dense(1)]).shapes[-3]
        block = draw(st.booleans())
        layer = draw(blocks((here[0], here[1], here[2]), 2, dropout) if block else any_layers(here[2], dropout=dropout))
        try:
            Network(shape, [*layers, layer, Flatten(), Dense(1)])
        except UserError:  # does not fit any more
            continue
        layers.append(layer)
    layers.append(draw(st.sampled_from([Flatten(), GlobalAveragePool2D()])))
    for units in draw(st.lists(st.integers(1, 12), max_size=2)):
        on_vectors: list[st.SearchStrategy[Layer]] = [norms(), *([dropouts()] if dropout else [])]
        layers += [Dense(units, draw(ANY_ACTIVATION)), *draw(st.lists(st.one_of(*on_vectors), max_size=1))]
    layers.append(Dense(draw(st.integers(2, 12)), bias=draw(st.booleans())))
    return Network(shape, layers)
