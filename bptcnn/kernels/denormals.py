"""Denormal numbers, flushed to zero while a thread runs kernels.

Arithmetic on numbers below 1.2e-38 takes a hundred cycles and more. They are no rarity: where a weight's gradient stays
zero, momentum takes its velocity down to the smallest denormal number, where rounding holds it for ever. NaN and
infinity stay what they are.
"""

import platform

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from bptcnn.kernels.vectors import I8, I32, I64, word

_X86_FLUSH = 0x8040  # MXCSR: results to zero, operands to zero
_ARM_FLUSH = 1 << 24  # FPCR: both
_ON_X86 = platform.machine() == "x86_64"


def _control(builder, name, arguments, result=None):
    function = ir.FunctionType(result or ir.VoidType(), [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, function, name), arguments)


def _read(builder):
    """The thread's floating-point control word, as int64."""
    if not _ON_X86:
        return _control(builder, "llvm.aarch64.get.fpcr", [], I64)
    place = cgutils.alloca_once(builder, I32)
    _control(builder, "llvm.x86.sse.stmxcsr", [builder.bitcast(place, I8.as_pointer())])
    return builder.zext(builder.load(place), I64)


def _write(builder, value):
    if not _ON_X86:
        _control(builder, "llvm.aarch64.set.fpcr", [value])
        return
    place = cgutils.alloca_once(builder, I32)
    builder.store(builder.trunc(value, I32), place)
    _control(builder, "llvm.x86.sse.ldmxcsr", [builder.bitcast(place, I8.as_pointer())])


@intrinsic
def flush_denormals(typing):
    """Have this thread flush denormal numbers to zero; return what `restore_denormals` takes."""

    def generate(context, builder, signature, args):
        before = _read(builder)
        _write(builder, builder.or_(before, word(_X86_FLUSH if _ON_X86 else _ARM_FLUSH)))
        return before

    return types.int64(), generate


@intrinsic
def restore_denormals(typing, before):
    """Have this thread treat denormal numbers as it did before."""

    def generate(context, builder, signature, args):
        _write(builder, args[0])
        return context.get_dummy_value()

    return types.void(types.int64), generate
