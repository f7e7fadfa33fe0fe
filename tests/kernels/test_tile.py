"""The register tile: every shape it has, its strides, its start, its floor and its tail, against float64."""

from dataclasses import dataclass

import llvmlite.binding as llvm
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llvmlite import ir

from bptcnn.kernels.compilation import compiled
from bptcnn.kernels.tile import SLACK, TILE_SIGNATURE, TileEmitter, tile, tile_ahead, tile_scattered
from bptcnn.kernels.unit import UNIT, UNITS

SPARE = SLACK // 4
GUARD = np.float32(7)
SEEDS = st.integers(0, 2**32 - 1)
Floats = npt.NDArray[np.float32]

MANY = settings(max_examples=4 * settings().max_examples)


SIGNATURE = "void(" + "int64, " * 15 + "float32, int64)"


@compiled(SIGNATURE)
def run_strided(rows, vectors, a, lda, sak, sar, b, ldb, sbr, init, ldi, c, ldc, depth, repeats, floor, tail):
    tile(rows, vectors, a, lda, sak, sar, b, ldb, sbr, init, ldi, c, ldc, depth, repeats, floor, tail)


@compiled(SIGNATURE)
def run_scattered(rows, vectors, a, offsets, sak, sar, b, ldb, sbr, init, ldi, c, ldc, depth, repeats, floor, tail):
    tile_scattered(rows, vectors, a, offsets, sak, sar, b, ldb, sbr, init, ldi, c, ldc, depth, repeats, floor, tail)


@compiled(TILE_SIGNATURE)
def run_ahead(
    rows, vectors, a, lda, sak, sar, b, ldb, sbr, init, ldi, c, ldc, depth, repeats, floor, tail, ahead, ahead_step
):
    tile_ahead(
        rows, vectors, a, lda, sak, sar, b, ldb, sbr, init, ldi, c, ldc, depth, repeats, floor, tail, ahead, ahead_step
    )


@dataclass
class Operands:
    """a (repeats, rows, depth), b (repeats, depth, columns), start (rows or 1, columns) or None; and their layout."""

    a: Floats
    b: Floats
    start: Floats | None
    transposed: bool = False  # depth outermost in memory, as in the gradient by weight
    gap: int = 0  # spare elements between rows
    shuffled: int = 0  # seed of the rows' places in memory; 0: in order, one stride apart

    def run(self, floor: float, tail: int, in_place: bool = False) -> tuple[Floats, Floats]:
        """Return C (rows, columns) and the guard elements around it that the tile must not touch."""
        repeats, rows, depth = self.a.shape
        columns = self.b.shape[2]
        lanes = UNIT.lanes
        places = np.random.default_rng(self.shuffled).permutation(rows) if self.shuffled else np.arange(rows)
        inner, outer = (rows, depth) if self.transposed else (depth, rows)
        a = np.full((repeats, outer, inner + self.gap), GUARD)
        placed = self.a[:, np.argsort(places)]
        a[:, :, :inner] = placed.transpose(0, 2, 1) if self.transposed else placed
        flat_a = np.concatenate([a.ravel(), np.full(SPARE, np.nan, np.float32)])
        b = np.full((repeats, depth, columns + self.gap), GUARD)
        b[:, :, :columns] = self.b
        flat_b = np.concatenate([b.ravel(), np.full(SPARE, np.nan, np.float32)])
        ldc = columns + self.gap + 3
        c = np.full(rows * ldc + SPARE, GUARD)
        view = c[: rows * ldc].reshape(rows, ldc)
        init, ldi = 0, 0
        start = np.zeros(0, np.float32)
        if self.start is not None and in_place:
            view[:, :columns] = self.start
            init, ldi = c.ctypes.data, ldc
        elif self.start is not None:
            start = np.concatenate([self.start.ravel(), np.full(SPARE, np.nan, np.float32)])
            init, ldi = start.ctypes.data, columns if len(self.start) > 1 else 0
        line = inner + self.gap
        between_rows, between_depths = (1, line) if self.transposed else (line, 1)
        offsets = between_rows * places.astype(np.int64)
        run = run_scattered if self.shuffled else run_strided
        run(
            rows, columns // lanes, flat_a.ctypes.data, offsets.ctypes.data if self.shuffled else between_rows,
            between_depths, outer * line,
            flat_b.ctypes.data, columns + self.gap, depth * (columns + self.gap), init, ldi,
            c.ctypes.data, ldc, depth, repeats, floor, tail,
        )  # fmt: skip
        stored = columns - lanes + tail
        return view[:, :stored].copy(), np.concatenate([view[:, stored:].ravel(), c[rows * ldc :]])

    def expected(self, floor: float, tail: int) -> npt.NDArray[np.float64]:
        """Return the same in float64; NaN passes the floor."""
        with np.errstate(invalid="ignore"):
            c = np.einsum("rmk,rkn->mn", self.a.astype(np.float64), self.b.astype(np.float64))
            c = c + (0 if self.start is None else self.start)
        return np.where(c < floor, floor, c)[:, : self.b.shape[2] - UNIT.lanes + tail]


def normal(random: np.random.Generator, *shape: int) -> Floats:
    return random.standard_normal(shape, np.float32)


@pytest.mark.parametrize("shuffled", [0, 1])
@pytest.mark.parametrize("vectors", range(1, UNIT.vectors + 1))
@pytest.mark.parametrize("rows", range(1, UNIT.rows + 1))
def test_every_tile_of_the_unit_with_every_tail(rows: int, vectors: int, shuffled: int) -> None:
    random = np.random.default_rng(rows * 10 + vectors)
    columns = vectors * UNIT.lanes
    for tail in range(1, UNIT.lanes + 1):
        a, b, bias = normal(random, 2, rows, 5), normal(random, 2, 5, columns), normal(random, 1, columns)
        operands = Operands(a, b, bias, gap=3, shuffled=shuffled)
        c, guards = operands.run(0.0, tail)
        np.testing.assert_allclose(c, operands.expected(0.0, tail), rtol=1e-5, atol=1e-5)
        assert (guards == GUARD).all(), "stored beyond the tail"


