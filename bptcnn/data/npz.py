"""NumPy's .npz archives with x_train, y_train, x_test, y_test.

Read member by member rather than through `numpy.load`, which allocates whatever an array's header promises before it
looks at the data. Nothing in an archive is ever unpickled.
"""

from __future__ import annotations

import math
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy

from bptcnn.data.files import DEFLATE_RATIO, ByteStream, Source, read_rest, reading, regular_size, require_memory
from bptcnn.data.samples import NUMBERED, Dataset, Samples, count_classes
from bptcnn.errors import UserError

_MOST_HEADER = 1 << 16  # bytes: NumPy's own are shorter than 200
_ARRAYS = ("x_train", "y_train", "x_test", "y_test")


def read_npz(path: Path, name: str) -> Dataset:
    """The data set in one archive.

    Images (N, H, W) or (N, H, W, C): uint8 stays uint8, floats become float32. Labels (N,) or (N, 1), integers.
    """
    with reading(path):
        size = regular_size(path)
        with zipfile.ZipFile(path) as archive:
            members = set(archive.namelist())
            missing = [array for array in _ARRAYS if f"{array}.npy" not in members]
            if missing:
                raise UserError(f"{', '.join(missing)} missing: the archive must hold {', '.join(_ARRAYS)}")
            train = _read_samples(archive, size, "train")
            test = _read_samples(archive, size, "test")
        return Dataset(train, test, count_classes(train, test), name, str(path))


def _read_samples(archive: zipfile.ZipFile, size: int, part: str) -> Samples:
    images, labels = (_read_array(archive, size, f"{axis}_{part}") for axis in "xy")
    try:
        return Samples.of(images, labels)
    except UserError as error:
        raise UserError(f"x_{part}, y_{part}: {error}") from error


def _read_array(archive: zipfile.ZipFile, size: int, array: str) -> npt.NDArray[Any]:
    member = archive.getinfo(f"{array}.npy")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise UserError(f"{array} is compressed by a method that NumPy does not use")
    ratio = 1 if member.compress_type == zipfile.ZIP_STORED else DEFLATE_RATIO
    with archive.open(member) as stream:
        shape, column_major, dtype = _read_header(stream, array)
        if dtype.kind not in "fiub":
            remedy = f": {NUMBERED} numbers classes" if array.startswith("y") else ""
            raise UserError(f"{array} holds {'objects' if dtype.hasobject else dtype}, not numbers{remedy}")
        if len(shape) > 4 or 0 in shape or any(length < 0 for length in shape):
            raise UserError(f"{array} has shape {shape}")
        bound = min(member.file_size, ratio * min(member.compress_size, size))
        count = math.prod(shape)
        content = read_rest(Source(stream, bound), count * dtype.itemsize, f"{array} of shape {shape}, {dtype}")
    if column_major or dtype not in (np.uint8, np.float32):
        require_memory(4 * count)  # the converted copy
    values = content.view(dtype)
    return values.reshape(shape[::-1]).T if column_major else values.reshape(shape)


class _Short:
    """A stream of which no long piece is read at once: a header may promise 4 GB, and compress to that."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream

    def read(self, size: int = -1, /) -> bytes:
        if not 0 <= size <= _MOST_HEADER:
            raise ValueError(f"a header of {size} bytes")
        return self._stream.read(size)

    def tell(self) -> int:
        return self._stream.tell()


def _read_header(stream: ByteStream, array: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether the order is Fortran's, and type, from the head of an .npy stream."""
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # damaged headers make the parser warn before it fails
            version = npy.read_magic(stream)
            return readers[version](_Short(stream))
    except zipfile.BadZipFile:
        raise
    except Exception as error:  # a header is a Python literal: damaged, it can raise nearly anything
        raise UserError(f"{array} is not a NumPy array: its header is damaged") from error
