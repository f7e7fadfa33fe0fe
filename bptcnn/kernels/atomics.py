"""CPU atomics, fences, futexes and a clock for compiled code: what LLVM has and numba does not show.

All operate on 64-bit words at an address (an int64), naturally aligned. Read-modify-writes are sequentially consistent,
loads acquire, stores release. On ARM a load may still pass an earlier read-modify-write: who writes one word and then
looks at another, to sleep or to wake, puts `fence_full` between. An acquire load does not keep *earlier* reads above
it: seqlock-style readers copy, then `fence_acquire`, then look again.
"""

import platform
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_I64 = ir.IntType(64)
_I32 = ir.IntType(32)
_FUTEX_NUMBER = {"x86_64": 202, "aarch64": 98}[platform.machine()]
_FUTEX_WAIT = 0  # not FUTEX_PRIVATE: words may lie in memory shared with other processes
_FUTEX_WAKE = 1
_CLOCK_MONOTONIC = 1


def _pointer(builder: Any, address: Any) -> Any:
    return builder.inttoptr(address, _I64.as_pointer())


@intrinsic
def load_acquire(typing, address):
    """Return the word at `address`; later reads and writes stay behind it."""

    def generate(context, builder, signature, args):
        return builder.load_atomic(_pointer(builder, args[0]), "acquire", 8)

    return types.int64(types.int64), generate


@intrinsic
def store_release(typing, address, value):
    """Store `value` at `address`; earlier reads and writes stay before it."""

    def generate(context, builder, signature, args):
        builder.store_atomic(args[1], _pointer(builder, args[0]), "release", 8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


def _read_modify_write(operation: str) -> Any:
    def typed(typing, address, value):
        def generate(context, builder, signature, args):
            return builder.atomic_rmw(operation, _pointer(builder, args[0]), args[1], "seq_cst")

        return types.int64(types.int64, types.int64), generate

    typed.__name__ = f"fetch_{operation}"
    return intrinsic(typed)


fetch_add = _read_modify_write("add")
fetch_or = _read_modify_write("or")
fetch_and = _read_modify_write("and")


@intrinsic
def compare_and_swap(typing, address, expected, desired):
    """Store `desired` if the word equals `expected`; return 1 if so, else 0."""

    def generate(context, builder, signature, args):
        pair = builder.cmpxchg(_pointer(builder, args[0]), args[1], args[2], "seq_cst", "monotonic")
        return builder.zext(builder.extract_value(pair, 1), _I64)

    return types.int64(types.int64, types.int64, types.int64), generate


@intrinsic
def fence_acquire(typing):
    """Keep earlier reads before later reads and writes."""

    def generate(context, builder, signature, args):
        builder.fence("acquire")
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def fence_release(typing):
    """Keep earlier reads and writes before later writes."""

    def generate(context, builder, signature, args):
        builder.fence("release")
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def fence_full(typing):
    """Keep all earlier reads and writes before all later ones."""

    def generate(context, builder, signature, args):
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def first_set_bit(typing, word):
    """Return the index of the lowest set bit of a word that is not 0."""

    def generate(context, builder, signature, args):
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.int64), generate


@intrinsic
def spin_pause(typing):
    """Tell the core that this is a spin-wait loop."""

    def generate(context, builder, signature, args):
        if platform.machine() == "x86_64":
            pause = ir.FunctionType(ir.VoidType(), [])
            builder.call(cgutils.get_or_insert_function(builder.module, pause, "llvm.x86.sse2.pause"), [])
        else:
            hint = ir.FunctionType(ir.VoidType(), [_I32])
            function = cgutils.get_or_insert_function(builder.module, hint, "llvm.aarch64.hint")
            builder.call(function, [ir.Constant(_I32, 1)])  # YIELD
        return context.get_dummy_value()

    return types.void(), generate


def _syscall(builder: Any, values: list[Any]) -> Any:
    """Call libc's `syscall`, found by name: an address from ctypes would not survive the compile cache."""
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(_I64, [_I64], var_arg=True), "syscall")
    return builder.call(function, values)


@intrinsic
def futex_wait(typing, address, expected, nanoseconds):
    """Sleep until woken if the lower 32 bits at `address` equal `expected`'s, for at most `nanoseconds`.

    May return early for no reason: callers look at their condition again.
    """

    def generate(context, builder, signature, args):
        timespec = cgutils.alloca_once(builder, ir.ArrayType(_I64, 2))
        billion = ir.Constant(_I64, 1_000_000_000)
        zero = ir.Constant(_I32, 0)
        builder.store(builder.sdiv(args[2], billion), builder.gep(timespec, [zero, zero]))
        builder.store(builder.srem(args[2], billion), builder.gep(timespec, [zero, ir.Constant(_I32, 1)]))
        words = [ir.Constant(_I64, _FUTEX_NUMBER), args[0], ir.Constant(_I64, _FUTEX_WAIT), args[1]]
        _syscall(builder, [*words, builder.ptrtoint(timespec, _I64)])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate


@intrinsic
def futex_wake(typing, address, count):
    """Wake at most `count` threads that sleep on the word at `address`."""

    def generate(context, builder, signature, args):
        _syscall(builder, [ir.Constant(_I64, _FUTEX_NUMBER), args[0], ir.Constant(_I64, _FUTEX_WAKE), args[1]])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@intrinsic
def monotonic_ns(typing):
    """Return CLOCK_MONOTONIC in nanoseconds, as `time.monotonic_ns` does."""

    def generate(context, builder, signature, args):
        timespec = cgutils.alloca_once(builder, ir.ArrayType(_I64, 2))
        function = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(_I32, [_I32, timespec.type]), "clock_gettime"
        )
        builder.call(function, [ir.Constant(_I32, _CLOCK_MONOTONIC), timespec])
        zero = ir.Constant(_I32, 0)
        seconds = builder.load(builder.gep(timespec, [zero, zero]))
        nanoseconds = builder.load(builder.gep(timespec, [zero, ir.Constant(_I32, 1)]))
        return builder.add(builder.mul(seconds, ir.Constant(_I64, 1_000_000_000)), nanoseconds)

    return types.int64(), generate
