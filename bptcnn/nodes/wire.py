"""The forms that weights travel in: as they are, or rounded to 16 bits.

float32 travels as its bytes, little-endian. bfloat16 is float32's upper half, rounded to nearest, ties to even.
float16 has a power of two in front, as float32, that the halves are multiplied by: it puts the largest magnitude
between 2**14 and 2**15, where float16 ends at 65504, so values down to 2**-28 of the largest keep 11 bits.

`encoding` makes and reads payloads; here is what can be known of them before anything is compiled.
"""

from typing import Literal

Wire = Literal["float32", "float16", "bfloat16"]

# A local iteration takes some 60 ms: a transfer of a third of that hides behind training, rounding would gain nothing.
FLOAT32_SECONDS = 0.02

SCALE_BYTES = 4  # of float16, in front


def payload_size(wire: Wire, count: int) -> int:
    """Bytes that `count` weights take."""
    if wire == "float32":
        return 4 * count
    return 2 * count + (SCALE_BYTES if wire == "float16" else 0)


def choose_wire(count: int, bytes_per_second: float) -> Wire:
    """The format for `count` weights: float32 where the link carries them within FLOAT32_SECONDS, else bfloat16."""
    return "float32" if payload_size("float32", count) <= FLOAT32_SECONDS * bytes_per_second else "bfloat16"
