"""Calling one task kernel on its own: records, and buffers whose surroundings show what was read or written there.

Around an image lie NaN (which nothing may read into a result) or guards (which nothing may overwrite); behind every
buffer lies the slack that whole-vector loads may read.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from stepping import assert_close

from bptcnn.kernels.compilation import compiled
from bptcnn.kernels.pointers import call_kernel
from bptcnn.kernels.tile import SLACK

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Ring = tuple[tuple[int, int], tuple[int, int]]

GUARD = np.float32(7)
SPARE = SLACK // 4


@compiled("int64(int64, int64, int64, int64, int64, int64)")
def _call(kernel, operation, first, last, part, worker):  # type: ignore[no-untyped-def]
    return call_kernel(kernel, operation, first, last, part, worker)


def call(
    kernel: int, dtype: np.dtype[Any], fields: dict[str, Any], first: int, last: int, part: int = 0, worker: int = 0
) -> None:
    """Run a task kernel on a record with exactly these fields; it must succeed."""
    assert set(fields) == set(dtype.names or ()), set(fields) ^ set(dtype.names or ())
    record = np.zeros(1, dtype)
    for name, value in fields.items():
        record[name] = value
    assert _call(kernel, record.ctypes.data, first, last, part, worker) == 0


class Numbers:
    """An array in memory of its own, with slack behind that is NaN to readers and a guard to writers."""

    def __init__(self, values: npt.ArrayLike) -> None:
        array = np.asarray(values)
        self.memory = np.full(array.size + SPARE, GUARD, array.dtype)
        self.memory[array.size :] = np.nan if array.dtype.kind == "f" else -1
        self.view = self.memory[: array.size].reshape(array.shape)
        self.view[...] = array
        self.address = self.memory.ctypes.data
        self._slack = self.memory[array.size :].tobytes()

    def intact(self) -> bool:
        """Tell whether nothing was written behind the array."""
        return self.memory[self.view.size :].tobytes() == self._slack


class Images:
    """Images (count, height, width, channels) in a buffer with `zeros` around each, then a ring of `around`."""

    def __init__(self, values: npt.ArrayLike, zeros: Ring = ((0, 0), (0, 0)), around: float = np.nan) -> None:
        array = np.asarray(values, np.float32)
        count, height, width, channels = array.shape
        (top, bottom), (left, right) = zeros
        whole = np.full((count, top + height + bottom + 2, left + width + right + 2, channels), around, np.float32)
        whole[:, 1:-1, 1:-1] = 0
        self._numbers = Numbers(whole)
        self._whole = self._numbers.view
        self._inside = (slice(None), slice(1 + top, 1 + top + height), slice(1 + left, 1 + left + width))
        self.view = self._whole[self._inside]
        self.view[...] = array
        self.row = self._whole.shape[2] * channels
        self.image = self._whole.shape[1] * self.row
        self.window = self._numbers.address + 4 * (self.row + channels)  # of the zeros' first pixel
        self.address = self.window + 4 * (top * self.row + left * channels)
        self._before = self._surroundings()

    def fields(self, name: str) -> dict[str, Any]:
        """Return the fields of a record that say where the images `name` lie."""
        return {name: self.address, f"{name}_image": self.image, f"{name}_row": self.row}

    def _surroundings(self) -> bytes:
        copy = self._whole.copy()
        copy[self._inside] = 0
        return copy.tobytes()

    def intact(self) -> bool:
        """Tell whether nothing was written around and behind the images."""
        return self._numbers.intact() and self._surroundings() == self._before


def guards(*shape: int) -> Floats:
    """Return an array that shows which elements a kernel writes."""
    return np.full(shape, GUARD, np.float32)


def normal(random: np.random.Generator, *shape: int) -> Floats:
    """Return random numbers of about unit size."""
    return random.standard_normal(shape, np.float32)


def assert_near(name: str, actual: Floats, expected: Doubles, least: float = 1.0) -> None:
    """Compare elementwise, relative to the largest expected element, or `least`; both may be empty."""
    assert actual.shape == expected.shape, name
    if actual.size:
        assert_close(name, actual, expected, least=least)
