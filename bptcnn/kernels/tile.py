"""The register tile: one micro-kernel that every convolution and dense layer runs on.

    C[m, n] = floor_at(init[m, n] + sum_r sum_k A[m * lda + k * sak + r * sar] * B[k * ldb + r * sbr + n], floor)

for m < rows and n < vectors * lanes, all sums held in registers. The outer loop over r walks the rows of a filter
window (or of an image), so that direct convolution needs no im2col. `init` continues earlier sums, or holds a bias
(its row stride is then 0); address 0 means zeros. `floor` is 0 for a rectifier and minus infinity for none; NaN passes.
The last vector stores `tail` lanes only; loads are whole vectors, so buffers end with `SLACK` spare bytes.
Rows that are not evenly spaced come as a table of offsets (`tile_scattered`).

A step of the depth has to leave the load ports room: with 14 x 2 vectors, 16 loads feed 28 multiply-adds, of which a
core does two per cycle, as it does loads. So no offset may be reloaded (see `_Strided`), and B, which is read once, is
fetched into the first-level cache in time (vectors across two cache lines then cost little, too).
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from bptcnn.kernels.compilation import linked
from bptcnn.kernels.unit import UNIT, VectorUnit
from bptcnn.kernels.vectors import F32, FIRST_LEVEL, I64, SECOND_LEVEL, VectorEmitter, word

SLACK = 256
"""Bytes that must be readable behind every buffer that a tile loads from."""

TILE_SIGNATURE = "void(" + "int64, " * 15 + "float32, int64, int64, int64)"

_NEAR = 8
"""Steps of the depth from fetching a line of B to its use: about 110 cycles, several times what a second-level cache
takes. Measured on Sapphire Rapids: 4 to 12 steps are alike."""

_LINE = 16  # elements in a cache line


class _Strided:
    """Addresses of rows `stride` elements apart.

    x86-64 has 16 registers, too few for 14 offsets, but its addresses take a register scaled by 1, 2 or 4: two
    pointers, 7 rows apart, and 1, 3 and 5 strides reach all rows. ARM has registers for all offsets and scales by the
    element's size only.
    """

    def __init__(self, emitter: "TileEmitter", stride: Any) -> None:
        self._emitter = emitter
        self._builder = builder = emitter.builder
        self.bases = -(-emitter.rows // 7)
        self._seven = builder.mul(stride, word(7))
        size = builder.mul(stride, word(4))
        self._strides = {n: emitter.opaque(builder.mul(size, word(n))) for n in (1, 3, 5)}

    def start(self, a: Any) -> list[Any]:
        """Return the pointers to advance, from the address of row 0."""
        return [a, self._emitter.advance(a, self._seven)][: self.bases]

    def row(self, bases: list[Any], m: int) -> Any:
        """Return the pointer of row m."""
        base, place = bases[m // 7], m % 7
        if place == 0:
            return base
        stride, scale = {2: (1, 2), 4: (1, 4), 6: (3, 2)}.get(place, (place, 1))
        bytes_scaled = self._builder.bitcast(base, ir.IntType(8 * scale).as_pointer())
        moved = self._builder.gep(bytes_scaled, [self._strides[stride]])
        return self._builder.bitcast(moved, F32.as_pointer())


class _Scattered:
    """Addresses of rows at given offsets, in elements."""

    bases = 1

    def __init__(self, emitter: "TileEmitter", offsets: list[Any]) -> None:
        self._emitter = emitter
        self._offsets = offsets

    def start(self, a: Any) -> list[Any]:
        """Return the pointer to advance."""
        return [a]

    def row(self, bases: list[Any], m: int) -> Any:
        """Return the pointer of row m."""
        return self._emitter.advance(bases[0], self._offsets[m])


class TileEmitter(VectorEmitter):
    """Emits the code of one tile of `rows` x `vectors` at the builder's position."""

    def __init__(self, builder: Any, unit: VectorUnit, rows: int, vectors: int, scattered: bool) -> None:
        super().__init__(builder, unit)
        self.rows = rows
        self.vectors = vectors
        self.scattered = scattered

    def advance(self, pointer: Any, elements: Any) -> Any:
        return self.builder.gep(pointer, [elements])

    def opaque(self, value: Any) -> Any:
        """Return the value with its origin hidden: the optimiser would turn few registers into a pointer per row."""
        return self.builder.asm(ir.FunctionType(value.type, [value.type]), "", "=r,0", [value], False)

    def phis(self, block: Any, values: list[Any]) -> list[Any]:
        found = []
        for value in values:
            phi = self.builder.phi(value.type)
            phi.add_incoming(value, block)
            found.append(phi)
        return found

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
        return self.joined((start, [self.zero] * len(loaded)), (loading, loaded))

    def joined(self, *edges: tuple[Any, list[Any]]) -> list[Any]:
        """Return the values that come along one of the edges: (block, values)."""
        (block, values), *others = edges
        found = self.phis(block, values)
        for block, values in others:
            for phi, value in zip(found, values, strict=True):
                phi.add_incoming(value, block)
        return found

    def loop(self, count: Any, state: list[Any], body: Callable[[list[Any]], list[Any]]) -> list[Any]:
        """Run `body` at least once, `count` times if that is more, on the values that it returns; return the last."""
        builder = self.builder
        before = builder.block
        start, end = builder.append_basic_block("loop"), builder.append_basic_block("loop_end")
        builder.branch(start)
        builder.position_at_end(start)
        index, *current = self.phis(before, [count, *state])
        updated = body(current)
        left = builder.sub(index, word(1))
        for phi, value in zip([index, *current], [left, *updated], strict=True):
            phi.add_incoming(value, builder.block)
        builder.cbranch(builder.icmp_signed(">", left, word(0)), start, end)
        builder.position_at_end(end)
        return updated

    def placed(self, rows: Any) -> _Strided | _Scattered:
        """Return how to address the rows, of which `rows` is the stride, or the address of the offsets' table."""
        builder, numbers = self.builder, range(self.rows)
        if self.scattered:
            table = builder.inttoptr(rows, I64.as_pointer())
            return _Scattered(self, [builder.load(builder.gep(table, [word(m)])) for m in numbers])
        if self.unit.name == "neon":
            return _Scattered(self, [builder.mul(rows, word(m)) for m in numbers])
        return _Strided(self, rows)

    def step(self, a_rows: list[Any], b: Any, sums: list[Any]) -> list[Any]:
        """Return the sums plus the products of one element per row and one row of B."""
        b_vectors = [self.load(self.advance(b, word(v * self.lanes))) for v in range(self.vectors)]
        updated: list[Any] = []
        for pointer in a_rows:
            a_value = self.splat(self.builder.load(pointer))
            updated += [self.multiply_add(a_value, value, sums[len(updated) + v]) for v, value in enumerate(b_vectors)]
        return updated

    def emit(self, args: Any) -> None:
        a, rows, sak, sar, b, ldb, sbr, init, ldi, c, ldc, depth, repeats, floor, tail, ahead, ahead_step = args
        places = self.placed(rows)
        near = self.builder.mul(ldb, word(_NEAR))

        def step(state: list[Any]) -> list[Any]:
            b_k, ahead_k, *others = state
            bases = [self.opaque(base) for base in others[: places.bases]]
            self.prefetch(ahead_k, SECOND_LEVEL)
            if self.vectors > 1 and not self.scattered:  # else there are too many loads already
                for element in range(0, self.vectors * self.lanes, _LINE):
                    self.prefetch(self.advance(self.advance(b_k, near), word(element)), FIRST_LEVEL)
            sums = self.step([places.row(bases, m) for m in range(self.rows)], b_k, others[places.bases :])
            moved = [self.advance(base, sak) for base in bases]
            return [self.advance(b_k, ldb), self.advance(ahead_k, ahead_step), *moved, *sums]

        def repeat(state: list[Any]) -> list[Any]:
            a_r, b_r, ahead_r, *sums = state
            _, ahead_next, *others = self.loop(depth, [b_r, ahead_r, *places.start(a_r), *sums], step)
            return [self.advance(a_r, sar), self.advance(b_r, sbr), ahead_next, *others[places.bases :]]

        start = [self.pointer(a), self.pointer(b), self.pointer(ahead), *self.initial(init, ldi)]
        _, _, _, *sums = self.loop(repeats, start, repeat)
        self.finish(sums, self.pointer(c), ldc, floor, tail)

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


