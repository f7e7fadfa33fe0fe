"""CIFAR-10's binary version: records of 3073 bytes, a label and then the planes R, G, B of 32x32.

Source: A. Krizhevsky, https://www.cs.toronto.edu/~kriz/cifar.html (section "binary version").
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bptcnn.data.files import opened, read_rest, reading, require_memory, shown
from bptcnn.data.samples import Dataset, Samples
from bptcnn.errors import UserError

_TRAIN = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
_TEST = ("test_batch.bin",)
_RECORD = 1 + 3 * 32 * 32  # bytes
_CLASSES = 10


def is_cifar_folder(names: Collection[str]) -> bool:
    """Whether one of a folder's file names is one of CIFAR-10's."""
    return any(name in names for name in _TRAIN + _TEST)


def read_cifar_folder(folder: Path, names: Collection[str], name: str) -> Dataset:
    """The data set in CIFAR-10's six files, each of any number of records; images (N, 32, 32, 3) uint8."""
    for expected in _TRAIN + _TEST:
        if expected not in names:
            raise UserError(f"cannot read {shown(folder)}: {expected} is missing")
    train, test = _read_batches(folder, _TRAIN), _read_batches(folder, _TEST)
    with reading(folder):
        return Dataset(train, test, _CLASSES, name, str(folder))


def _read_batches(folder: Path, files: Sequence[str]) -> Samples:
    batches = [_read_batch(folder / file) for file in files]
    with reading(folder):
        count = sum(map(len, batches))
        require_memory(count * _RECORD)
        images = np.empty((count, 32, 32, 3), np.uint8)
        first = 0
        for batch in batches:
            planes = batch[:, 1:].reshape(-1, 3, 32, 32)
            images[first : first + len(batch)] = planes.transpose(0, 2, 3, 1)
            first += len(batch)
        return Samples(images, np.concatenate([batch[:, 0] for batch in batches]).astype(np.int32))


def _read_batch(path: Path) -> npt.NDArray[np.uint8]:
    """(N, 3073) uint8."""
    with reading(path), opened(path) as source:
        records, rest = divmod(source.limit, _RECORD)
        if rest:
            raise UserError(f"{source.limit} bytes are not a whole number of {_RECORD}-byte records")
        batch = read_rest(source, source.limit, f"{records} records").reshape(records, _RECORD)
        worst = int(batch[:, 0].argmax())
        if batch[worst, 0] >= _CLASSES:
            raise UserError(f"label {batch[worst, 0]} of record {worst} is out of range: CIFAR-10 has 0 to 9")
        return batch
