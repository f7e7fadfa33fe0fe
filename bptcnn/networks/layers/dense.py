"""Vectors: made from images, and multiplied by a matrix."""

import math
from dataclasses import dataclass

from bptcnn.errors import UserError
from bptcnn.networks.layers.arguments import ActivationName, Shape, check_activation, check_bias, check_count


@dataclass(frozen=True)
class Flatten:
    """Images to vectors, in memory order (height, width, channels)."""

    kind = "flatten"

    def output_shape(self, shape: Shape) -> Shape:
        """Return (elements,)."""
        return (math.prod(shape),)

    def parameter_shapes(self, shape: Shape) -> list[tuple[str, Shape]]:
        """Return no parameters."""
        return []


@dataclass(frozen=True)
class Dense:
    """Fully connected layer: input @ weights + bias, then activation. Parameters: weights (in, out), bias (out)."""

    units: int
    activation: ActivationName = None
    bias: bool = True

    kind = "dense"

    def __post_init__(self) -> None:
        check_count(self.units, "Dense: units")
        check_activation(self.activation, "Dense")
        check_bias(self.bias, "Dense")

    def output_shape(self, shape: Shape) -> Shape:
        """Return (units,); raise UserError for images: Flatten comes first."""
        if len(shape) != 1:
            raise UserError(f"Dense wants vectors, not shape {shape}: put Flatten() before it")
        return (self.units,)

    def parameter_shapes(self, shape: Shape) -> list[tuple[str, Shape]]:
        """Return (name, shape) of the parameters for an input of `shape`."""
        found: list[tuple[str, Shape]] = [("weights", (shape[0], self.units))]
        return [*found, ("bias", (self.units,))] if self.bias else found
