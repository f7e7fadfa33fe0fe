"""Payloads made and read by numpy, one pass an operation: what the compiled encoding is compared with, bit for bit."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from bptcnn.nodes.wire import Wire, payload_size

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
LARGEST_BITS = {"float32": 0x7F7FFFFF, "float16": 0x7F7FEFFF, "bfloat16": 0x7F7F7FFF}


def largest_of(values: Floats) -> float:
    """Return the largest magnitude; ValueError where a value is not finite."""
    low, high = float(values.min(initial=0.0)), float(values.max(initial=0.0))
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError("a weight is not finite")
    return max(-low, high)


def encode(wire: Wire, values: Floats) -> Bytes:
    """Return the payload for `values`."""
    largest = largest_of(values)
    if largest > np.array(LARGEST_BITS[wire], np.uint32).view(np.float32):
        raise ValueError(f"a weight of magnitude {largest:g} is beyond the range of {wire}")
    payload = np.empty(payload_size(wire, len(values)), np.uint8)
    if wire == "float32":
        payload.view("<f4")[:] = values
    elif wire == "bfloat16":
        bits = values.view(np.uint32)
        payload.view("<u2")[:] = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    else:
        exponent = max(-126, math.frexp(largest)[1] - 15) if largest else 0
        payload[:4].view("<f4")[0] = math.ldexp(1.0, exponent)
        payload[4:].view("<f2")[:] = values * np.float32(math.ldexp(1.0, -exponent))
    return payload


def decode(wire: Wire, payload: Bytes) -> Floats:
    """Return the weights of a payload of the right size."""
    if wire == "float32":
        out = payload.view("<f4").copy()
    elif wire == "bfloat16":
        out = (payload.view("<u2").astype(np.uint32) << 16).view(np.float32)
    else:
        scale = float(payload[:4].view("<f4")[0])
        if not (math.isfinite(scale) and scale > 0 and math.frexp(scale)[0] == 0.5):
            raise ValueError(f"the scale of the weights is {scale}, not a power of two")
        with np.errstate(over="ignore", invalid="ignore"):
            out = payload[4:].view("<f2").astype(np.float32) * np.float32(scale)
    largest_of(out)
    return out


class ErrorFeedback:
    """Encodes progress round by round."""

    def __init__(self, wire: Wire, count: int) -> None:
        self.wire, self.residual = wire, np.zeros(count, np.float32)

    def encode(self, progress: Floats) -> Bytes:
        """Return the payload for progress and residual."""
        if self.wire == "float32":
            return encode(self.wire, progress)
        with np.errstate(over="ignore", invalid="ignore"):
            total = progress + self.residual
        payload = encode(self.wire, total)
        self.residual = total - decode(self.wire, payload)
        return payload


def outcome(work: Any) -> Any:
    """Return the bytes of what `work` returns, or what it refuses with."""
    try:
        return work().tobytes()
    except ValueError as error:
        return str(error)