def _emit_switch(builder: Any, args: Any, scattered: bool) -> None:
    """Emit every tile of this CPU's unit behind one switch over (vectors, rows)."""
    end = builder.append_basic_block("tile_end")
    index = builder.add(builder.mul(args[1], word(UNIT.rows + 1)), args[0])
    switch = builder.switch(index, end)
    for v in range(1, UNIT.vectors + 1):
        for m in range(1, UNIT.rows + 1):
            block = builder.append_basic_block(f"tile_{m}x{v}")
            switch.add_case(word(v * (UNIT.rows + 1) + m), block)
            builder.position_at_end(block)
            TileEmitter(builder, UNIT, m, v, scattered).emit(args[2:])
            builder.branch(end)
    builder.position_at_end(end)


_EMITTED = types.void(*[types.int64] * 15, types.float32, *[types.int64] * 3)


@intrinsic
def _strided_tiles(
    typing, rows, vectors, a, lda, sak, sar, b, ldb, sbr, init, ldi, c, ldc, depth, repeats, floor, tail, ahead,
    ahead_step,
):  # fmt: skip
    def generate(context, builder, signature, args):
        _emit_switch(builder, args, scattered=False)
        return context.get_dummy_value()

    return _EMITTED, generate


@intrinsic
def _scattered_tiles(
    typing, rows, vectors, a, offsets, sak, sar, b, ldb, sbr, init, ldi, c, ldc, depth, repeats, floor, tail, ahead,
    ahead_step,
):  # fmt: skip
    def generate(context, builder, signature, args):
        _emit_switch(builder, args, scattered=True)
        return context.get_dummy_value()

    return _EMITTED, generate


