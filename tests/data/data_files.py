"""Writers of small data sets in each format, independent of the readers."""

from __future__ import annotations

import gzip
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bptcnn.data import load
from bptcnn.errors import UserError

Bytes = npt.NDArray[np.uint8]


def idx_bytes(array: Bytes) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


@contextmanager
def fresh() -> Iterator[Path]:
    """An empty folder per use, not per test as tmp_path is: a property test needs one for each example."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def write_idx(
    folder: Path, train: tuple[Bytes, Bytes], test: tuple[Bytes, Bytes], dot: str = "-", gz: bool = False
) -> None:
    for part, (images, labels) in (("train", train), ("t10k", test)):
        for kind, rank, array in (("images", 3, images), ("labels", 1, labels)):
            content = idx_bytes(array)
            name = f"{part}-{kind}{dot}idx{rank}-ubyte"
            if gz:
                (folder / f"{name}.gz").write_bytes(gzip.compress(content))
            else:
                (folder / name).write_bytes(content)


def cifar_bytes(images: Bytes, labels: Bytes) -> bytes:
    """Records of NHWC images."""
    return b"".join(
        bytes([label]) + b"".join(image[:, :, channel].tobytes() for channel in range(3))
        for image, label in zip(images, labels, strict=True)
    )


def write_cifar(folder: Path, images: Bytes, labels: Bytes, test: tuple[Bytes, Bytes]) -> None:
    """The training images in five equal parts."""
    for number, (some, their) in enumerate(zip(np.split(images, 5), np.split(labels, 5), strict=True), 1):
        (folder / f"data_batch_{number}.bin").write_bytes(cifar_bytes(some, their))
    (folder / "test_batch.bin").write_bytes(cifar_bytes(*test))


def grey(n: int, height: int = 4, width: int = 3, seed: int = 0) -> tuple[Bytes, Bytes]:
    """n images and labels, the latter 0, 1, ..., 9, 0, ..."""
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (n, height, width), np.uint8), (np.arange(n) % 10).astype(np.uint8)


def refusal(data: Any) -> str:
    """The message with which `load` refuses `data`: one printable line, or the test fails."""
    try:
        load(data)
    except UserError as error:
        message = str(error)
        assert message.isprintable(), message
        return message
    raise AssertionError(f"{data} was accepted")


def only_user_errors(data: Any) -> None:
    """Load what may be damaged: anything but a data set or UserError fails the test."""
    try:
        load(data)
    except UserError as error:
        message = str(error)
    else:
        return
    assert message.isprintable(), message
