"""Products of bfloat16 blocks with float32 sums, and what packs float32 numbers into blocks.

    C[32, 32] = sum_t A[t] * B[t]

Everything that bfloat16 multiplies lies in blocks of 32 x 32 numbers, 2 KiB, so that loads are whole cache lines:

    rows     two tiles of [16 rows][32 of the depth]: what stands on the left of a product
    columns  two tiles of [16 pairs of the depth][16 columns][2]: what stands on the right

Both come from a float32 matrix as it is, or from its transpose; what lies outside of the matrix becomes zeros, and
numbers are rounded to the nearest, ties to even. With pairs as 32-bit words a tile of one kind is the transpose of one
of the other kind.

The product runs on AMX's tile registers, a block each way in two, where the CPU has them, else on vector registers.
Both skip denormal numbers. A thread configures its tiles before products and gives them up behind.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from bptcnn.kernels.compilation import linked
from bptcnn.kernels.unit import MATRIX_UNIT, UNIT
from bptcnn.kernels.vectors import F32, I8, I32, I64, VectorEmitter, word


class _BFloat16(ir.Type):
    """LLVM's bfloat, which llvmlite has no name for."""

    def _to_string(self) -> str:
        return "bfloat"


_NUMBERS = ir.VectorType(_BFloat16(), 32)

BLOCK = 32
"""Rows and columns of a block."""

BLOCK_BYTES = 2 * BLOCK * BLOCK

_TILE_BYTES = BLOCK_BYTES // 2
_TILE = 16  # rows, columns, or pairs of the depth
_LINE = 64  # bytes: a row of a tile
_SUMS_ROW = 4 * BLOCK  # bytes: a row of C
_GROUP = 8  # rows of C whose sums vector registers hold at a time


class _BlockEmitter(VectorEmitter):
    """Emits packing at the builder's position."""

    def load_masked(self, address: Any, mask: Any) -> Any:
        """Load float32 lanes where `mask` is set, zeros elsewhere."""
        signature = ir.FunctionType(self.vector, [F32.as_pointer(), I32, mask.type, self.vector])
        function = cgutils.get_or_insert_function(self.builder.module, signature, "llvm.masked.load.v16f32.p0")
        return self.builder.call(function, [self.pointer(address), ir.Constant(I32, 4), mask, self.zero])

    def rounded(self, low: Any, high: Any) -> Any:
        """Return two float32 vectors as one of bfloat16, in 32-bit words."""
        signature = ir.FunctionType(_NUMBERS, [self.vector, self.vector])
        name = "llvm.x86.avx512bf16.cvtne2ps2bf16.512"
        function = cgutils.get_or_insert_function(self.builder.module, signature, name)
        return self.builder.bitcast(self.builder.call(function, [high, low]), self.integers)

    def interleaved(self, value: Any) -> Any:
        """Pair the numbers of the lower half with those of the upper half."""
        halves = ir.VectorType(ir.IntType(16), 2 * self.lanes)
        numbers = self.builder.bitcast(value, halves)
        order = [half * self.lanes + lane for lane in range(self.lanes) for half in (0, 1)]
        places = ir.Constant(ir.VectorType(I32, 2 * self.lanes), order)
        return self.builder.bitcast(self.builder.shuffle_vector(numbers, numbers, places), self.integers)

    def transposed(self, rows: Sequence[Any]) -> list[Any]:
        """Transpose 16 x 16 words: blocks of 8, 4, 2, 1 change places across the diagonal."""
        found, lanes = list(rows), range(self.lanes)
        for size in (8, 4, 2, 1):
            upper = [lane if not lane & size else 16 + lane - size for lane in lanes]
            lower = [lane + size if not lane & size else 16 + lane for lane in lanes]
            for index in (i for i in lanes if not i & size):
                pair = found[index], found[index + size]
                found[index], found[index + size] = (
                    self.builder.shuffle_vector(*pair, ir.Constant(self.integers, order)) for order in (upper, lower)
                )
        return found

    def pack(self, args: Any, columns_kind: bool, transposed: bool) -> None:
        """Pack a matrix, or its transpose, as a block of the one kind or the other."""
        source, stride, rows, columns, where, where_stride, target = args
        builder = self.builder
        linear = builder.icmp_signed("==", where, word(0))
        where = builder.select(linear, source, where)
        where_stride = builder.select(linear, stride, where_stride)

        def numbers(row: Any, column: int | Any) -> Any:
            valid = builder.select(builder.icmp_signed("<", row, rows), builder.sub(columns, column), word(0))
            mask = self.first_lanes(valid)
            place, sign = (
                builder.add(builder.add(base, builder.mul(row, step)), builder.mul(column, word(4)))
                for base, step in ((source, stride), (where, where_stride))
            )
            value = self.load_masked(place, mask)
            above = builder.fcmp_ordered(">", self.load_masked(sign, mask), self.zero)
            return builder.select(builder.or_(above, self.splat(linear)), value, self.zero)

        by_pairs = columns_kind != transposed  # what the matrix itself is packed as, before it is transposed

        with cgutils.for_range(builder, word(2)) as tiles:
            first = builder.mul(tiles.index, word(_TILE))
            lines = []
            for line in range(_TILE):
                if by_pairs:
                    pair = numbers(word(2 * line), first), numbers(word(2 * line + 1), first)
                    lines.append(self.interleaved(self.rounded(*pair)))
                else:
                    row = builder.add(first, word(line))
                    lines.append(self.rounded(numbers(row, word(0)), numbers(row, word(_TILE))))
            base = builder.add(target, builder.mul(tiles.index, word(_TILE_BYTES)))
            for line, value in enumerate(self.transposed(lines) if transposed else lines):
                place = builder.inttoptr(builder.add(base, word(_LINE * line)), self.integers.as_pointer())
                builder.store(value, place).align = _LINE


