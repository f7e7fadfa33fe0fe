"""Shapes of images, as options give them."""

import re

from bptcnn.errors import UserError


def parse_shape(text: str) -> tuple[int, int, int]:
    """Return (height, width, channels) of "32x32x3" or "32,32,3"; raise UserError for anything else."""
    match = re.fullmatch(r"([1-9]\d{0,4})([x,])([1-9]\d{0,4})\2([1-9]\d{0,4})", text)
    if match is None:
        raise UserError(f"input shape {text!r}: give height, width and channels, such as 32x32x3")
    height, _, width, channels = match.groups()
    return int(height), int(width), int(channels)
