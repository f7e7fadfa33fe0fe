"""The standard normal distribution in vectors: its integral Phi(x) = (1 + erf(x / sqrt 2)) / 2 and its density phi(x).

    |x| < 1    Phi = 1/2 + x * P(x^2)
    beyond     Phi(-|x|) = exp(-x^2 / 2) * T(1 / (1 + 0.4 |x|)), and Phi(x) = 1 - Phi(-x)

P and T are minimax fits (least squares, reweighted until the largest relative errors are alike: 7e-10 and 7e-8); in
float32 all of Phi is within 1e-7, its negative tail within some 1e-6 of its own size. 2^f is a fit of the same kind.
"""

from typing import Any

from llvmlite import ir

from bptcnn.kernels.vectors import I32, VectorEmitter

_MIDDLE = (
    0.39894229173660,
    -0.06649035960437,
    0.00997332297266,
    -0.00118632998783,
    0.00011348637054,
    -7.6542082752e-06,
)
_TAIL = (
    1.4911244e-06, 0.15956538915634, 0.15935318171978, 0.13788282871246, 0.05838614329696, 0.10119101405144,
    -0.18314972519875, 0.06705290079117,
)  # fmt: skip
_TAIL_SLOPE = 0.4
_POWER_OF_2 = (
    1.0, 0.69314718246460, 0.24022646248341, 0.05550328642130, 0.00961848907173, 0.00133999309037, 0.00015345812426,
)  # fmt: skip
_HALF_LOG2_E = 0.72134752044448
_DENSITY_AT_0 = 0.39894228040143
_LARGEST_POWER = 126.0  # 2^-126 is the smallest normal number; exp(-x^2 / 2) counts as 0 from there on


def _polynomial(emit: VectorEmitter, coefficients: tuple[float, ...], x: Any) -> Any:
    total = constant(emit, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        total = emit.multiply_add(total, x, constant(emit, coefficient))
    return total


def constant(emit: VectorEmitter, value: float) -> Any:
    """Return a vector of one number."""
    return ir.Constant(emit.vector, [value] * emit.lanes)


def _exponential(emit: VectorEmitter, square: Any) -> Any:
    """Emit exp(-square / 2); 0 for NaN."""
    builder, limit = emit.builder, constant(emit, _LARGEST_POWER)
    power = builder.fmul(square, constant(emit, _HALF_LOG2_E))
    normal = builder.fcmp_ordered("<", power, limit)
    power = builder.select(normal, power, limit)
    whole = builder.fptosi(builder.fadd(power, constant(emit, 0.5)), emit.integers)
    fraction = builder.fsub(builder.sitofp(whole, emit.vector), power)
    exponent = builder.sub(emit.splat(ir.Constant(I32, 127)), whole)  # the bits of 2^-whole
    scale = builder.bitcast(builder.shl(exponent, emit.splat(ir.Constant(I32, 23))), emit.vector)
    return builder.select(normal, builder.fmul(_polynomial(emit, _POWER_OF_2, fraction), scale), emit.zero)


def integral_and_density(emit: VectorEmitter, x: Any) -> tuple[Any, Any]:
    """Emit (Phi(x), phi(x)) of a vector. NaN gives Phi = NaN."""
    builder, one = emit.builder, constant(emit, 1.0)
    square = builder.fmul(x, x)
    negative = builder.fcmp_ordered("<", x, emit.zero)
    size = builder.select(negative, builder.fsub(emit.zero, x), x)
    exponential = _exponential(emit, square)
    t = builder.fdiv(one, emit.multiply_add(size, constant(emit, _TAIL_SLOPE), one))
    tail = builder.fmul(exponential, _polynomial(emit, _TAIL, t))
    far = builder.select(negative, tail, builder.fsub(one, tail))
    near = emit.multiply_add(x, _polynomial(emit, _MIDDLE, square), constant(emit, 0.5))
    integral = builder.select(builder.fcmp_ordered("<", size, one), near, far)
    return integral, builder.fmul(exponential, constant(emit, _DENSITY_AT_0))
