"""Winograd's transforms of tiles, F(m x m, 3x3): generated from their matrices, for a vector of channels.

A tile of m x m outputs of a 3x3 convolution is A^T [(G g G^T) * (B^T d B)] A, where d is the tile of (m + 2)^2 inputs,
g the filter and * elementwise (Lavin and Gray, "Fast algorithms for convolutional neural networks", 2015). Its gradient
by g is G^T [(B^T d B) * (A y A^T)] G, where y is the output's gradient. So there are five transforms of grids,
X -> T X T^T, with T = B^T, A^T, A, G and G^T.

What inputs and output gradients the next row of tiles has more than this one is fetched into the second-level cache
meanwhile: hardware does not see it coming, as a tile is few channels of many rows and columns.

A matrix is applied with few operations: where rows (or columns) come in pairs of even and odd part, e + o and e - o,
each part is computed once.
"""

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from bptcnn.kernels.compilation import compiled, linked
from bptcnn.kernels.unit import UNIT
from bptcnn.kernels.vectors import F32, I64, SECOND_LEVEL, VectorEmitter, word

Matrix = tuple[tuple[Fraction, ...], ...]

INPUT, OUTPUT, GRADIENT, FILTER, FILTER_GRADIENT = range(5)
"""Kinds of transforms: inputs B^T d B, outputs A^T M A, output gradients A y A^T, filters, filters' gradients."""

SIZES = (2, 4, 5)
"""Outputs per row of a tile. The points of the transforms are 0, 1, -1 and, but for the last, infinity; from 4 on 2 and
-2; for 5 also 1/2 and -1/2, so that all but 0 come in pairs."""


def _matrix(text: str) -> Matrix:
    return tuple(tuple(map(Fraction, row.split())) for row in text.split(","))


def _transposed(matrix: Matrix) -> Matrix:
    return tuple(zip(*matrix, strict=True))


_INPUT = {  # B^T
    2: _matrix("1 0 -1 0, 0 1 1 0, 0 -1 1 0, 0 1 0 -1"),
    4: _matrix("4 0 -5 0 1 0, 0 -4 -4 1 1 0, 0 4 -4 -1 1 0, 0 -2 -1 2 1 0, 0 2 -1 -2 1 0, 0 4 0 -5 0 1"),
    5: _matrix(
        "-1 0 21/4 0 -21/4 0 1, 0 1 1 -17/4 -17/4 1 1, 0 -1 1 17/4 -17/4 -1 1, 0 1/2 1/4 -5/2 -5/4 2 1,"
        "0 -1/2 1/4 5/2 -5/4 -2 1, 0 2 4 -5/2 -5 1/2 1, 0 -2 4 5/2 -5 -1/2 1"
    ),
}
_FILTER = {  # G
    2: _matrix("1 0 0, 1/2 1/2 1/2, 1/2 -1/2 1/2, 0 0 1"),
    4: _matrix("1/4 0 0, -1/6 -1/6 -1/6, -1/6 1/6 -1/6, 1/24 1/12 1/6, 1/24 -1/12 1/6, 0 0 1"),
    5: _matrix(
        "-1 0 0, -2/9 -2/9 -2/9, -2/9 2/9 -2/9, 1/90 1/45 2/45, 1/90 -1/45 2/45, 32/45 16/45 8/45, 32/45 -16/45 8/45"
    ),
}
_OUTPUT = {  # A^T
    2: _matrix("1 1 1 0, 0 1 -1 -1"),
    4: _matrix("1 1 1 1 1 0, 0 1 -1 2 -2 0, 0 1 1 4 4 0, 0 1 -1 8 -8 1"),
    5: _matrix("1 1 1 1 1 1 1, 0 1 -1 2 -2 1/2 -1/2, 0 1 1 4 4 1/4 1/4, 0 1 -1 8 -8 1/8 -1/8, 0 1 1 16 16 1/16 1/16"),
}


def transform_matrix(kind: int, size: int) -> Matrix:
    """Return T of the transform X -> T X T^T."""
    return {
        INPUT: _INPUT[size],
        OUTPUT: _OUTPUT[size],
        GRADIENT: _transposed(_OUTPUT[size]),
        FILTER: _FILTER[size],
        FILTER_GRADIENT: _transposed(_FILTER[size]),
    }[kind]


@dataclass(frozen=True)
class _Scaled:
    """factor x value, not multiplied yet."""

    factor: Fraction
    value: Any


