"""Pooling: the largest or the mean element of each window, or of the whole image."""

from dataclasses import dataclass

from bptcnn.errors import UserError
from bptcnn.networks.layers.arguments import Pair, Shape, image, pair
from bptcnn.networks.layers.windows import Padding, Pads, checked_padding, pads, places


class _Pooling:
    """What poolings have in common: a window that slides over padded images and always holds an element of them."""

    pool_size: int | Pair
    strides: int | Pair | None
    padding: Padding

    def __post_init__(self) -> None:
        name = type(self).__name__
        object.__setattr__(self, "pool_size", pair(self.pool_size, f"{name}: pool_size"))
        if self.strides is not None:
            object.__setattr__(self, "strides", pair(self.strides, f"{name}: strides"))
        object.__setattr__(self, "padding", checked_padding(self.padding, name))
        if isinstance(self.padding, tuple) and any(
            max(sides) >= size for sides, size in zip(self.padding, self.window, strict=True)
        ):
            raise UserError(f"{name}: padding {self.padding} must be smaller than the window {self.window}")

    @property
    def window(self) -> Pair:
        """Window (rows, columns)."""
        return pair(self.pool_size, "pool_size")

    @property
    def stride(self) -> Pair:
        """Stride (rows, columns)."""
        return self.window if self.strides is None else pair(self.strides, "strides")

    def pads(self, shape: Shape) -> Pads:
        """Return ((top, bottom), (left, right)) for an input of `shape`."""
        return pads(shape, self.window, self.stride, self.padding, type(self).__name__)

    def output_shape(self, shape: Shape) -> Shape:
        """Return the output shape, floored; raise UserError where the window is larger than the padded input."""
        what = type(self).__name__, f"window {self.window}"
        return *places(shape, self.window, self.stride, self.padding, what), shape[2]

    def parameter_shapes(self, shape: Shape) -> list[tuple[str, Shape]]:
        """Return no parameters."""
        return []


@dataclass(frozen=True)
class MaxPool2D(_Pooling):
    """Largest element of each window of `pool_size`, the first of equals.

    `pool_size`, `strides` (by default the same): one number or (rows, columns). `padding` as Conv2D's, explicit
    padding smaller than the window; padded elements never win. A window holds at most 255 elements.
    """

    pool_size: int | Pair
    strides: int | Pair | None = None
    padding: Padding = "valid"

    kind = "pool"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.window[0] * self.window[1] > 255:
            raise UserError(f"MaxPool2D: a window holds at most 255 elements, not {self.window}")


@dataclass(frozen=True)
class AveragePool2D(_Pooling):
    """Mean of each window of `pool_size`. Arguments as MaxPool2D's; padded elements are not counted."""

    pool_size: int | Pair
    strides: int | Pair | None = None
    padding: Padding = "valid"

    kind = "average"


@dataclass(frozen=True)
class GlobalAveragePool2D:
    """Mean of each channel over the whole image: (height, width, channels) to (channels,)."""

    kind = "mean"

    def output_shape(self, shape: Shape) -> Shape:
        """Return (channels,); raise UserError for vectors."""
        return (image(shape, "GlobalAveragePool2D")[2],)

    def parameter_shapes(self, shape: Shape) -> list[tuple[str, Shape]]:
        """Return no parameters."""
        return []