def _packing(columns_kind: bool, transposed: bool) -> Any:
    def typed(typing, source, stride, rows, columns, where, where_stride, target):
        def generate(context, builder, signature, args):
            _BlockEmitter(builder, UNIT).pack(args, columns_kind, transposed)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 7), generate

    typed.__name__ = f"pack_{columns_kind}_{transposed}"
    return intrinsic(typed)


_emit_rows, _emit_columns = _packing(False, False), _packing(True, False)
_emit_transposed_rows, _emit_transposed_columns = _packing(False, True), _packing(True, True)
_PACKING_SIGNATURE = "void(" + ", ".join(["int64"] * 7) + ")"


@linked(_PACKING_SIGNATURE)
def pack_rows(source, stride, rows, columns, where, where_stride, target):
    """Pack a float32 matrix of up to 32 x 32 at `source` as a block of rows at `target`, zeros behind.

    Strides are bytes from row to row. Numbers count where those at `where` are above 0, or all where that is 0.
    """
    _emit_rows(source, stride, rows, columns, where, where_stride, target)


@linked(_PACKING_SIGNATURE)
def pack_columns(source, stride, rows, columns, where, where_stride, target):
    """Pack a matrix as a block of columns; see `pack_rows`."""
    _emit_columns(source, stride, rows, columns, where, where_stride, target)


@linked(_PACKING_SIGNATURE)
def pack_transposed_rows(source, stride, rows, columns, where, where_stride, target):
    """Pack a matrix's transpose as a block of rows; see `pack_rows`."""
    _emit_transposed_rows(source, stride, rows, columns, where, where_stride, target)


@linked(_PACKING_SIGNATURE)
def pack_transposed_columns(source, stride, rows, columns, where, where_stride, target):
    """Pack a matrix's transpose as a block of columns; see `pack_rows`."""
    _emit_transposed_columns(source, stride, rows, columns, where, where_stride, target)


