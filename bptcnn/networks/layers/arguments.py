"""What layers are given: types, and checks that refuse anything else in one line."""

import reprlib
import sys
from typing import Literal

from bptcnn.errors import UserError

Shape = tuple[int, ...]
Pair = tuple[int, int]
ActivationName = Literal["relu", "leaky_relu", "gelu"] | None

ACTIVATIONS = ("relu", "leaky_relu", "gelu")
LEAKY_SLOPE = 0.01
"""What leaky_relu multiplies negative inputs by."""

MOST_ELEMENTS = 2**31 - 1
"""Of an image between two layers, padding included, and of all parameters together: 8 GB."""
_LARGEST = 2**24  # of each filter count, kernel, stride and padding: float32 counts exactly as far


def pair(value: int | Pair | list[int], what: str) -> Pair:
    """Return (rows, columns) from one number or two. Raise UserError unless both are whole numbers from 1."""
    both = tuple(value) if isinstance(value, tuple | list) else (value, value)
    if len(both) != 2 or not all(_whole(v, 1) for v in both):
        raise UserError(f"{what} must be a whole number from 1 to {_LARGEST}, or two of them, not {shown(value)}")
    return both[0], both[1]


def check_count(value: object, what: str) -> None:
    """Raise UserError unless `value` is a whole number from 1 that a layer can have."""
    if not _whole(value, 1):
        raise UserError(f"{what} must be a whole number from 1 to {_LARGEST}, not {shown(value)}")


def check_activation(activation: object, layer: str) -> None:
    """Raise UserError unless `activation` is one of ACTIVATIONS or None."""
    if activation is not None and activation not in ACTIVATIONS:
        raise UserError(f"{layer}: activation must be {_names()} or None, not {shown(activation)}")


def check_function(function: object, layer: str) -> None:
    """Raise UserError unless `function` is one of ACTIVATIONS."""
    if function not in ACTIVATIONS:
        raise UserError(f"{layer}: function must be {_names()}, not {shown(function)}")


def check_bias(bias: object, layer: str) -> None:
    """Raise UserError unless `bias` is True or False."""
    if not isinstance(bias, bool):
        raise UserError(f"{layer}: bias must be True or False, not {shown(bias)}")


def is_number(value: object) -> bool:
    """Tell whether `value` is a finite real number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def is_size(value: object) -> bool:
    """Tell whether `value` is a whole number from 0 that a layer can have."""
    return _whole(value, 0)


def image(shape: Shape, layer: str) -> tuple[int, int, int]:
    """Return (height, width, channels); raise UserError where `shape` is a vector's."""
    if len(shape) != 3:
        raise UserError(f"{layer} wants images (height, width, channels), not shape {shape}: move it before Flatten")
    return shape[0], shape[1], shape[2]


def _whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= _LARGEST


def shown(value: object) -> str:
    """Return a wrong value's text, cut."""
    return reprlib.repr(value)


def _names() -> str:
    return ", ".join(repr(name) for name in ACTIVATIONS)
