"""Blocks of bfloat16 numbers: packed from any matrix of up to 32 x 32, multiplied with sums as float64 has them."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stepping import SEEDS

from bptcnn.kernels.unit import MATRIX_UNIT

if not MATRIX_UNIT:
    pytest.skip("this CPU multiplies no bfloat16 numbers", allow_module_level=True)

from bptcnn.kernels import bfloat16_blocks as blocks
from bptcnn.kernels.compilation import compiled

Floats = npt.NDArray[np.float32]
SIZE = blocks.BLOCK
ROWS, COLUMNS, TRANSPOSED_ROWS, TRANSPOSED_COLUMNS = range(4)


@compiled("void(int64, int64, int64, int64, int64, int64, int64, int64)")
def _pack(kind, source, stride, rows, columns, where, where_stride, target):  # type: ignore[no-untyped-def]
    if kind == ROWS:
        blocks.pack_rows(source, stride, rows, columns, where, where_stride, target)
    elif kind == COLUMNS:
        blocks.pack_columns(source, stride, rows, columns, where, where_stride, target)
    elif kind == TRANSPOSED_ROWS:
        blocks.pack_transposed_rows(source, stride, rows, columns, where, where_stride, target)
    else:
        blocks.pack_transposed_columns(source, stride, rows, columns, where, where_stride, target)


@compiled("void(int64, int64, int64, int64, int64)")
def _multiply(table, count, left, right, target):  # type: ignore[no-untyped-def]
    blocks.configure_tiles()
    blocks.multiply_blocks(table, count, left, right, target)
    blocks.release_tiles()


@compiled("void(int64, int64, int64, int64, float32, int64, int64, int64)")
def _store(sums, rows, columns, bias, floor, target, stride, added):  # type: ignore[no-untyped-def]
    blocks.store_block(sums, rows, columns, bias, floor, target, stride, added)


def aligned(count: int) -> npt.NDArray[np.uint8]:
    """Return memory for so many blocks, at the start of a cache line."""
    memory = np.full(count * blocks.BLOCK_BYTES + 64, 0xAA, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + count * blocks.BLOCK_BYTES]


def rounded(x: Floats) -> Floats:
    """Round to the nearest bfloat16, ties to even; NaN stays one."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    near = ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)
    return np.where(np.isnan(x), np.float32(np.nan), near)


def pack(
    kind: int, matrix: Floats, rows: int, columns: int, where: Floats | None, target: npt.NDArray[np.uint8]
) -> None:
    place = (0, 0) if where is None else (where.ctypes.data, where.strides[0])
    _pack(kind, matrix.ctypes.data, matrix.strides[0], rows, columns, *place, target.ctypes.data)


@given(
    kind=st.integers(0, 3),
    rows=st.integers(1, 40),
    columns=st.integers(1, 40),
    chosen=st.booleans(),
    special=st.booleans(),
    seed=SEEDS,
)
def test_packing(kind: int, rows: int, columns: int, chosen: bool, special: bool, seed: int) -> None:
    random = np.random.default_rng(seed)
    matrix = random.standard_normal((rows, columns + seed % 5), np.float32)
    if special:
        matrix[0, 0], matrix[-1, columns - 1] = np.nan, np.inf
    where = random.standard_normal((rows, columns + 3), np.float32) if chosen else None
    target = aligned(1)
    pack(kind, matrix, rows, columns, where, target)
    high, wide = min(rows, SIZE), min(columns, SIZE)
    expected = np.zeros((SIZE, SIZE), np.float32)
    expected[:high, :wide] = rounded(matrix[:high, :wide])
    if where is not None:
        expected[:high, :wide] = np.where(where[:high, :wide] > 0, expected[:high, :wide], 0)
    if kind in (TRANSPOSED_ROWS, TRANSPOSED_COLUMNS):
        expected = expected.T
    if kind in (COLUMNS, TRANSPOSED_COLUMNS):
        expected = expected.reshape(16, 2, 2, 16).transpose(2, 0, 3, 1)
    found = (target.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_array_equal(found, expected.ravel())


@given(count=st.integers(0, 9), seed=SEEDS)
def test_products(count: int, seed: int) -> None:
    """The table names blocks in any order; none give zeros."""
    random = np.random.default_rng(seed)
    places = random.integers(0, 6, (count, 2))
    numbers = random.standard_normal((2, 6, SIZE, SIZE), np.float32)
    left, right = aligned(6), aligned(6)
    for block in range(6):
        here = slice(block * blocks.BLOCK_BYTES, (block + 1) * blocks.BLOCK_BYTES)
        pack(ROWS, numbers[0, block], SIZE, SIZE, None, left[here])
        pack(COLUMNS, numbers[1, block], SIZE, SIZE, None, right[here])
    table = np.ascontiguousarray(places * blocks.BLOCK_BYTES, np.int64)
    sums = aligned(2)
    _multiply(table.ctypes.data, count, left.ctypes.data, right.ctypes.data, sums.ctypes.data)
    a, b = rounded(numbers[0]).astype(np.float64), rounded(numbers[1]).astype(np.float64)
    expected = sum((a[i] @ b[j] for i, j in places), np.zeros((SIZE, SIZE)))
    np.testing.assert_allclose(sums.view(np.float32).reshape(SIZE, SIZE), expected, atol=1e-4 * np.sqrt(count + 1))


@given(rows=st.integers(1, 32), columns=st.integers(1, 40), biased=st.booleans(), added=st.booleans(), seed=SEEDS)
def test_storing(rows: int, columns: int, biased: bool, added: bool, seed: int) -> None:
    """Nothing beside the rows and columns is touched; NaN passes the floor."""
    random = np.random.default_rng(seed)
    sums, bias = random.standard_normal((SIZE, SIZE), np.float32), random.standard_normal(SIZE, np.float32)
    before = random.standard_normal((rows, 50), np.float32)
    sums[0, 0] = np.nan
    target, floor = before.copy(), np.float32(0.25)
    address = bias.ctypes.data if biased else 0
    _store(sums.ctypes.data, rows, columns, address, floor, target.ctypes.data, target.strides[0], added)
    wide = min(columns, SIZE)
    value = sums[:rows, :wide] + (bias[:wide] if biased else np.float32(0))
    expected = before.copy()
    expected[:, :wide] = np.maximum(value + (before[:, :wide] if added else np.float32(0)), floor)
    np.testing.assert_allclose(target, expected, rtol=1e-6)