class _ProductEmitter(VectorEmitter):
    """Emits C = the sum of products of blocks, whose addresses are in a table of pairs."""

    def emit(self, table: Any, count: Any, a_base: Any, b_base: Any, target: Any) -> None:
        raise NotImplementedError

    def for_blocks(self, table: Any, count: Any, a_base: Any, b_base: Any, body: Callable[[Any, Any], None]) -> None:
        """Loop over the pairs of blocks: body(address of A's, address of B's)."""
        builder = self.builder
        with cgutils.for_range(builder, count) as entries:
            entry = builder.inttoptr(builder.add(table, builder.mul(entries.index, word(16))), I64.as_pointer())
            a, b = (builder.load(builder.gep(entry, [word(side)])) for side in (0, 1))
            body(builder.add(a_base, a), builder.add(b_base, b))


class _TileRegisters(_ProductEmitter):
    """AMX: tiles 0 to 3 hold the sums, 4 and 5 A's halves, 6 and 7 B's.

    Fetching the next blocks meanwhile costs more than it saves (Sapphire Rapids: 5 to 10 % slower).
    """

    def emit(self, table: Any, count: Any, a_base: Any, b_base: Any, target: Any) -> None:
        for tile in range(4):
            self._do("tilezero", tile)
        self.for_blocks(table, count, a_base, b_base, self._multiply)
        for tile in range(4):
            place = tile // 2 * _TILE * _SUMS_ROW + tile % 2 * _LINE
            self._move("tilestored64", tile, target, place, _SUMS_ROW)

    def _multiply(self, a: Any, b: Any) -> None:
        for half in (0, 1):
            self._move("tileloadd64", 6 + half, b, half * _TILE_BYTES, _LINE)
        for half in (0, 1):
            self._move("tileloadd64", 4 + half, a, half * _TILE_BYTES, _LINE)
            for column in (0, 1):
                self._do("tdpbf16ps", 2 * half + column, 4 + half, 6 + column)

    def _do(self, name: str, *tiles: int) -> None:
        _call_void(self.builder, f"llvm.x86.{name}", [ir.Constant(I8, tile) for tile in tiles])

    def _move(self, name: str, tile: int, address: Any, offset: int, stride: int) -> None:
        place = self.builder.inttoptr(self.builder.add(address, word(offset)), I8.as_pointer())
        _call_void(self.builder, f"llvm.x86.{name}", [ir.Constant(I8, tile), place, word(stride)])


