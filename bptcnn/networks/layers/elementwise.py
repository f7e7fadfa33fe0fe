"""Layers that treat each element on its own: activation and dropout."""

from dataclasses import dataclass

from bptcnn.errors import UserError
from bptcnn.networks.layers.arguments import ActivationName, Shape, check_function, is_number, shown


@dataclass(frozen=True)
class Activation:
    """Activation as a layer: `function` is "relu", "leaky_relu" (slope 0.01) or "gelu" (exact: x * Phi(x) by erf)."""

    function: ActivationName

    kind = "activation"

    def __post_init__(self) -> None:
        check_function(self.function, "Activation")

    def output_shape(self, shape: Shape) -> Shape:
        """Return `shape`."""
        return shape

    def parameter_shapes(self, shape: Shape) -> list[tuple[str, Shape]]:
        """Return no parameters."""
        return []


@dataclass(frozen=True)
class Dropout:
    """In training each element is kept with probability 1 - `rate` and divided by it, else 0; at inference nothing."""

    rate: float

    kind = "dropout"

    def __post_init__(self) -> None:
        if not is_number(self.rate) or not 0 <= self.rate < 1:
            raise UserError(f"Dropout: rate must be a number of at least 0 and below 1, not {shown(self.rate)}")

    def output_shape(self, shape: Shape) -> Shape:
        """Return `shape`."""
        return shape

    def parameter_shapes(self, shape: Shape) -> list[tuple[str, Shape]]:
        """Return no parameters."""
        return []
