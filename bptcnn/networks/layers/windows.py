"""Windows that slide over padded images: how much padding, and how many places."""

from typing import Literal

from bptcnn.errors import UserError
from bptcnn.networks.layers.arguments import MOST_ELEMENTS, Pair, Shape, image, is_size, shown

Pads = tuple[Pair, Pair]
"""((top, bottom), (left, right))"""

Padding = Literal["same", "valid"] | Pads


def checked_padding(padding: object, layer: str) -> Padding:
    """Return `padding` with tuples for lists; raise UserError unless it is one of the three forms."""
    if isinstance(padding, str):
        if padding == "same":
            return "same"
        if padding == "valid":
            return "valid"
        raise UserError(f"{layer}: padding must be 'same', 'valid' or explicit, not {shown(padding)}")
    sides = padding if isinstance(padding, list | tuple) else ()
    found = [tuple(side) for side in sides if isinstance(side, list | tuple)]
    if (
        len(sides) != 2
        or [len(side) for side in found] != [2, 2]
        or not all(is_size(v) for side in found for v in side)
    ):
        raise UserError(
            f"{layer}: padding must be 'same', 'valid' or ((top, bottom), (left, right)), not {shown(padding)}"
        )
    return (found[0][0], found[0][1]), (found[1][0], found[1][1])


def pads(shape: Shape, extent: Pair, stride: Pair, padding: Padding, layer: str) -> Pads:
    """Return the padding of images of `shape` under windows of `extent` (rows, columns)."""
    height, width, _ = image(shape, layer)
    if isinstance(padding, tuple):
        return padding
    if padding == "valid":
        return (0, 0), (0, 0)
    return _same(height, extent[0], stride[0]), _same(width, extent[1], stride[1])


def places(shape: Shape, extent: Pair, stride: Pair, padding: Padding, what: tuple[str, str]) -> Pair:
    """Return how many windows fit, (rows, columns).

    `what` names the layer and its window. Raises UserError where the window is larger than the padded image.
    """
    layer, window = what
    around = pads(shape, extent, stride, padding, layer)
    padded = shape[0] + sum(around[0]), shape[1] + sum(around[1])
    if padded[0] * padded[1] * shape[2] > MOST_ELEMENTS:
        raise UserError(f"{layer}: an input of {shape} is padded to more than {MOST_ELEMENTS:,} elements")
    if padded[0] < extent[0] or padded[1] < extent[1]:
        raise UserError(f"{layer}: {window} does not fit into an input of {shape}")
    return (padded[0] - extent[0]) // stride[0] + 1, (padded[1] - extent[1]) // stride[1] + 1


def _same(size: int, extent: int, stride: int) -> Pair:
    """TensorFlow's "same" padding: output ceil(size / stride), the odd element at the end."""
    total = max((-(-size // stride) - 1) * stride + extent - size, 0)
    return total // 2, total - total // 2