class _MatrixEmitter:
    """Emits products of constant matrices and columns of vectors."""

    def __init__(self, emit: VectorEmitter) -> None:
        self.emit = emit
        self.builder = emit.builder

    def constant(self, number: Fraction) -> Any:
        return ir.Constant(self.emit.vector, [float(np.float32(float(number)))] * self.emit.lanes)

    def plus(self, value: Any, term: _Scaled) -> Any:
        """Return value + factor x term."""
        if term.factor == 1:
            return self.builder.fadd(value, term.value)
        if term.factor == -1:
            return self.builder.fsub(value, term.value)
        return self.emit.multiply_add(self.constant(term.factor), term.value, value)

    def multiplied(self, term: _Scaled) -> Any:
        if term.factor == 1:
            return term.value
        return self.builder.fmul(self.constant(term.factor), term.value)

    def sum(self, coefficients: list[Fraction], values: list[Any]) -> _Scaled:
        """Return the sum of coefficient x value over at least one term, a common factor left out."""
        terms = [_Scaled(c, v) for c, v in zip(coefficients, values, strict=True) if c]
        first = min(terms, key=lambda term: (abs(term.factor) != 1, term.factor != 1, abs(term.factor)))
        value = first.value
        for term in terms:
            if term is not first:
                value = self.plus(value, _Scaled(term.factor / first.factor, term.value))
        return _Scaled(first.factor, value)

    def product(self, matrix: Matrix, values: list[Any]) -> list[Any]:
        """Return matrix x values."""
        rows = [list(row) for row in matrix]
        values = list(values)
        for i, j in _column_pairs(matrix):
            values[i], values[j] = self.builder.fadd(values[i], values[j]), self.builder.fsub(values[i], values[j])
            for row in rows:
                row[i], row[j] = (row[i], Fraction(0)) if row[i] == row[j] else (Fraction(0), row[i])
        results: list[Any] = [None] * len(rows)
        for i, j in _row_pairs(rows):
            even = self.sum([(a + b) / 2 for a, b in zip(rows[i], rows[j], strict=True)], values)
            odd = self.sum([(a - b) / 2 for a, b in zip(rows[i], rows[j], strict=True)], values)
            base, ratio = self.multiplied(even), _Scaled(odd.factor, odd.value)
            results[i], results[j] = self.plus(base, ratio), self.plus(base, _Scaled(-odd.factor, odd.value))
        for i, row in enumerate(rows):
            if results[i] is None:
                results[i] = self.multiplied(self.sum(row, values))
        return results

    def grid(self, matrix: Matrix, grid: list[list[Any]]) -> list[list[Any]]:
        """Return T X T^T."""
        rows = [self.product(matrix, row) for row in grid]
        columns = [self.product(matrix, list(column)) for column in zip(*rows, strict=True)]
        return [list(row) for row in zip(*columns, strict=True)]


def _column_pairs(matrix: Matrix) -> list[tuple[int, int]]:
    """Columns that every row adds or subtracts: sum and difference are computed once."""
    columns = _transposed(matrix)
    return _disjoint(
        (i, j)
        for i in range(len(columns))
        for j in range(i + 1, len(columns))
        if all(abs(a) == abs(b) for a, b in zip(columns[i], columns[j], strict=True))
        and columns[i] != columns[j]
        and any(a == b != 0 for a, b in zip(columns[i], columns[j], strict=True))
    )


def _row_pairs(rows: list[list[Fraction]]) -> list[tuple[int, int]]:
    """Rows that are the sum and the difference of two parts that share no column."""
    return _disjoint(
        (i, j)
        for i in range(len(rows))
        for j in range(i + 1, len(rows))
        if all(abs(a) == abs(b) for a, b in zip(rows[i], rows[j], strict=True))
        and rows[i] != rows[j]
        and any(a == b != 0 for a, b in zip(rows[i], rows[j], strict=True))
    )


def _disjoint(pairs: Any) -> list[tuple[int, int]]:
    used: set[int] = set()
    found = []
    for i, j in pairs:
        if i not in used and j not in used:
            used |= {i, j}
            found.append((i, j))
    return found


@dataclass(frozen=True)
class _Grid:
    """A grid of vectors in memory: address of the first, strides in elements (row, column, tile)."""

    address: Any
    row: Any
    column: Any
    step: Any


