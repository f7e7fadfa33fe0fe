"""Weights on the wire: as they are, or rounded to 16 bits with what the rounding lost carried over.

float32 travels as its bytes, little-endian. bfloat16 is float32's upper half, rounded to nearest, ties to even.
float16 has a power of two in front, as float32, that the halves are multiplied by: it puts the largest magnitude
between 2**14 and 2**15, where float16 ends at 65504, so values down to 2**-28 of the largest keep 11 bits.

Every format refuses what is not finite, on both ends: diverged weights are never merged.
"""

import math
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Wire = Literal["float32", "float16", "bfloat16"]
FloatArray = npt.NDArray[np.float32]
ByteArray = npt.NDArray[np.uint8]
Buffer = bytes | bytearray | memoryview | npt.NDArray[Any]

# A local iteration takes some 60 ms: a transfer of a third of that hides behind training, rounding would gain nothing.
FLOAT32_SECONDS = 0.02

_SCALE_BYTES = 4
_LARGEST_BITS: dict[Wire, int] = {"float32": 0x7F7FFFFF, "float16": 0x7F7FEFFF, "bfloat16": 0x7F7F7FFF}
_LARGEST = {  # what is larger rounds to infinity
    wire: float(np.array(bits, np.uint32).view(np.float32)) for wire, bits in _LARGEST_BITS.items()
}
_HALF_EXPONENT = 15  # the largest magnitude is brought below 2**15
_LEAST_EXPONENT = -126  # of a scale: float32's smallest normal number, whose reciprocal float32 has too


def payload_size(wire: Wire, count: int) -> int:
    """Bytes that `count` weights take."""
    if wire == "float32":
        return 4 * count
    return 2 * count + (_SCALE_BYTES if wire == "float16" else 0)


def choose_wire(count: int, bytes_per_second: float) -> Wire:
    """The format for `count` weights: float32 where the link carries them within FLOAT32_SECONDS, else bfloat16."""
    return "float32" if payload_size("float32", count) <= FLOAT32_SECONDS * bytes_per_second else "bfloat16"


def encode(wire: Wire, values: FloatArray) -> ByteArray:
    """The payload for `values`, float32 (n,): contiguous, `payload_size` bytes.

    Raises ValueError if a value is not finite, or so close to float32's largest number that 16 bits round
    it to infinity.
    """
    payload = np.empty(payload_size(wire, len(values)), np.uint8)
    scratch = np.empty(len(values) if wire != "float32" else 0, np.uint32)
    _encode(wire, np.ascontiguousarray(values), payload, scratch)
    return payload


def decode(wire: Wire, payload: Buffer, out: FloatArray) -> None:
    """Put the weights of a payload into `out`, float32 (n,), contiguous.

    Raises ValueError if the payload's size is not `payload_size`, or a value is not finite: `out` holds anything then.
    """
    content: ByteArray = np.frombuffer(payload, np.uint8)
    if len(content) != payload_size(wire, len(out)):
        raise ValueError(f"{len(content)} bytes for {len(out)} weights in {wire}: {payload_size(wire, len(out))} due")
    if wire == "float32":
        out[:] = content.view("<f4")
    elif wire == "bfloat16":
        bits = out.view(np.uint32)
        bits[:] = content.view("<u2")
        np.left_shift(bits, 16, out=bits)
    else:
        scale = float(content[:_SCALE_BYTES].view("<f4")[0])
        if not (math.isfinite(scale) and scale > 0 and math.frexp(scale)[0] == 0.5):
            raise ValueError(f"the scale of the weights is {scale}, not a power of two")
        out[:] = content[_SCALE_BYTES:].view("<f2")
        with np.errstate(over="ignore", invalid="ignore"):  # refused below
            np.multiply(out, np.float32(scale), out=out)
    _largest(out)


class ErrorFeedback:
    """Encodes one node's progress, round by round, and carries over what rounding has lost.

    What a round's payload leaves out is added to the next round's progress, so the sum of what was sent stays within
    one rounding of the sum of the progress, however many rounds. Source: F. Seide et al., "1-Bit Stochastic Gradient
    Descent", Interspeech 2014; S. P. Karimireddy et al., arXiv 1901.09847.
    """

    def __init__(self, wire: Wire, count: int) -> None:
        """For weight sets of `count` values."""
        self.wire = wire
        self.residual: FloatArray = np.zeros(count, np.float32)
        size = count if wire != "float32" else 0
        self._sum: FloatArray = np.empty(size, np.float32)
        self._scratch: npt.NDArray[np.uint32] = np.empty(size, np.uint32)

    def encode(self, progress: FloatArray) -> ByteArray:
        """The payload for `progress`, float32 (count,), plus the residual; a fresh array, as payloads may travel.

        Raises ValueError as the function `encode` does; the residual is as before then.
        """
        if progress.shape != self.residual.shape:
            raise ValueError(f"progress of shape {progress.shape}, expected {self.residual.shape}")
        if self.wire == "float32":
            return encode(self.wire, progress)
        with np.errstate(over="ignore", invalid="ignore"):  # refused by _encode
            np.add(progress, self.residual, out=self._sum)
        payload = np.empty(payload_size(self.wire, len(progress)), np.uint8)
        _encode(self.wire, self._sum, payload, self._scratch)
        np.subtract(self._sum, self._scratch.view(np.float32), out=self.residual)
        return payload


def _encode(wire: Wire, values: FloatArray, payload: ByteArray, scratch: npt.NDArray[np.uint32]) -> None:
    """Fill `payload`; but for float32, `scratch` holds afterwards, as float32, what `decode` makes of it."""
    largest = _largest(values)
    if largest > _LARGEST[wire]:
        raise ValueError(f"a weight of magnitude {largest:g} is beyond the range of {wire}")
    if wire == "float32":
        payload.view("<f4")[:] = values
    elif wire == "bfloat16":
        _round_to_bfloat16(values, payload.view("<u2"), scratch)
    else:
        _round_to_float16(values, largest, payload, scratch)


def _round_to_bfloat16(values: FloatArray, halves: npt.NDArray[Any], scratch: npt.NDArray[np.uint32]) -> None:
    bits = values.view(np.uint32)
    np.right_shift(bits, 16, out=scratch)
    np.bitwise_and(scratch, 1, out=scratch)  # the last bit kept: a tie goes up where it is odd
    np.add(scratch, 0x7FFF, out=scratch)
    np.add(scratch, bits, out=scratch)
    np.right_shift(scratch, 16, out=scratch)
    halves[:] = scratch
    np.left_shift(scratch, 16, out=scratch)


def _round_to_float16(values: FloatArray, largest: float, payload: ByteArray, scratch: npt.NDArray[np.uint32]) -> None:
    exponent = max(_LEAST_EXPONENT, math.frexp(largest)[1] - _HALF_EXPONENT) if largest else 0
    payload[:_SCALE_BYTES].view("<f4")[0] = math.ldexp(1.0, exponent)
    halves = payload[_SCALE_BYTES:].view("<f2")
    decoded = scratch.view(np.float32)
    np.multiply(values, np.float32(math.ldexp(1.0, -exponent)), out=decoded)
    halves[:] = decoded
    decoded[:] = halves
    np.multiply(decoded, np.float32(math.ldexp(1.0, exponent)), out=decoded)


def _largest(values: FloatArray) -> float:
    """The largest magnitude; ValueError if a value is not finite, as neither end of the range is then."""
    low, high = float(values.min(initial=0.0)), float(values.max(initial=0.0))
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError("a weight is not finite")
    return max(-low, high)
