"""Runs of channels: copied, scaled, added, between places that lie any number of elements apart."""

from typing import Any

from numba import types
from numba.extending import intrinsic

from bptcnn.kernels.compilation import linked
from bptcnn.kernels.unit import UNIT
from bptcnn.kernels.vectors import VectorEmitter, word


@intrinsic
def _emit_runs(typing, source, source_step, target, target_step, runs, length, scale, continued):
    def generate(context, builder, signature, args):
        source, source_step, target, target_step, runs, length, scale, continued = args
        emit = VectorEmitter(builder, UNIT)
        factor = emit.splat(scale)
        adds = builder.icmp_signed("!=", continued, word(0))
        before = builder.select(adds, target, source)  # what is not needed is not fetched
        before_step = builder.select(adds, target_step, source_step)

        def run(index: Any, channel: Any, mask: Any) -> None:
            given, there, result = (
                emit.pointer(emit.offset(base, builder.add(builder.mul(index, step), channel)))
                for base, step in ((source, source_step), (before, before_step), (target, target_step))
            )
            value = builder.fmul(emit.load(given), factor)
            sums = builder.select(emit.splat(adds), builder.fadd(value, emit.load(there)), value)
            emit.store_masked(sums, result, mask)

        emit.for_pixels(runs, length, run)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 6, types.float32, types.int64), generate


@linked("void(" + "int64, " * 6 + "float32, int64)")
def add_runs(source, source_step, target, target_step, runs, length, scale, continued):
    """Write `runs` runs of `length` elements times `scale`, or add them where `continued` is 1.

    Addresses; run i begins i * step elements behind the first, on either side; a step may be 0.
    """
    _emit_runs(source, source_step, target, target_step, runs, length, scale, continued)


@intrinsic
def _emit_zeros(typing, target, count):
    def generate(context, builder, signature, args):
        emit = VectorEmitter(builder, UNIT)

        def store(index: Any, element: Any, mask: Any) -> None:
            emit.store_masked(emit.zero, emit.pointer(emit.offset(args[0], element)), mask)

        emit.for_pixels(word(1), args[1], store)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 2), generate


@linked("void(int64, int64)")
def clear(target, count):
    """Write `count` zeros."""
    _emit_zeros(target, count)