@MANY
@given(
    rows=st.integers(1, UNIT.rows),
    vectors=st.integers(1, UNIT.vectors),
    tail=st.integers(1, UNIT.lanes),
    depth=st.one_of(st.integers(1, 9), st.integers(10, 700)),
    repeats=st.integers(1, 7),
    gap=st.integers(0, 20),
    transposed=st.booleans(),
    shuffled=st.integers(0, 3),
    start=st.sampled_from(["zeros", "bias", "continued", "elsewhere"]),
    floor=st.sampled_from([0.0, -np.inf, 0.25]),
    seed=SEEDS,
)
def test_any_layout(
    rows: int, vectors: int, tail: int, depth: int, repeats: int, gap: int, transposed: bool, shuffled: int, start: str,
    floor: float, seed: int,
) -> None:  # fmt: skip
    random = np.random.default_rng(seed)
    columns = vectors * UNIT.lanes
    a, b = normal(random, repeats, rows, depth), normal(random, repeats, depth, columns)
    begin = None if start == "zeros" else normal(random, 1 if start == "bias" else rows, columns)
    operands = Operands(a, b, begin, transposed, gap, shuffled)
    in_place = start == "continued"
    c, guards = operands.run(floor, tail, in_place)
    bound = 2e-6 * np.sqrt(depth * repeats) * 5
    np.testing.assert_allclose(c, operands.expected(floor, tail), rtol=0, atol=bound)
    if not in_place:
        assert (guards == GUARD).all()


@given(
    rows=st.integers(1, UNIT.rows),
    vectors=st.integers(1, UNIT.vectors),
    where=st.sampled_from(["a", "b", "start"]),
    value=st.sampled_from([np.nan, np.inf, -np.inf]),
    floor=st.sampled_from([0.0, -np.inf]),
    seed=SEEDS,
)
def test_nan_and_infinity_stay_visible(
    rows: int, vectors: int, where: str, value: float, floor: float, seed: int
) -> None:
    random = np.random.default_rng(seed)
    columns = vectors * UNIT.lanes
    operands = Operands(normal(random, 2, rows, 6), normal(random, 2, 6, columns), normal(random, rows, columns))
    array = {"a": operands.a, "b": operands.b, "start": operands.start}[where]
    assert array is not None
    array.flat[random.integers(array.size)] = value
    c, _ = operands.run(floor, UNIT.lanes)
    expected = operands.expected(floor, UNIT.lanes)
    np.testing.assert_array_equal(np.isnan(c), np.isnan(expected))
    np.testing.assert_array_equal(np.isinf(c), np.isinf(expected))
    np.testing.assert_allclose(c, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("lda", [0, 1, 3, -8])
def test_rows_of_a_that_overlap_as_in_a_convolution_or_run_backwards(lda: int) -> None:
    random = np.random.default_rng(5)
    reach = abs(lda) * (UNIT.rows - 1)
    source, b = normal(random, reach + 8 + SPARE), normal(random, 8 * UNIT.columns + SPARE)
    first = reach if lda < 0 else 0
    c = np.zeros((UNIT.rows, UNIT.columns), np.float32)
    run_strided(
        UNIT.rows, UNIT.vectors, source.ctypes.data + 4 * first, lda, 1, 0, b.ctypes.data, UNIT.columns, 0, 0, 0,
        c.ctypes.data, UNIT.columns, 8, 1, -np.inf, UNIT.lanes,
    )  # fmt: skip
    a = np.stack([source[first + lda * m :][:8] for m in range(UNIT.rows)]).astype(np.float64)
    expected = a @ b[: 8 * UNIT.columns].reshape(8, UNIT.columns)
    np.testing.assert_allclose(c, expected, rtol=1e-5, atol=1e-5)


def test_fetching_ahead_reads_nothing_even_from_nowhere() -> None:
    random = np.random.default_rng(6)
    a, b = normal(random, UNIT.rows, 8), normal(random, 8 * UNIT.columns + SPARE)
    c = np.zeros((UNIT.rows, UNIT.columns), np.float32)
    run_ahead(
        UNIT.rows, UNIT.vectors, a.ctypes.data, 8, 1, 0, b.ctypes.data, UNIT.columns, 0, 0, 0, c.ctypes.data,
        UNIT.columns, 8, 1, -np.inf, UNIT.lanes, 64, 1 << 30,
    )  # fmt: skip
    expected = a.astype(np.float64) @ b[: 8 * UNIT.columns].reshape(8, UNIT.columns)
    np.testing.assert_allclose(c, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scattered", [False, True])
@pytest.mark.parametrize("name", sorted(UNITS))
def test_every_unit_has_code_also_those_of_other_cpus(name: str, scattered: bool) -> None:
    unit, module = UNITS[name], ir.Module()
    words, number = [ir.IntType(64)], [ir.FloatType()]
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), 13 * words + number + 3 * words), "tile")
    builder = ir.IRBuilder(function.append_basic_block())
    TileEmitter(builder, unit, unit.rows, unit.vectors, scattered).emit(function.args)
    builder.ret_void()
    llvm.parse_assembly(str(module)).verify()
    instruction = "call <" if unit.fused else "fadd <"
    sums = sum(f"{instruction}{unit.lanes} x float>" in line for line in str(module).splitlines())
    assert sums == unit.rows * unit.vectors, "as many sums as one step of the depth has"
