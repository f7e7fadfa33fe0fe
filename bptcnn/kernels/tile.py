"""The register tile: one micro-kernel that every convolution and dense layer runs on.

    C[m, n] = floor_at(init[m, n] + sum_r sum_k A[offsets[m] + k * sak + r * sar] * B[k * ldb + r * sbr + n], floor)

for m < rows and n < vectors * lanes, all sums held in registers. The outer loop over r walks the rows of a filter
window (or of an image), so that direct convolution needs no im2col. `init` continues earlier sums, or holds a bias
(its row stride is then 0); address 0 means zeros. `floor` is 0 for a rectifier and minus infinity for none; NaN passes.
The last vector stores `tail` lanes only; loads are whole vectors, so buffers end with `SLACK` spare bytes.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from bptcnn.kernels.compilation import compiled, linked
from bptcnn.kernels.unit import UNIT, VectorUnit
from bptcnn.kernels.vectors import F32, I8, I32, I64, VectorEmitter, word

SLACK = 256
"""Bytes that must be readable behind every buffer that a tile loads from."""

TILE_SIGNATURE = "void(" + "int64, " * 15 + "float32, int64)"


class _TileEmitter(VectorEmitter):
    """Emits the code of one tile of `rows` x `vectors` at the builder's position."""

    def __init__(self, builder: Any, unit: VectorUnit, rows: int, vectors: int) -> None:
        super().__init__(builder, unit)
        self.rows = rows
        self.vectors = vectors

    def advance(self, pointer: Any, elements: Any) -> Any:
        return self.builder.gep(pointer, [elements])

    def phis(self, block: Any, values: list[Any]) -> list[Any]:
        found = []
        for value in values:
            phi = self.builder.phi(self.vector)
            phi.add_incoming(value, block)
            found.append(phi)
        return found

    def row_offsets(self, address: Any) -> list[Any]:
        table = self.builder.inttoptr(address, I64.as_pointer())
        return [self.builder.load(self.builder.gep(table, [word(m)])) for m in range(self.rows)]

    def initial(self, init: Any, ldi: Any) -> list[Any]:
        """Load the sums to continue, or zeros where `init` is address 0."""
        builder = self.builder
        start = builder.block
        loading, ready = builder.append_basic_block("load_init"), builder.append_basic_block("ready")
        builder.cbranch(builder.icmp_signed("!=", init, word(0)), loading, ready)
        builder.position_at_end(loading)
        base = self.pointer(init)
        loaded = []
        for m in range(self.rows):
            row = self.advance(base, builder.mul(ldi, word(m)))
            loaded += [self.load(self.advance(row, word(v * self.lanes))) for v in range(self.vectors)]
        builder.branch(ready)
        builder.position_at_end(ready)
        sums = self.phis(start, [self.zero] * len(loaded))
        for phi, value in zip(sums, loaded, strict=True):
            phi.add_incoming(value, loading)
        return sums

    def prefetch(self, pointer: Any) -> None:
        """Fetch a cache line into the second-level cache."""
        signature = ir.FunctionType(ir.VoidType(), [I8.as_pointer(), I32, I32, I32])
        function = cgutils.get_or_insert_function(self.builder.module, signature, "llvm.prefetch.p0")
        reading, second_level, data = (ir.Constant(I32, n) for n in (0, 2, 1))
        self.builder.call(function, [self.builder.bitcast(pointer, I8.as_pointer()), reading, second_level, data])

    def emit(self, args: Any, ahead: Any = None, ahead_step: Any = None) -> None:
        """Emit the tile; each step of the depth fetches a cache line from address `ahead` on, if any."""
        a, offsets, sak, sar, b, ldb, sbr, init, ldi, c, ldc, depth, repeats, floor, tail = args
        builder = self.builder
        one = word(1)
        row_offsets = self.row_offsets(offsets)
        a_start, b_start = self.pointer(a), self.pointer(b)
        sums = self.initial(init, ldi)
        before = builder.block
        outer, inner, outer_end, done = (builder.append_basic_block(n) for n in ("outer", "inner", "outer_end", "done"))
        builder.branch(outer)

        builder.position_at_end(outer)
        r, a_row, b_row = builder.phi(I64), builder.phi(F32.as_pointer()), builder.phi(F32.as_pointer())
        for phi, value in ((r, word(0)), (a_row, a_start), (b_row, b_start)):
            phi.add_incoming(value, before)
        outer_sums = self.phis(before, sums)
        builder.branch(inner)

        builder.position_at_end(inner)
        k, a_k, b_k = builder.phi(I64), builder.phi(F32.as_pointer()), builder.phi(F32.as_pointer())
        for phi, value in ((k, word(0)), (a_k, a_row), (b_k, b_row)):
            phi.add_incoming(value, outer)
        inner_sums = self.phis(outer, outer_sums)
        b_vectors = [self.load(self.advance(b_k, word(v * self.lanes))) for v in range(self.vectors)]
        if ahead is not None:
            self.prefetch(self.advance(self.pointer(ahead), builder.mul(k, ahead_step)))
        updated = []
        for m in range(self.rows):
            a_value = self.splat(builder.load(self.advance(a_k, row_offsets[m])))
            updated += [
                self.multiply_add(a_value, b_vectors[v], inner_sums[m * self.vectors + v]) for v in range(self.vectors)
            ]
        k_next = builder.add(k, one)
        for phi, value in ((k, k_next), (a_k, self.advance(a_k, sak)), (b_k, self.advance(b_k, ldb))):
            phi.add_incoming(value, inner)
        for phi, value in zip(inner_sums, updated, strict=True):
            phi.add_incoming(value, inner)
        builder.cbranch(builder.icmp_signed("<", k_next, depth), inner, outer_end)

        builder.position_at_end(outer_end)
        r_next = builder.add(r, one)
        for phi, value in ((r, r_next), (a_row, self.advance(a_row, sar)), (b_row, self.advance(b_row, sbr))):
            phi.add_incoming(value, outer_end)
        for phi, value in zip(outer_sums, updated, strict=True):
            phi.add_incoming(value, outer_end)
        builder.cbranch(builder.icmp_signed("<", r_next, repeats), outer, done)

        builder.position_at_end(done)
        self.finish(updated, self.pointer(c), ldc, floor, tail)

    def finish(self, sums: list[Any], c: Any, ldc: Any, floor: Any, tail: Any) -> None:
        floors = self.splat(floor)
        mask = self.first_lanes(tail)
        for m in range(self.rows):
            row = self.advance(c, self.builder.mul(ldc, word(m)))
            for v in range(self.vectors):
                value = sums[m * self.vectors + v]
                value = self.builder.select(self.builder.fcmp_ordered("<", value, floors), floors, value)
                target = self.advance(row, word(v * self.lanes))
                if v + 1 < self.vectors:
                    self.store(value, target)
                else:
                    self.store_masked(value, target, mask)


