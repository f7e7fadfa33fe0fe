"""Views of raw addresses in compiled code: arrays, records and calls by address."""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, float32, float64, from_dtype, int32, int64, njit, types, uint8
from numba.extending import intrinsic

from bptcnn.kernels.unit import UNIT
from bptcnn.kernels.vectors import SECOND_LEVEL, VectorEmitter

_I64 = ir.IntType(64)


def _caster(element: Any, name: str) -> Any:
    def typed(typing, address):
        pointer = types.CPointer(element)

        def generate(context, builder, signature, args):
            return builder.inttoptr(args[0], context.get_value_type(pointer))

        return pointer(types.int64), generate

    typed.__name__ = name
    return intrinsic(typed)


_as_float32 = _caster(float32, "as_float32")
_as_float64 = _caster(float64, "as_float64")
_as_int64 = _caster(int64, "as_int64")
_as_int32 = _caster(int32, "as_int32")
_as_uint8 = _caster(uint8, "as_uint8")


@njit(inline="always")
def floats(address, count):
    """View `count` float32 numbers at `address`."""
    return carray(_as_float32(address), (count,))


@njit(inline="always")
def doubles(address, count):
    """View `count` float64 numbers at `address`."""
    return carray(_as_float64(address), (count,))


@njit(inline="always")
def words(address, count):
    """View `count` int64 numbers at `address`."""
    return carray(_as_int64(address), (count,))


@njit(inline="always")
def integers(address, count):
    """View `count` int32 numbers at `address`."""
    return carray(_as_int32(address), (count,))


@njit(inline="always")
def octets(address, count):
    """View `count` uint8 numbers at `address`."""
    return carray(_as_uint8(address), (count,))


def record_at(dtype: np.dtype[Any]) -> Any:
    """Return a compiled function that views the record of type `dtype` at an address."""
    cast = _caster(from_dtype(dtype), "as_record")

    @njit(inline="always")
    def record(address):
        return carray(cast(address), (1,))[0]

    return record


@intrinsic
def prefetch(typing, address):
    """Fetch the cache line at `address`, whatever it is, into the second-level cache."""

    def generate(context, builder, signature, args):
        emit = VectorEmitter(builder, UNIT)
        emit.prefetch(emit.pointer(args[0]), SECOND_LEVEL)
        return context.get_dummy_value()

    return types.void(types.int64), generate


@intrinsic
def call_kernel(typing, kernel, operation, first, last, part, worker):
    """Call the task kernel at the address `kernel` and return its status."""

    def generate(context, builder, signature, args):
        function = ir.FunctionType(_I64, [_I64] * 5)
        return builder.call(builder.inttoptr(args[0], function.as_pointer()), args[1:])

    return types.int64(*[types.int64] * 6), generate