class _TransformEmitter(VectorEmitter):
    """Emits one transform at the builder's position: loops over tiles and vectors of channels."""

    def __init__(self, builder: Any, kind: int, size: int, ends: tuple[Any, Any] | None = None) -> None:
        """`ends`: rows and columns of pixels that there are, from the first tile on; inputs and outputs only."""
        super().__init__(builder, UNIT)
        self.kind = kind
        self.size = size
        self.matrix = transform_matrix(kind, size)
        self.masked = kind in (OUTPUT, FILTER_GRADIENT)  # other targets are padded to whole vectors
        self.ends = ends

    def run(self, source: _Grid, target: _Grid, init: _Grid, count: Any, channels: Any, floor: Any) -> None:
        builder = self.builder
        floors = self.splat(floor)
        self.nothing, self.discarded = (
            builder.bitcast(cgutils.alloca_once_value(builder, self.zero), F32.as_pointer()) for _ in range(2)
        )
        absent = builder.icmp_signed("==", init.address, word(0))
        with cgutils.for_range(builder, count) as tiles:
            self.first_column = builder.mul(tiles.index, word(self.size))
            pointers = [
                self.pointer(self.offset(grid.address, builder.mul(tiles.index, grid.step)))
                for grid in (source, target, init)
            ]
            pointers[2] = builder.select(absent, self.nothing, pointers[2])
            before = builder.block
            loop, done = builder.append_basic_block("vectors"), builder.append_basic_block("vectors_end")
            builder.branch(loop)
            builder.position_at_end(loop)
            channel = builder.phi(I64)
            channel.add_incoming(word(0), before)
            moving = [builder.phi(F32.as_pointer()) for _ in pointers]
            for phi, pointer in zip(moving, pointers, strict=True):
                phi.add_incoming(pointer, before)
            self.vectors(moving, (source, target, init), builder.sub(channels, channel), floors)
            following = builder.add(channel, word(self.lanes))
            channel.add_incoming(following, builder.block)
            steps = (word(self.lanes), word(self.lanes), builder.select(absent, word(0), word(self.lanes)))
            for phi, step in zip(moving, steps, strict=True):
                phi.add_incoming(builder.gep(phi, [step]), builder.block)
            builder.cbranch(builder.icmp_signed("<", following, channels), loop, done)
            builder.position_at_end(done)

    def vectors(self, pointers: list[Any], grids: tuple[_Grid, _Grid, _Grid], left: Any, floors: Any) -> None:
        """Transform one vector of channels."""
        outs, ins = len(self.matrix), len(self.matrix[0])
        zeros, discarded = (self.nothing, None) if self.kind == INPUT else (None, self.discarded)
        given = [[self.load(self.place(pointers[0], grids[0], i, j, zeros)) for j in range(ins)] for i in range(ins)]
        if self.kind in (INPUT, GRADIENT):
            for i in range(ins, ins + self.size):
                for j in range(self.size):
                    self.prefetch(self.place(pointers[0], grids[0], i, j), SECOND_LEVEL)
        results = _MatrixEmitter(self).grid(self.matrix, given)
        mask = self.first_lanes(left) if self.masked else None
        for i in range(outs):
            for j in range(outs):
                value = results[i][j]
                if self.masked:
                    value = self.builder.fadd(value, self.load(self.place(pointers[2], grids[2], i, j, discarded)))
                if self.kind == OUTPUT:
                    value = self.builder.select(self.builder.fcmp_ordered("<", value, floors), floors, value)
                place = self.place(pointers[1], grids[1], i, j, discarded)
                if self.masked:
                    self.store_masked(value, place, mask)
                else:
                    self.store(value, place)

    def place(self, pointer: Any, grid: _Grid, i: int, j: int, elsewhere: Any = None) -> Any:
        """Return where element (i, j) of a grid is; `elsewhere` if it is given and there is no such pixel."""
        builder = self.builder
        row = builder.gep(pointer, [builder.mul(grid.row, word(i))]) if i else pointer
        found = builder.gep(row, [builder.mul(grid.column, word(j))]) if j else row
        if elsewhere is None or self.ends is None:
            return found
        column = builder.add(self.first_column, word(j))
        inside = [builder.icmp_signed("<", place, end) for place, end in zip((word(i), column), self.ends, strict=True)]
        return builder.select(builder.and_(*inside), found, elsewhere)


def _emit_switch(builder: Any, args: Any, kinds: tuple[int, ...], ends: tuple[Any, Any] | None) -> None:
    """Emit the transforms of some kinds behind one switch over (kind, size)."""
    kind, size = args[:2]
    source, target, init = (_Grid(*args[begin : begin + 4]) for begin in (2, 6, 10))
    end = builder.append_basic_block("transform_end")
    switch = builder.switch(builder.add(builder.mul(kind, word(8)), size), end)
    for k in kinds:
        for m in SIZES:
            block = builder.append_basic_block(f"transform_{k}_{m}")
            switch.add_case(word(8 * k + m), block)
            builder.position_at_end(block)
            _TransformEmitter(builder, k, m, ends).run(source, target, init, *args[14:17])
            builder.branch(end)
    builder.position_at_end(end)