def _emit_switch(context: Any, builder: Any, args: Any) -> Any:
    """Emit every tile of this CPU's unit behind one switch over (vectors, rows), the first two of the arguments."""
    end = builder.append_basic_block("tile_end")
    index = builder.add(builder.mul(args[1], word(UNIT.rows + 1)), args[0])
    switch = builder.switch(index, end)
    for v in range(1, UNIT.vectors + 1):
        for m in range(1, UNIT.rows + 1):
            block = builder.append_basic_block(f"tile_{m}x{v}")
            switch.add_case(word(v * (UNIT.rows + 1) + m), block)
            builder.position_at_end(block)
            _TileEmitter(builder, UNIT, m, v).emit(args[2:17], *args[17:])
            builder.branch(end)
    builder.position_at_end(end)
    return context.get_dummy_value()


@intrinsic
def _emit_tiles(
    typing, rows, vectors, a, offsets, sak, sar, b, ldb, sbr, init, ldi, c, ldc, depth, repeats, floor, tail
):
    def generate(context, builder, signature, args):
        return _emit_switch(context, builder, args)

    return types.void(*[types.int64] * 15, types.float32, types.int64), generate


@intrinsic
def _emit_tiles_ahead(
    typing, rows, vectors, a, offsets, sak, sar, b, ldb, sbr, init, ldi, c, ldc, depth, repeats, floor, tail, ahead,
    ahead_step,
):  # fmt: skip
    def generate(context, builder, signature, args):
        return _emit_switch(context, builder, args)

    return types.void(*[types.int64] * 15, types.float32, *[types.int64] * 3), generate


@compiled(TILE_SIGNATURE)
def tile(rows, vectors, a, offsets, sak, sar, b, ldb, sbr, init, ldi, c, ldc, depth, repeats, floor, tail):
    """Run the tile of 1 to UNIT.rows rows and 1 to UNIT.vectors vectors; see the module for the sum it computes.

    a, b, init, c are addresses, `offsets` that of `rows` int64; offsets and strides count float32 elements; depth and
    repeats are at least 1.
    """
    _emit_tiles(rows, vectors, a, offsets, sak, sar, b, ldb, sbr, init, ldi, c, ldc, depth, repeats, floor, tail)


@linked(TILE_SIGNATURE[:-1] + ", int64, int64)")
def tile_ahead(
    rows, vectors, a, offsets, sak, sar, b, ldb, sbr, init, ldi, c, ldc, depth, repeats, floor, tail, ahead, ahead_step
):
    """Run a tile; meanwhile fetch a cache line per step of the depth from address `ahead`, `ahead_step` elements apart.

    For operands from beyond the second-level cache: what the next tiles need comes in while this one computes.
    """
    _emit_tiles_ahead(
        rows, vectors, a, offsets, sak, sar, b, ldb, sbr, init, ldi, c, ldc, depth, repeats, floor, tail, ahead,
        ahead_step,
    )  # fmt: skip
