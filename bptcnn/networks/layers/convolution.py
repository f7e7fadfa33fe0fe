"""Convolutions: of all channels, of groups of channels, and of each channel on its own."""

from dataclasses import dataclass

from bptcnn.errors import UserError
from bptcnn.networks.layers.arguments import (
    ActivationName,
    Pair,
    Shape,
    check_activation,
    check_bias,
    check_count,
    image,
    pair,
)
from bptcnn.networks.layers.windows import Padding, Pads, checked_padding, pads, places


class _Convolution:
    """What convolutions have in common: a dilated kernel that slides over padded images."""

    kernel_size: int | Pair
    strides: int | Pair
    padding: Padding
    activation: ActivationName
    bias: bool
    dilation: int | Pair

    def __post_init__(self) -> None:
        name = type(self).__name__
        for what in ("kernel_size", "strides", "dilation"):
            object.__setattr__(self, what, pair(getattr(self, what), f"{name}: {what}"))
        object.__setattr__(self, "padding", checked_padding(self.padding, name))
        check_activation(self.activation, name)
        check_bias(self.bias, name)

    @property
    def kernel(self) -> Pair:
        """Kernel (rows, columns)."""
        return pair(self.kernel_size, "kernel_size")

    @property
    def stride(self) -> Pair:
        """Stride (rows, columns)."""
        return pair(self.strides, "strides")

    @property
    def dilations(self) -> Pair:
        """Distance of neighbouring kernel elements in the image (rows, columns)."""
        return pair(self.dilation, "dilation")

    @property
    def extent(self) -> Pair:
        """What the dilated kernel spans in the image (rows, columns)."""
        return (self.kernel[0] - 1) * self.dilations[0] + 1, (self.kernel[1] - 1) * self.dilations[1] + 1

    def pads(self, shape: Shape) -> Pads:
        """Return ((top, bottom), (left, right)) for an input of `shape`."""
        return pads(shape, self.extent, self.stride, self.padding, type(self).__name__)

    def _places(self, shape: Shape) -> Pair:
        dilated = "" if self.dilations == (1, 1) else f", dilated to {self.extent},"
        what = type(self).__name__, f"kernel {self.kernel}{dilated}"
        return places(shape, self.extent, self.stride, self.padding, what)


@dataclass(frozen=True)
class Conv2D(_Convolution):
    """Two-dimensional convolution (cross-correlation) of NHWC images, then bias, then activation.

    `filters`: output channels. `kernel_size`, `strides`, `dilation`: one number or (rows, columns). `padding`: "same"
    (as TensorFlow's), "valid" (none), or ((top, bottom), (left, right)). `groups`: output channels come in so many
    groups, each made from its share of the input channels alone; it divides both. Parameters: filter (kernel rows,
    kernel columns, in channels / groups, out channels) and, with `bias`, bias (out channels).
    """

    filters: int
    kernel_size: int | Pair
    strides: int | Pair = 1
    padding: Padding = "same"
    activation: ActivationName = None
    bias: bool = True
    groups: int = 1
    dilation: int | Pair = 1

    kind = "conv"

    def __post_init__(self) -> None:
        check_count(self.filters, "Conv2D: filters")
        super().__post_init__()
        check_count(self.groups, "Conv2D: groups")
        if self.filters % self.groups:
            raise UserError(f"Conv2D: {self.groups} groups do not divide {self.filters} filters")

    def output_shape(self, shape: Shape) -> Shape:
        """Return the output shape; raise UserError where the kernel does not fit or groups do not divide channels."""
        rows, columns = self._places(shape)
        if shape[2] % self.groups:
            raise UserError(
                f"Conv2D: {self.groups} groups do not divide the {shape[2]} channels of an input of {shape}"
            )
        return rows, columns, self.filters

    def parameter_shapes(self, shape: Shape) -> list[tuple[str, Shape]]:
        """Return (name, shape) of the parameters for an input of `shape`."""
        found: list[tuple[str, Shape]] = [("filter", (*self.kernel, shape[2] // self.groups, self.filters))]
        return [*found, ("bias", (self.filters,))] if self.bias else found


@dataclass(frozen=True)
class DepthwiseConv2D(_Convolution):
    """Convolution of each channel with a filter of its own, then bias, then activation.

    Arguments as Conv2D's. Parameters: filter (kernel rows, kernel columns, 1, channels) and, with `bias`, bias
    (channels).
    """

    kernel_size: int | Pair
    strides: int | Pair = 1
    padding: Padding = "same"
    activation: ActivationName = None
    bias: bool = True
    dilation: int | Pair = 1

    kind = "depthwise"

    def output_shape(self, shape: Shape) -> Shape:
        """Return the output shape; raise UserError where the kernel is larger than the padded input."""
        return *self._places(shape), shape[2]

    def parameter_shapes(self, shape: Shape) -> list[tuple[str, Shape]]:
        """Return (name, shape) of the parameters for an input of `shape`."""
        channels = image(shape, "DepthwiseConv2D")[2]
        found: list[tuple[str, Shape]] = [("filter", (*self.kernel, 1, channels))]
        return [*found, ("bias", (channels,))] if self.bias else found