@intrinsic
def _emit_transforms(
    typing, kind, size, source, source_row, source_column, source_step, target, target_row, target_column, target_step,
    init, init_row, init_column, init_step, count, channels, floor,
):  # fmt: skip
    def generate(context, builder, signature, args):
        _emit_switch(builder, args, (INPUT, OUTPUT, GRADIENT, FILTER, FILTER_GRADIENT), None)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 16, types.float32), generate


@intrinsic
def _emit_edge_transforms(
    typing, kind, size, source, source_row, source_column, source_step, target, target_row, target_column, target_step,
    init, init_row, init_column, init_step, count, channels, floor, rows, columns,
):  # fmt: skip
    def generate(context, builder, signature, args):
        _emit_switch(builder, args, (INPUT, OUTPUT), (args[17], args[18]))
        return context.get_dummy_value()

    return types.void(*[types.int64] * 16, types.float32, *[types.int64] * 2), generate


@linked("void(" + "int64, " * 16 + "float32)")
def transform(
    kind, size, source, source_row, source_column, source_step, target, target_row, target_column, target_step,
    init, init_row, init_column, init_step, count, channels, floor,
):  # fmt: skip
    """Transform `count` grids, `channels` numbers each: target = floor_at(init + T source T^T).

    `source`, `target` and `init` are addresses (init 0: zeros); their strides count float32 elements, from row to row,
    column to column and grid to grid. Outputs and filters' gradients are stored to the last channel exactly; other
    kinds store whole vectors and ignore init, and all but outputs ignore floor.
    """
    _emit_transforms(
        kind, size, source, source_row, source_column, source_step, target, target_row, target_column, target_step,
        init, init_row, init_column, init_step, count, channels, floor,
    )  # fmt: skip


@linked("void(" + "int64, " * 16 + "float32, int64, int64)")
def transform_inside(
    kind, size, source, source_row, source_column, source_step, target, target_row, target_column, target_step,
    init, init_row, init_column, init_step, count, channels, floor, rows, columns,
):  # fmt: skip
    """Run `transform` on a row of tiles of inputs or outputs, of which only some pixels are in the image.

    `rows` and `columns` count them from the first tile's first pixel on; others are read as zeros, and never written.
    """
    reach = size + 2 if kind == INPUT else size
    whole = max(0, min(count, (columns - reach) // size + 1)) if rows >= reach else 0
    if whole:
        transform(
            kind, size, source, source_row, source_column, source_step, target, target_row, target_column, target_step,
            init, init_row, init_column, init_step, whole, channels, floor,
        )  # fmt: skip
    if whole < count:
        _emit_edge_transforms(
            kind, size, source + 4 * whole * source_step, source_row, source_column, source_step,
            target + 4 * whole * target_step, target_row, target_column, target_step,
            init + 4 * whole * init_step, init_row, init_column, init_step, count - whole, channels, floor,
            rows, columns - whole * size,
        )  # fmt: skip


@intrinsic
def _emit_transpose(typing, source, source_row, target, target_row, rows):
    """Transpose a square of vectors by exchanging halves, quarters and so on of pairs of rows."""

    def generate(context, builder, signature, args):
        source, source_row, target, target_row, rows = args
        emit = VectorEmitter(builder, UNIT)
        values = []
        for i in range(emit.lanes):
            inside = builder.icmp_signed("<", word(i), rows)
            row = builder.select(inside, builder.mul(source_row, word(i)), word(0))
            values.append(emit.load(emit.pointer(emit.offset(source, row))))
        span = emit.lanes // 2
        while span:
            lower = [j if j & span == 0 else emit.lanes + j - span for j in range(emit.lanes)]
            upper = [j + span if j & span == 0 else emit.lanes + j for j in range(emit.lanes)]
            for i in range(emit.lanes):
                if i & span == 0:
                    pair = values[i], values[i + span]
                    values[i] = builder.shuffle_vector(*pair, ir.Constant(emit.integers, lower))
                    values[i + span] = builder.shuffle_vector(*pair, ir.Constant(emit.integers, upper))
            span //= 2
        for i, value in enumerate(values):
            emit.store(value, emit.pointer(emit.offset(target, builder.mul(target_row, word(i)))))
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5), generate


@compiled("void(int64, int64, int64, int64, int64)")
def transpose(source, source_row, target, target_row, rows):
    """Write the transpose of `rows` <= LANES rows of LANES numbers; behind them, rows of the target hold anything.

    Addresses; strides in float32 elements. All LANES x LANES numbers of the target are written.
    """
    _emit_transpose(source, source_row, target, target_row, rows)
