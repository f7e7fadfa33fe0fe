"""Emitting LLVM vector code for this CPU's unit: loads, masked stores, splats, multiply-adds, loops over pixels."""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils

from bptcnn.kernels.unit import VectorUnit

I64 = ir.IntType(64)
I32 = ir.IntType(32)
I8 = ir.IntType(8)
F32 = ir.FloatType()
FIRST_LEVEL, SECOND_LEVEL = 3, 2  # caches to fetch into, as LLVM counts locality


def word(value: int) -> Any:
    """Return a 64-bit constant."""
    return ir.Constant(I64, value)


class VectorEmitter:
    """Emits operations on vectors of `unit.lanes` float32 or int32 numbers at the builder's position."""

    def __init__(self, builder: Any, unit: VectorUnit) -> None:
        self.builder = builder
        self.unit = unit
        self.lanes = unit.lanes
        self.vector = ir.VectorType(F32, unit.lanes)
        self.integers = ir.VectorType(I32, unit.lanes)
        self.zero = ir.Constant(self.vector, [0.0] * unit.lanes)

    def pointer(self, address: Any) -> Any:
        """Return the float pointer of an address (int64)."""
        return self.builder.inttoptr(address, F32.as_pointer())

    def offset(self, address: Any, elements: Any, size: int = 4) -> Any:
        """Return address + elements * size."""
        return self.builder.add(address, self.builder.mul(elements, word(size)))

    def load(self, pointer: Any) -> Any:
        """Load a whole vector from a float pointer, aligned to 4 bytes only."""
        value = self.builder.load(self.builder.bitcast(pointer, self.vector.as_pointer()))
        value.align = 4
        return value

    def load_octets(self, address: Any) -> Any:
        """Load one uint8 per lane, widened to int32."""
        octets = ir.VectorType(I8, self.lanes)
        value = self.builder.load(self.builder.inttoptr(address, octets.as_pointer()))
        value.align = 1
        return self.builder.zext(value, self.integers)

    def store(self, value: Any, pointer: Any) -> None:
        """Store a whole vector."""
        self.builder.store(value, self.builder.bitcast(pointer, self.vector.as_pointer())).align = 4

    def store_masked(self, value: Any, pointer: Any, mask: Any) -> None:
        """Store the lanes where `mask` is set, of float32 or uint8."""
        element = {F32: ("f32", 4), I8: ("i8", 1)}[value.type.element]
        signature = ir.FunctionType(ir.VoidType(), [value.type, value.type.as_pointer(), I32, mask.type])
        name = f"llvm.masked.store.v{self.lanes}{element[0]}.p0"
        function = cgutils.get_or_insert_function(self.builder.module, signature, name)
        target = self.builder.bitcast(pointer, value.type.as_pointer())
        self.builder.call(function, [value, target, ir.Constant(I32, element[1]), mask])

    def prefetch(self, pointer: Any, level: int, writing: bool = False) -> None:
        """Fetch the cache line of a pointer into a cache, to be written to if `writing`."""
        signature = ir.FunctionType(ir.VoidType(), [I8.as_pointer(), I32, I32, I32])
        function = cgutils.get_or_insert_function(self.builder.module, signature, "llvm.prefetch.p0")
        access, locality, data = (ir.Constant(I32, n) for n in (int(writing), level, 1))
        self.builder.call(function, [self.builder.bitcast(pointer, I8.as_pointer()), access, locality, data])

    def splat(self, scalar: Any) -> Any:
        """Return a vector of one float or int32 in all lanes."""
        kind = ir.VectorType(scalar.type, self.lanes)
        undefined = ir.Constant(kind, ir.Undefined)
        single = self.builder.insert_element(undefined, scalar, ir.Constant(I32, 0))
        return self.builder.shuffle_vector(single, undefined, ir.Constant(self.integers, [0] * self.lanes))

    def first_lanes(self, count: Any) -> Any:
        """Return the mask of the first `count` (int64) lanes."""
        indices = ir.Constant(self.integers, list(range(self.lanes)))
        return self.builder.icmp_signed("<", indices, self.splat(self.builder.trunc(count, I32)))

    def multiply_add(self, a: Any, b: Any, c: Any) -> Any:
        """Return a * b + c."""
        if not self.unit.fused:
            return self.builder.fadd(self.builder.fmul(a, b), c)
        signature = ir.FunctionType(self.vector, [self.vector] * 3)
        name = f"llvm.fma.v{self.lanes}f32"
        return self.builder.call(cgutils.get_or_insert_function(self.builder.module, signature, name), [a, b, c])

    def for_pixels(self, columns: Any, channels: Any, body: Callable[[Any, Any, Any], None]) -> None:
        """Loop over pixels and their channels, a vector at a time: body(pixel, channel, mask of the lanes in use)."""
        with (
            cgutils.for_range(self.builder, columns) as pixels,
            cgutils.for_range_slice(self.builder, word(0), channels, word(self.lanes), inc=True) as (channel, _),
        ):
            body(pixels.index, channel, self.first_lanes(self.builder.sub(channels, channel)))
