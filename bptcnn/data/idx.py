"""IDX, the format of MNIST and its kin: big-endian, a magic number that holds type and rank, the sizes, the bytes.

Source: http://yann.lecun.com/exdb/mnist/ (section "file formats").
"""

from __future__ import annotations

import math
from collections.abc import Collection
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bptcnn.data.files import opened, read_rest, reading, shown
from bptcnn.data.samples import Dataset, Samples, count_classes
from bptcnn.errors import UserError

_UBYTE = 0x08  # the type in the magic number's third byte; the fourth is the number of dimensions
_PARTS = ("train", "t10k")


def is_idx_folder(names: Collection[str]) -> bool:
    """Whether one of a folder's file names is one of an IDX data set's."""
    return any(_find(names, part, kind) for part in _PARTS for kind in ("images", "labels"))


def read_idx_folder(folder: Path, names: Collection[str], name: str) -> Dataset:
    """The data set in the four IDX files of a folder, plain or .gz; images (N, H, W, 1) uint8."""
    train, test = (_read_part(folder, names, part) for part in _PARTS)
    with reading(folder):
        return Dataset(train, test, count_classes(train, test), name, str(folder))


def read_idx(path: Path, dimensions: int) -> npt.NDArray[np.uint8]:
    """The unsigned bytes of one IDX file of that many dimensions. UserError if the file is anything else."""
    with reading(path), opened(path) as source:
        length = 4 + 4 * dimensions
        header = source.stream.read(length)
        if len(header) < length:
            raise UserError(f"truncated: {len(header)} bytes, the header alone has {length}")
        magic, expected = int.from_bytes(header[:4], "big"), _UBYTE << 8 | dimensions
        if magic != expected:
            raise UserError(f"wrong magic number 0x{magic:08x}, expected 0x{expected:08x} ({_words(dimensions)})")
        shape = tuple(int(size) for size in np.frombuffer(header, ">u4", offset=4))
        promised = f"{shape[0]} {_words(dimensions)}"
        if dimensions == 3:
            promised += f" of {shape[1]}x{shape[2]}"
        if 0 in shape:
            raise UserError(f"nothing in it: header promises {promised}")
        return read_rest(source, math.prod(shape), promised).reshape(shape)


def _words(dimensions: int) -> str:
    return "images" if dimensions == 3 else "labels"


def _read_part(folder: Path, names: Collection[str], part: str) -> Samples:
    paths = []
    for kind in ("images", "labels"):
        found = _find(names, part, kind)
        if found is None:
            raise UserError(f"cannot read {shown(folder)}: {_stems(part, kind)[0]} (or .gz) is missing")
        paths.append(folder / found)
    images, labels = read_idx(paths[0], 3), read_idx(paths[1], 1)
    with reading(paths[1]):
        if len(images) != len(labels):
            raise UserError(f"{len(labels)} labels for the {len(images)} images in {paths[0].name}")
        return Samples(images[..., np.newaxis], labels.astype(np.int32))


def _stems(part: str, kind: str) -> tuple[str, str]:
    rank = 3 if kind == "images" else 1
    return f"{part}-{kind}-idx{rank}-ubyte", f"{part}-{kind}.idx{rank}-ubyte"


def _find(names: Collection[str], part: str, kind: str) -> str | None:
    candidates = [stem + suffix for suffix in ("", ".gz") for stem in _stems(part, kind)]
    return next((candidate for candidate in candidates if candidate in names), None)
