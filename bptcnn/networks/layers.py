"""Layers: frozen descriptions that know output and parameter shapes. Shapes are (height, width, channels)."""

from dataclasses import dataclass
from typing import Literal

from bptcnn.errors import UserError

Shape = tuple[int, ...]
Pair = tuple[int, int]
Padding = Literal["same", "valid"] | tuple[Pair, Pair]
Activation = Literal["relu"] | None


def pair(value: int | Pair | list[int], what: str) -> Pair:
    """Return (rows, columns) from one number or two. Raise UserError unless both are whole numbers of at least 1."""
    both = tuple(value) if isinstance(value, tuple | list) else (value, value)
    if len(both) != 2 or not all(isinstance(v, int) and not isinstance(v, bool) and v >= 1 for v in both):
        raise UserError(f"{what} must be a whole number of at least 1, or two of them, not {value!r}")
    return both[0], both[1]


def _check_activation(activation: object, layer: str) -> None:
    if activation not in (None, "relu"):
        raise UserError(f"{layer}: activation must be 'relu' or None, not {activation!r}")


def _check_count(value: object, what: str) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UserError(f"{what} must be a whole number of at least 1, not {value!r}")


def _check_bias(bias: object, layer: str) -> None:
    if not isinstance(bias, bool):
        raise UserError(f"{layer}: bias must be True or False, not {bias!r}")


def _image(shape: Shape, layer: str) -> tuple[int, int, int]:
    if len(shape) != 3:
        raise UserError(f"{layer} wants images (height, width, channels), not shape {shape}: move it before Flatten")
    return shape[0], shape[1], shape[2]