class _VectorRegisters(_ProductEmitter):
    """AVX512-BF16: 8 rows of C at a time."""

    def emit(self, table: Any, count: Any, a_base: Any, b_base: Any, target: Any) -> None:
        builder = self.builder
        with cgutils.for_range(builder, word(BLOCK // _GROUP)) as groups:
            sums = [cgutils.alloca_once(builder, self.vector) for _ in range(2 * _GROUP)]
            for place in sums:
                builder.store(self.zero, place)
            skipped = builder.mul(groups.index, word(_GROUP * _LINE))
            self.for_blocks(table, count, a_base, b_base, partial(self._block, sums, skipped))
            rows = builder.add(target, builder.mul(groups.index, word(_GROUP * _SUMS_ROW)))
            for index, place in enumerate(sums):
                offset = index // 2 * _SUMS_ROW + index % 2 * _LINE
                self.store(builder.load(place), self.pointer(builder.add(rows, word(offset))))

    def _block(self, sums: list[Any], skipped: Any, a: Any, b: Any) -> None:
        builder, a = self.builder, self.builder.add(a, skipped)
        signature = ir.FunctionType(self.vector, [self.vector, _NUMBERS, _NUMBERS])
        name = "llvm.x86.avx512bf16.dpbf16ps.512"
        multiply_add = cgutils.get_or_insert_function(builder.module, signature, name)
        with cgutils.for_range(builder, word(_TILE)) as pairs:
            line = builder.add(b, builder.mul(pairs.index, word(_LINE)))
            halves = [self._numbers(builder.add(line, word(half * _TILE_BYTES))) for half in (0, 1)]
            for row in range(_GROUP):
                place = builder.add(builder.add(a, word(row * _LINE)), builder.mul(pairs.index, word(4)))
                pair = self.splat(builder.load(builder.inttoptr(place, I32.as_pointer())))
                pair = builder.bitcast(pair, _NUMBERS)
                for half in (0, 1):
                    total = sums[2 * row + half]
                    builder.store(builder.call(multiply_add, [builder.load(total), pair, halves[half]]), total)

    def _numbers(self, address: Any) -> Any:
        return self.builder.load(self.builder.inttoptr(address, _NUMBERS.as_pointer()))


def _call_void(builder: Any, name: str, arguments: list[Any]) -> None:
    """Call an LLVM intrinsic that returns nothing."""
    signature = ir.FunctionType(ir.VoidType(), [argument.type for argument in arguments])
    builder.call(cgutils.get_or_insert_function(builder.module, signature, name), arguments)


_PRODUCT = {"amx": _TileRegisters, "avx512_bf16": _VectorRegisters}


@intrinsic
def _emit_product(typing, table, count, a_base, b_base, target):
    def generate(context, builder, signature, args):
        _PRODUCT[MATRIX_UNIT](builder, UNIT).emit(*args)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5), generate


@linked("void(int64, int64, int64, int64, int64)")
def multiply_blocks(table, count, a_base, b_base, target):
    """Write to C, [32][32] float32 at `target`, the sum of products of `count` pairs of blocks.

    The table holds pairs of int64, A's and B's distance from the addresses `a_base` and `b_base`. Tiles must be
    configured.
    """
    _emit_product(table, count, a_base, b_base, target)


@intrinsic
def configure_tiles(typing):
    """Have this thread's tile registers, where products need them, hold 16 rows of 64 bytes each."""

    def generate(context, builder, signature, args):
        if MATRIX_UNIT == "amx":
            settings = bytes([1, *[0] * 15, *[_LINE, 0] * 8, *[0] * 16, *[_TILE] * 8, *[0] * 8])
            kind = ir.ArrayType(I8, len(settings))
            place = cgutils.alloca_once(builder, kind)
            builder.store(ir.Constant(kind, bytearray(settings)), place)
            _call_void(builder, "llvm.x86.ldtilecfg", [builder.bitcast(place, I8.as_pointer())])
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def release_tiles(typing):
    """Give this thread's tile registers up: they would be saved whenever the thread pauses."""

    def generate(context, builder, signature, args):
        if MATRIX_UNIT == "amx":
            _call_void(builder, "llvm.x86.tilerelease", [])
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def _emit_store(typing, sums, rows, columns, bias, floor, target, stride, added):
    def generate(context, builder, signature, args):
        sums, rows, columns, bias, floor, target, stride, added = args
        emit = _BlockEmitter(builder, UNIT)
        floors, adds = emit.splat(floor), builder.icmp_signed("!=", added, word(0))
        has_bias = builder.icmp_signed("!=", bias, word(0))
        masks = [emit.first_lanes(builder.sub(columns, word(first))) for first in (0, _TILE)]
        none = ir.Constant(masks[0].type, None)
        biases = [
            emit.load_masked(builder.add(bias, word(_LINE * half)), builder.select(has_bias, mask, none))
            for half, mask in enumerate(masks)
        ]
        old_masks = [builder.select(adds, mask, none) for mask in masks]
        with cgutils.for_range(builder, rows) as lines:
            row = builder.add(sums, builder.mul(lines.index, word(_SUMS_ROW)))
            place = builder.add(target, builder.mul(lines.index, stride))
            for half in (0, 1):
                address = builder.add(place, word(_LINE * half))
                value = builder.fadd(emit.load(emit.pointer(builder.add(row, word(_LINE * half)))), biases[half])
                value = builder.fadd(value, emit.load_masked(address, old_masks[half]))
                value = builder.select(builder.fcmp_ordered("<", value, floors), floors, value)
                emit.store_masked(value, emit.pointer(address), masks[half])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4, types.float32, *[types.int64] * 3), generate


@linked("void(int64, int64, int64, int64, float32, int64, int64, int64)")
def store_block(sums, rows, columns, bias, floor, target, stride, added):
    """Store the first rows and columns of C, [32][32] at `sums`: plus a bias, if its address is not 0, floored.

    `stride`: bytes from row to row at `target`; `added` 1: add to what is there.
    """
    _emit_store(sums, rows, columns, bias, floor, target, stride, added)
