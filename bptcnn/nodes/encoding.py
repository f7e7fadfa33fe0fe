"""Payloads from weights and back, in the forms of `wire`; what rounding lost is carried over to the next payload.

Every format refuses what is not finite, on both ends: diverged weights are never merged. The arithmetic is compiled
(`kernels.rounding`): training stands still for it.
"""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from bptcnn.kernels import rounding
from bptcnn.nodes.wire import SCALE_BYTES, Wire, payload_size

FloatArray = npt.NDArray[np.float32]
HalfArray = npt.NDArray[np.uint16]
ByteArray = npt.NDArray[np.uint8]
Buffer = bytes | bytearray | memoryview | npt.NDArray[Any]

_LARGEST_BITS: dict[Wire, int] = {"float32": 0x7F7FFFFF, "float16": 0x7F7FEFFF, "bfloat16": 0x7F7F7FFF}
_LARGEST = {  # what is larger rounds to infinity
    wire: float(np.array(bits, np.uint32).view(np.float32)) for wire, bits in _LARGEST_BITS.items()
}
_HALF_EXPONENT = 15  # the largest magnitude is brought below 2**15
_LEAST_EXPONENT = -126  # of a scale: float32's smallest normal number, whose reciprocal float32 has too


def encode(wire: Wire, values: FloatArray) -> ByteArray:
    """The payload for `values`, float32 (n,): contiguous, `payload_size` bytes.

    Raises ValueError if a value is not finite, or so close to float32's largest number that 16 bits round
    it to infinity.
    """
    values = _vector(values)
    payload = np.empty(payload_size(wire, len(values)), np.uint8)
    if wire == "float32":
        _require_within(wire, rounding.copy(values, payload.view(np.float32)))
    elif wire == "bfloat16":
        _require_within(wire, rounding.to_bfloat16(values, payload.view(np.uint16)))
    else:
        rest = np.empty(len(values), np.float32)
        _round_to_float16(rest, rounding.copy(values, rest), payload)
    return payload


def decode(wire: Wire, payload: Buffer, out: FloatArray) -> float:
    """Put the weights of a payload into `out`, float32 (n,), contiguous; return their largest magnitude.

    Raises ValueError if the payload's size is not `payload_size`, or a value is not finite: `out` holds anything then.
    """
    content = _content(wire, payload, len(out))
    if wire == "float32":
        largest = rounding.copy(_numbers(content, np.float32), out)
    elif wire == "bfloat16":
        largest = rounding.from_bfloat16(_numbers(content, np.uint16), out)
    else:
        largest = rounding.from_float16(_numbers(content[SCALE_BYTES:], np.uint16), _scale(content), out)
    return _require_finite(largest)


def decode_onto(wire: Wire, payload: Buffer, onto: FloatArray) -> None:
    """Add the weights of a payload to `onto`, float32 (n,), contiguous.

    Raises ValueError as `decode` does: `onto` is as before then.
    """
    content = _content(wire, payload, len(onto))
    if wire == "float32":
        largest = rounding.accumulate(_numbers(content, np.float32), onto)
    elif wire == "bfloat16":
        largest = rounding.accumulate_bfloat16(_numbers(content, np.uint16), onto)
    else:
        largest = rounding.accumulate_float16(_numbers(content[SCALE_BYTES:], np.uint16), _scale(content), onto)
    _require_finite(largest)


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
        self._next: FloatArray = np.zeros(count if wire != "float32" else 0, np.float32)

    def encode(self, progress: FloatArray) -> ByteArray:
        """The payload for `progress`, float32 (count,), plus the residual; a fresh array, as payloads may travel.

        Raises ValueError as the function `encode` does; the residual is as before then.
        """
        if progress.shape != self.residual.shape:
            raise ValueError(f"progress of shape {progress.shape}, expected {self.residual.shape}")
        if self.wire == "float32":
            return encode(self.wire, progress)
        progress = _vector(progress)
        payload = np.empty(payload_size(self.wire, len(progress)), np.uint8)
        if self.wire == "bfloat16":
            largest = rounding.to_bfloat16_fed(progress, self.residual, payload.view(np.uint16), self._next)
            _require_within(self.wire, largest)
        else:
            _round_to_float16(self._next, rounding.add(progress, self.residual, self._next), payload)
        self.residual, self._next = self._next, self.residual
        return payload


def _round_to_float16(values: FloatArray, largest: float, payload: ByteArray) -> None:
    """Fill `payload`; `values`, whose largest magnitude is given, become what rounding has lost of them."""
    _require_within("float16", largest)
    exponent = max(_LEAST_EXPONENT, math.frexp(largest)[1] - _HALF_EXPONENT) if largest else 0
    scale, inverse = math.ldexp(1.0, exponent), math.ldexp(1.0, -exponent)
    payload[:SCALE_BYTES].view(np.float32)[0] = scale
    rounding.to_float16(values, scale, inverse, payload[SCALE_BYTES:].view(np.uint16))


def _content(wire: Wire, payload: Buffer, count: int) -> ByteArray:
    """The payload's bytes, as many as are due."""
    content: ByteArray = np.frombuffer(payload, np.uint8)
    if len(content) != payload_size(wire, count):
        raise ValueError(f"{len(content)} bytes for {count} weights in {wire}: {payload_size(wire, count)} due")
    return content


def _scale(content: ByteArray) -> float:
    """What the halves of a float16 payload are multiplied by."""
    scale = float(content[:SCALE_BYTES].view(np.float32)[0])
    if not (math.isfinite(scale) and scale > 0 and math.frexp(scale)[0] == 0.5):
        raise ValueError(f"the scale of the weights is {scale}, not a power of two")
    return scale


def _vector(values: FloatArray) -> FloatArray:
    """Return the values as kernels take them: contiguous, aligned, writable; a copy only where they are not."""
    return np.require(values, np.float32, ["C", "A", "W"])


def _numbers(content: ByteArray, kind: type[Any]) -> npt.NDArray[Any]:
    """View bytes as numbers, as kernels take them."""
    return np.require(content.view(kind), requirements=["A", "W"])


def _require_within(wire: Wire, largest: float) -> None:
    """Raise ValueError if the largest magnitude of what is to be sent is not finite or not below infinity in `wire`."""
    if _require_finite(largest) > _LARGEST[wire]:
        raise ValueError(f"a weight of magnitude {largest:g} is beyond the range of {wire}")


def _require_finite(largest: float) -> float:
    if not math.isfinite(largest):
        raise ValueError("a weight is not finite")
    return largest
