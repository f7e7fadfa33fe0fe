"""Weight vectors on their way between machines: differences, rounding to 16 bits and back, each in one pass.

    values ──subtract──> progress ──to_bfloat16_fed──> halves ──accumulate_bfloat16──> held

Vectors are contiguous float32 (n,), halves uint16 (n,); ValueError where their lengths differ. Rounding is to nearest,
ties to even. What a kernel returns is the largest magnitude that it has seen, infinity or NaN where a value is not
finite: the caller refuses then. The `accumulate` kernels leave the vector as it is in that case; of what the others
write nothing holds.

float16 has a scale, a power of two that halves are multiplied by: the caller brings the largest magnitude below 2**15.
"""

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import float32, njit, types, uint32
from numba.extending import intrinsic

from bptcnn.kernels.compilation import compiled

Floats = npt.NDArray[np.float32]
Halves = npt.NDArray[np.uint16]

_I32 = np.uint32
_MAGNITUDE = np.uint32(0x7FFFFFFF)
_INFINITY = np.uint32(0x7F800000)
_LAST_KEPT = np.uint32(1)
_BELOW_HALF = np.uint32(0x7FFF)  # of what bfloat16 cuts off
_UPPER = np.uint32(16)

_HALF_MAGNITUDE = np.uint32(0x7FFF)
_HALF_SIGN = np.uint32(0x8000)
_HALF_INFINITY = np.uint32(0x7C00)
_HALF_NORMAL = np.uint32(0x0400)  # the smallest normal float16
_HALF_CUT = np.uint32(13)  # mantissa bits that float16 lacks
_HALF_BELOW_HALF = np.uint32(0x0FFF)  # of what float16 cuts off
_REBIAS = np.uint32((127 - 15) << 23)  # between the exponents of float32 and float16
_NORMAL = np.float32(2.0**-14)  # the smallest normal float16
_STEP = np.float32(2.0**-24)  # between float16's subnormals: that of float32 between 0.5 and 1, where adding rounds
_ONE_HALF = np.float32(0.5)
_ONE_HALF_BITS = np.uint32(0x3F000000)


@intrinsic
def _bits(typing, value):
    """The bits of a float32."""

    def generate(context, builder, signature, args):
        return builder.bitcast(args[0], ir.IntType(32))

    return uint32(types.float32), generate


@intrinsic
def _number(typing, bits):
    """The float32 of these bits."""

    def generate(context, builder, signature, args):
        return builder.bitcast(args[0], ir.FloatType())

    return float32(types.uint32), generate


@njit
def _rounded(bits):
    """The upper half of a float32's bits, rounded: NaN and infinity may become anything."""
    odd = _I32(_I32(bits >> _UPPER) & _LAST_KEPT)  # a tie goes up where the last bit kept is odd
    return _I32(_I32(bits + _BELOW_HALF + odd) >> _UPPER)


@njit
def _half(value):
    """A finite float32 below 65520 as float16."""
    bits = _bits(value)
    magnitude = _I32(bits & _MAGNITUDE)
    odd = _I32(_I32(magnitude >> _HALF_CUT) & _LAST_KEPT)
    normal = _I32(_I32(magnitude + _HALF_BELOW_HALF + odd - _REBIAS) >> _HALF_CUT)
    subnormal = _I32(_bits(_number(magnitude) + _ONE_HALF) - _ONE_HALF_BITS)
    rounded = normal if _number(magnitude) >= _NORMAL else subnormal
    return _I32(rounded | _I32(_I32(bits >> _UPPER) & _HALF_SIGN))


@njit
def _widened(half):
    """A float16 as float32."""
    magnitude = _I32(half & _HALF_MAGNITUDE)
    special = _I32(_INFINITY | _I32(magnitude << _HALF_CUT))
    normal = _I32(_I32(magnitude << _HALF_CUT) + _REBIAS)
    subnormal = _bits(np.float32(np.int32(magnitude)) * _STEP)
    bits = normal if magnitude >= _HALF_NORMAL else subnormal
    bits = special if magnitude >= _HALF_INFINITY else bits
    return _number(_I32(bits | _I32(_I32(half & _HALF_SIGN) << _UPPER)))


@njit
def _require_equal(length, other):
    if length != other:
        raise ValueError("vectors of different lengths")


# ---- float32 ---------------------------------------------------------------------------------------------------------


@compiled("float32(float32[::1], float32[::1], float32[::1])", exact=True)
def subtract(values: Floats, origin: Floats, out: Floats) -> float:
    """out = values - origin."""
    _require_equal(values.size, out.size)
    _require_equal(origin.size, out.size)
    largest = _I32(0)
    for i in range(out.size):
        difference = values[i] - origin[i]
        out[i] = difference
        largest = max(largest, _I32(_bits(difference) & _MAGNITUDE))
    return _number(largest)


@compiled("float32(float32[::1], float32[::1], float32[::1])", exact=True)
def add(values: Floats, others: Floats, out: Floats) -> float:
    """out = values + others."""
    _require_equal(values.size, out.size)
    _require_equal(others.size, out.size)
    largest = _I32(0)
    for i in range(out.size):
        total = values[i] + others[i]
        out[i] = total
        largest = max(largest, _I32(_bits(total) & _MAGNITUDE))
    return _number(largest)