def _same(size: int, kernel: int, stride: int) -> Pair:
    """TensorFlow's "same" padding: output ceil(size / stride), the odd element at the end."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


@dataclass(frozen=True)
class Conv2D:
    """Two-dimensional convolution (cross-correlation) of NHWC images, then bias, then activation.

    `filters`: output channels. `kernel_size`, `strides`: one number or (rows, columns). `padding`: "same" (as
    TensorFlow's), "valid" (none), or ((top, bottom), (left, right)). Parameters: filter (kernel rows, kernel columns,
    in channels, out channels) and, with `bias`, bias (out channels).
    """

    filters: int
    kernel_size: int | Pair
    strides: int | Pair = 1
    padding: Padding = "same"
    activation: Activation = None
    bias: bool = True

    kind = "conv"

    def __post_init__(self) -> None:
        _check_count(self.filters, "Conv2D: filters")
        object.__setattr__(self, "kernel_size", pair(self.kernel_size, "Conv2D: kernel_size"))
        object.__setattr__(self, "strides", pair(self.strides, "Conv2D: strides"))
        _check_activation(self.activation, "Conv2D")
        _check_bias(self.bias, "Conv2D")
        if isinstance(self.padding, str):
            if self.padding not in ("same", "valid"):
                raise UserError(f"Conv2D: padding must be 'same', 'valid' or explicit, not {self.padding!r}")
            return
        try:
            (top, bottom), (left, right) = self.padding
            explicit = ((top, bottom), (left, right))
        except (TypeError, ValueError):
            explicit = ((-1, -1), (-1, -1))
        if not all(isinstance(v, int) and not isinstance(v, bool) and v >= 0 for v in explicit[0] + explicit[1]):
            raise UserError(
                f"Conv2D: padding must be 'same', 'valid' or ((top, bottom), (left, right)), not {self.padding!r}"
            )
        object.__setattr__(self, "padding", explicit)

    @property
    def kernel(self) -> Pair:
        """Kernel (rows, columns)."""
        return pair(self.kernel_size, "Conv2D: kernel_size")

    @property
    def stride(self) -> Pair:
        """Stride (rows, columns)."""
        return pair(self.strides, "Conv2D: strides")

    def pads(self, shape: Shape) -> tuple[Pair, Pair]:
        """Return ((top, bottom), (left, right)) for an input of `shape`."""
        height, width, _ = _image(shape, "Conv2D")
        if isinstance(self.padding, tuple):
            return self.padding
        if self.padding == "valid":
            return (0, 0), (0, 0)
        return _same(height, self.kernel[0], self.stride[0]), _same(width, self.kernel[1], self.stride[1])

    def output_shape(self, shape: Shape) -> Shape:
        """Return the output shape; raise UserError where the kernel is larger than the padded input."""
        sizes = []
        for size, kernel, stride, pads in zip(shape, self.kernel, self.stride, self.pads(shape), strict=False):
            padded = size + sum(pads)
            if padded < kernel:
                raise UserError(f"Conv2D: kernel {self.kernel} does not fit into an input of {shape}")
            sizes.append((padded - kernel) // stride + 1)
        return sizes[0], sizes[1], self.filters

    def parameter_shapes(self, shape: Shape) -> list[tuple[str, Shape]]:
        """Return (name, shape) of the parameters for an input of `shape`."""
        found: list[tuple[str, Shape]] = [("filter", (*self.kernel, shape[2], self.filters))]
        return [*found, ("bias", (self.filters,))] if self.bias else found


@dataclass(frozen=True)
class MaxPool2D:
    """Max pooling over windows of `pool_size`; `strides` default to it. No padding: odd sizes are floored."""

    pool_size: int | Pair
    strides: int | Pair | None = None

    kind = "pool"

    def __post_init__(self) -> None:
        object.__setattr__(self, "pool_size", pair(self.pool_size, "MaxPool2D: pool_size"))
        if self.strides is not None:
            object.__setattr__(self, "strides", pair(self.strides, "MaxPool2D: strides"))
        if self.window[0] * self.window[1] > 255:
            raise UserError(f"MaxPool2D: a window holds at most 255 elements, not {self.window}")

    @property
    def window(self) -> Pair:
        """Window (rows, columns)."""
        return pair(self.pool_size, "MaxPool2D: pool_size")

    @property
    def stride(self) -> Pair:
        """Stride (rows, columns)."""
        return self.window if self.strides is None else pair(self.strides, "MaxPool2D: strides")

    def output_shape(self, shape: Shape) -> Shape:
        """Return the output shape; raise UserError where the window is larger than the input."""
        height, width, channels = _image(shape, "MaxPool2D")
        if height < self.window[0] or width < self.window[1]:
            raise UserError(f"MaxPool2D: window {self.window} does not fit into an input of {shape}")
        rows = (height - self.window[0]) // self.stride[0] + 1
        return rows, (width - self.window[1]) // self.stride[1] + 1, channels

    def parameter_shapes(self, shape: Shape) -> list[tuple[str, Shape]]:
        """Return no parameters."""
        return []


@dataclass(frozen=True)
class Flatten:
    """Images to vectors, in memory order (height, width, channels)."""

    kind = "flatten"

    def output_shape(self, shape: Shape) -> Shape:
        """Return (elements,)."""
        count = 1
        for size in shape:
            count *= size
        return (count,)

    def parameter_shapes(self, shape: Shape) -> list[tuple[str, Shape]]:
        """Return no parameters."""
        return []


@dataclass(frozen=True)
class Dense:
    """Fully connected layer: input @ weights + bias, then activation. Parameters: weights (in, out), bias (out)."""

    units: int
    activation: Activation = None
    bias: bool = True

    kind = "dense"

    def __post_init__(self) -> None:
        _check_count(self.units, "Dense: units")
        _check_activation(self.activation, "Dense")
        _check_bias(self.bias, "Dense")

    def output_shape(self, shape: Shape) -> Shape:
        """Return (units,); raise UserError for images: Flatten comes first."""
        if len(shape) != 1:
            raise UserError(f"Dense wants vectors, not shape {shape}: put Flatten() before it")
        return (self.units,)

    def parameter_shapes(self, shape: Shape) -> list[tuple[str, Shape]]:
        """Return (name, shape) of the parameters for an input of `shape`."""
        found: list[tuple[str, Shape]] = [("weights", (shape[0], self.units))]
        return [*found, ("bias", (self.units,))] if self.bias else found


Layer = Conv2D | MaxPool2D | Flatten | Dense
LAYERS: dict[str, type[Layer]] = {layer.__name__: layer for layer in (Conv2D, MaxPool2D, Flatten, Dense)}