@linked(TILE_SIGNATURE)
def tile_ahead(
    rows, vectors, a, lda, sak, sar, b, ldb, sbr, init, ldi, c, ldc, depth, repeats, floor, tail, ahead, ahead_step
):
    """Run `tile`; meanwhile fetch a cache line per step of the depth from `ahead`, `ahead_step` elements apart."""
    _strided_tiles(
        rows, vectors, a, lda, sak, sar, b, ldb, sbr, init, ldi, c, ldc, depth, repeats, floor, tail, ahead, ahead_step
    )


@njit(inline="always")
def tile(rows, vectors, a, lda, sak, sar, b, ldb, sbr, init, ldi, c, ldc, depth, repeats, floor, tail):
    """Run the tile of 1 to UNIT.rows rows and 1 to UNIT.vectors vectors; see the module for the sum it computes.

    a, b, init, c are addresses; strides count float32 elements; depth and repeats are at least 1.
    """
    tile_ahead(rows, vectors, a, lda, sak, sar, b, ldb, sbr, init, ldi, c, ldc, depth, repeats, floor, tail, b, 0)


@linked("void(" + "int64, " * 15 + "float32, int64)")
def tile_scattered(rows, vectors, a, offsets, sak, sar, b, ldb, sbr, init, ldi, c, ldc, depth, repeats, floor, tail):
    """Run `tile` on rows of A anywhere: `offsets` is the address of `rows` int64, in elements, that replace m * lda."""
    _scattered_tiles(
        rows, vectors, a, offsets, sak, sar, b, ldb, sbr, init, ldi, c, ldc, depth, repeats, floor, tail, b, 0
    )