@compiled("float32(float32[::1], float32[::1])", exact=True)
def copy(values: Floats, out: Floats) -> float:
    """out = values."""
    _require_equal(values.size, out.size)
    largest = _I32(0)
    for i in range(out.size):
        value = values[i]
        out[i] = value
        largest = max(largest, _I32(_bits(value) & _MAGNITUDE))
    return _number(largest)


@compiled("float32(float32[::1], float32[::1])", exact=True)
def accumulate(values: Floats, onto: Floats) -> float:
    """onto += values, where all values are finite."""
    _require_equal(values.size, onto.size)
    largest = _I32(0)
    for i in range(onto.size):
        largest = max(largest, _I32(_bits(values[i]) & _MAGNITUDE))
    if largest < _INFINITY:
        for i in range(onto.size):
            onto[i] += values[i]
    return _number(largest)


@compiled("void(float32[::1], float32[::1], float32[::1])", exact=True)
def carry_over(held: Floats, landing: Floats, weights: Floats) -> None:
    """landing = held - landing; weights += landing: what has come since, added to what goes on."""
    _require_equal(held.size, weights.size)
    _require_equal(landing.size, weights.size)
    for i in range(weights.size):
        shift = held[i] - landing[i]
        landing[i] = shift
        weights[i] += shift


# ---- bfloat16 --------------------------------------------------------------------------------------------------------


@compiled("float32(float32[::1], uint16[::1])", exact=True)
def to_bfloat16(values: Floats, halves: Halves) -> float:
    """halves = values, rounded."""
    _require_equal(values.size, halves.size)
    largest = _I32(0)
    for i in range(halves.size):
        bits = _bits(values[i])
        halves[i] = np.uint16(_rounded(bits))
        largest = max(largest, _I32(bits & _MAGNITUDE))
    return _number(largest)


@compiled("float32(float32[::1], float32[::1], uint16[::1], float32[::1])", exact=True)
def to_bfloat16_fed(values: Floats, residual: Floats, halves: Halves, rest: Floats) -> float:
    """halves = values + residual, rounded; rest is what rounding has lost. The largest magnitude is the sum's."""
    _require_equal(values.size, halves.size)
    _require_equal(residual.size, halves.size)
    _require_equal(rest.size, halves.size)
    largest = _I32(0)
    for i in range(halves.size):
        total = values[i] + residual[i]
        bits = _bits(total)
        half = _rounded(bits)
        halves[i] = np.uint16(half)
        rest[i] = total - _number(_I32(half << _UPPER))
        largest = max(largest, _I32(bits & _MAGNITUDE))
    return _number(largest)


@compiled("float32(uint16[::1], float32[::1])", exact=True)
def from_bfloat16(halves: Halves, out: Floats) -> float:
    """out = halves."""
    _require_equal(halves.size, out.size)
    largest = _I32(0)
    for i in range(out.size):
        bits = _I32(_I32(halves[i]) << _UPPER)
        out[i] = _number(bits)
        largest = max(largest, _I32(bits & _MAGNITUDE))
    return _number(largest)


@compiled("float32(uint16[::1], float32[::1])", exact=True)
def accumulate_bfloat16(halves: Halves, onto: Floats) -> float:
    """onto += halves, where all of them are finite."""
    _require_equal(halves.size, onto.size)
    seen = np.uint16(0)
    for i in range(onto.size):
        seen = max(seen, np.uint16(halves[i] & np.uint16(0x7FFF)))
    largest = _I32(_I32(seen) << _UPPER)
    if largest < _INFINITY:
        for i in range(onto.size):
            onto[i] += _number(_I32(_I32(halves[i]) << _UPPER))
    return _number(largest)


# ---- float16 ---------------------------------------------------------------------------------------------------------


@compiled("void(float32[::1], float32, float32, uint16[::1])", exact=True)
def to_float16(values: Floats, scale: float, inverse: float, halves: Halves) -> None:
    """halves = values * inverse, rounded; values become what that has lost of them.

    `scale` * `inverse` is 1; values are finite, and below 2**15 * scale.
    """
    _require_equal(values.size, halves.size)
    for i in range(halves.size):
        half = _half(values[i] * inverse)
        halves[i] = np.uint16(half)
        values[i] -= _widened(half) * scale


@compiled("float32(uint16[::1], float32, float32[::1])", exact=True)
def from_float16(halves: Halves, scale: float, out: Floats) -> float:
    """out = halves * scale."""
    _require_equal(halves.size, out.size)
    largest = _I32(0)
    for i in range(out.size):
        value = _widened(_I32(halves[i])) * scale
        out[i] = value
        largest = max(largest, _I32(_bits(value) & _MAGNITUDE))
    return _number(largest)


@compiled("float32(uint16[::1], float32, float32[::1])", exact=True)
def accumulate_float16(halves: Halves, scale: float, onto: Floats) -> float:
    """onto += halves * scale, where all of that is finite."""
    _require_equal(halves.size, onto.size)
    seen = np.uint16(0)
    for i in range(onto.size):
        seen = max(seen, np.uint16(halves[i] & np.uint16(0x7FFF)))
    largest = _widened(_I32(seen)) * scale
    if _I32(_bits(largest) & _MAGNITUDE) < _INFINITY:
        for i in range(onto.size):
            onto[i] += _widened(_I32(halves[i])) * scale
    return largest
