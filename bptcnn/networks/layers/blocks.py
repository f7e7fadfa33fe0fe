"""Blocks: layers on several paths from one input, joined at their end. Blocks hold blocks as freely as layers."""

from collections.abc import Sequence
from dataclasses import dataclass

from bptcnn.errors import UserError
from bptcnn.networks.layers.arguments import ActivationName, Shape, check_activation, shown
from bptcnn.networks.layers.convolution import Conv2D, DepthwiseConv2D
from bptcnn.networks.layers.dense import Dense, Flatten
from bptcnn.networks.layers.elementwise import Activation, Dropout
from bptcnn.networks.layers.normalisation import BatchNorm
from bptcnn.networks.layers.pooling import AveragePool2D, GlobalAveragePool2D, MaxPool2D


@dataclass(frozen=True)
class Sum:
    """What ends a Residual: the sum of its two paths, then activation. Never given by the user."""

    activation: ActivationName

    kind = "sum"

    def output_shape(self, main: Shape, shortcut: Shape) -> Shape:
        """Return the shape of both; raise UserError where they differ."""
        if main != shortcut:
            raise UserError(f"Residual: its layers give {main} and its shortcut {shortcut}, which must be equal")
        return main


@dataclass(frozen=True)
class Join:
    """What ends a Concatenate: the branches' outputs along the last axis. Never given by the user."""

    kind = "join"

    def output_shape(self, *shapes: Shape) -> Shape:
        """Return the joined shape; raise UserError where the shapes differ before the last axis."""
        if len({shape[:-1] for shape in shapes}) > 1:
            given = ", ".join(str(shape) for shape in shapes)
            raise UserError(f"Concatenate: its branches give {given}, which must be equal but for the channels")
        return *shapes[0][:-1], sum(shape[-1] for shape in shapes)


@dataclass(frozen=True)
class Residual:
    """activation(layers(x) + shortcut(x)); an empty shortcut is the identity (K. He et al., 2015, arXiv 1512.03385).

    Both paths must give the same shape. Parameters: those of `layers`, then those of `shortcut`.
    """

    layers: "Sequence[Layer]"
    shortcut: "Sequence[Layer]" = ()
    activation: ActivationName = "relu"

    kind = "residual"

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", layers_of(self.layers, "Residual: layers"))
        object.__setattr__(self, "shortcut", layers_of(self.shortcut, "Residual: shortcut"))
        if not self.layers:
            raise UserError("Residual: layers must hold at least one layer")
        check_activation(self.activation, "Residual")

    @property
    def paths(self) -> "dict[str, tuple[Layer, ...]]":
        """The paths by the name that errors give them, in forward order."""
        return {"main": tuple(self.layers), "shortcut": tuple(self.shortcut)}

    @property
    def end(self) -> Sum:
        """What the paths' outputs go into."""
        return Sum(self.activation)


@dataclass(frozen=True)
class Concatenate:
    """The outputs of all `branches`, lists of layers on the same input, joined along the last axis.

    They must agree in height and width. An empty branch is the input itself. Parameters: the branches' in order.
    """

    branches: "Sequence[Sequence[Layer]]"

    kind = "concatenate"

    def __post_init__(self) -> None:
        if not isinstance(self.branches, list | tuple) or len(self.branches) < 2:
            raise UserError(f"Concatenate: branches must be a list of at least two lists, not {shown(self.branches)}")
        branches = (layers_of(branch, f"Concatenate: branch {i}") for i, branch in enumerate(self.branches))
        object.__setattr__(self, "branches", tuple(branches))

    @property
    def paths(self) -> "dict[str, tuple[Layer, ...]]":
        """The paths by the name that errors give them, in forward order."""
        return {f"branch {index}": tuple(branch) for index, branch in enumerate(self.branches)}

    @property
    def end(self) -> Join:
        """What the paths' outputs go into."""
        return Join()


SimpleLayer = (
    Conv2D
    | DepthwiseConv2D
    | BatchNorm
    | Activation
    | MaxPool2D
    | AveragePool2D
    | GlobalAveragePool2D
    | Dropout
    | Flatten
    | Dense
)
Block = Residual | Concatenate
Layer = SimpleLayer | Block
"""What a user builds networks of."""

AppliedLayer = SimpleLayer | Sum | Join
"""What a network applies once its blocks are laid out."""

LAYERS: dict[str, type[Layer]] = {
    layer.__name__: layer
    for layer in (
        Conv2D,
        DepthwiseConv2D,
        BatchNorm,
        Activation,
        MaxPool2D,
        AveragePool2D,
        GlobalAveragePool2D,
        Dropout,
        Residual,
        Concatenate,
        Flatten,
        Dense,
    )
}


def layers_of(given: object, what: str) -> tuple[Layer, ...]:
    """Return the layers as a tuple; raise UserError, which calls them `what`, unless it is a list of layers."""
    if not isinstance(given, list | tuple):
        raise UserError(f"{what} must be a list of layers, not {shown(given)}")
    for index, layer in enumerate(given):
        if not isinstance(layer, Layer):
            raise UserError(f"{what}: layer {index} must be one of {', '.join(LAYERS)}, not {shown(layer)}")
    return tuple(given)
