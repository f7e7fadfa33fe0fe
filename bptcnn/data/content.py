"""Samples by their content: a digest that names them, and a cache on disk where hosts keep what was sent to them.

    <cache>/<digest>/images.npy, labels.npy      an entry: appears whole, is read through a memory map
    <cache>/.writing-<host>-<pid>-<start>-...    being written; swept when that process is gone

Guarantees
- What `get` returns has the digest that was asked for: it is computed anew each time, and a damaged entry is removed.
- Writers in several processes do not disturb each other; the first to finish wins, and all have the same content.
- A writer that dies leaves a temporary folder and nothing else, and the next writer removes it.
- Nobody else can write into the folder. What a power cut takes is sent again: nothing waits for the disk.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import math
import os
import re
import shutil
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy

from bptcnn.cache_layers import spare_roots, wanted_root
from bptcnn.caches import private_folder, require_private
from bptcnn.data.files import regular_size, shown
from bptcnn.data.samples import Samples
from bptcnn.errors import UserError
from bptcnn.files import kernel_text

Buffer = bytes | bytearray | memoryview | npt.NDArray[Any]
Shape = tuple[int, ...]

LARGEST = 16 << 30  # bytes of all entries: some ten ImageNet-like sets at 32x32, and a small share of today's disks
_FILES = ("images.npy", "labels.npy")
_DIGEST = re.compile("[0-9a-f]{64}")
_WRITING = ".writing-"
_FOREIGN_SECONDS = 86400.0  # another host's writer cannot be looked up: nobody pauses a transfer for a day
_TAKEN = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR)
_ATTEMPTS = 20  # others may put a damaged entry in the way again and again, but not for ever


def digest(samples: Samples) -> str:
    """SHA-256, in hex, of the samples' types and shapes, then the images' bytes, then the labels'; little-endian."""
    images, labels = np.ascontiguousarray(samples.images), np.ascontiguousarray(samples.labels)
    found = _digest_of(images.dtype, images.shape, labels.dtype, labels.shape)
    for array in (images, labels):
        found.update(_flat(array))
    return found.hexdigest()


def _has_digest(samples: Samples, wanted: str) -> bool:
    return digest(samples) == wanted


class SampleCache:
    """The samples stored in a folder, by digest."""

    def __init__(self, folder: Path | None = None) -> None:
        """`folder`: by default "samples" in the user's cache folder of bptcnn (`BPTCNN_CACHE_DIR` moves that)."""
        self._below = () if folder is not None else ("samples",)
        self._root = folder or wanted_root() or spare_roots()[0]
        self.folder = self._root.joinpath(*self._below)

    def get(self, digest: str) -> Samples | None:
        """The samples of that digest, as read-only memory maps; None where they are not stored, or are damaged.

        Raises UserError where somebody else could change them while they are in use.
        """
        entry = self._entry(digest)
        if not os.path.lexists(entry):
            return None
        require_private(self._root.resolve(), is_root=True)
        require_private(self.folder)
        found = _mapped(entry)
        if found is None or not _has_digest(found, digest):
            self._discard(entry)
            return None
        with contextlib.suppress(OSError):  # a cache that may be read but not written serves as well
            os.utime(entry)
        return found

    @contextmanager
    def writer(
        self,
        digest: str,
        images_dtype: npt.DTypeLike,
        images_shape: Shape,
        labels_dtype: npt.DTypeLike,
        labels_shape: Shape,
    ) -> Iterator[SampleWriter]:
        """Store samples: within the block, `append` the bytes of the images, then of the labels, in any pieces.

        When the block ends the entry is there; where it fails, nothing is. Entries that were not used for longest go
        if all take more than 16 GiB, never this one. Raises UserError where the folder cannot be written or the disk
        is full, and ValueError where the bytes are not those of `digest`, too few or too many.
        """
        self._entry(digest)
        self._sweep()
        with _storing(self.folder):
            private_folder(self._root, *self._below)
            temporary = self._temporary()
        try:
            arrays = ((np.dtype(images_dtype), images_shape), (np.dtype(labels_dtype), labels_shape))
            with contextlib.closing(SampleWriter(temporary, arrays)) as writer:
                yield writer
                writer.check(digest)
            self._put(temporary, digest)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        self._shrink(self._entry(digest))

    def _entry(self, digest: str) -> Path:
        if not _DIGEST.fullmatch(digest):
            raise ValueError(f"{digest!r} is no SHA-256 in hex")
        return self.folder / digest

    def _temporary(self) -> Path:
        owner = f"{os.uname().nodename}-{os.getpid()}-{_start_of(os.getpid())}"
        return Path(tempfile.mkdtemp(prefix=f"{_WRITING}{owner}-", dir=self.folder))

    def _put(self, temporary: Path, digest: str) -> None:
        """Move a whole entry into place, unless another process was faster."""
        entry = self._entry(digest)
        with _storing(self.folder):
            for left in reversed(range(_ATTEMPTS)):
                try:
                    os.utime(temporary)
                    os.rename(temporary, entry)
                    return
                except OSError as error:
                    if not left or error.errno not in _TAKEN:
                        raise
                if self.get(digest) is not None:  # else what was in the way was damaged, and is gone
                    return

    def _discard(self, entry: Path) -> None:
        """Remove an entry, so that nobody sees a part of it."""
        with contextlib.suppress(OSError):  # another process was faster, or this one may only read
            temporary = self._temporary()
            try:
                os.rename(entry, temporary / entry.name)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)

    def _shrink(self, kept: Path) -> None:
        """Remove the entries used longest ago until all take no more than LARGEST."""
        entries = []
        for entry in _listed(self.folder):
            if _DIGEST.fullmatch(entry.name):
                with contextlib.suppress(OSError):  # another process has just removed it
                    size = sum(file.stat().st_size for file in _listed(entry))
                    entries.append((entry.stat().st_mtime, size, Path(entry)))
        total = sum(size for _, size, _ in entries)
        for _, size, path in sorted(entries):
            if total > LARGEST and path != kept:
                self._discard(path)
                total -= size

    def _sweep(self) -> None:
        """Remove what writers have left that died."""
        for entry in _listed(self.folder):
            if entry.name.startswith(_WRITING) and not _is_owned(entry):
                shutil.rmtree(entry, ignore_errors=True)


class SampleWriter:
    """Takes the bytes of one entry in order; `SampleCache.writer` makes and ends it."""

    def __init__(self, folder: Path, arrays: tuple[tuple[np.dtype[Any], Shape], ...]) -> None:
        """Reserve the disk space for images and labels, each of a type and a shape."""
        (images_dtype, images_shape), (labels_dtype, labels_shape) = arrays
        if images_dtype not in (np.uint8, np.float32) or len(images_shape) != 4 or min(images_shape) < 0:
            raise ValueError(f"images cannot be {images_dtype} of shape {images_shape}")
        if labels_dtype != np.int32 or tuple(labels_shape) != tuple(images_shape[:1]):
            raise ValueError(f"labels of {images_shape[0]} images cannot be {labels_dtype} of shape {labels_shape}")
        self._folder = folder
        self._left = [math.prod(shape) * dtype.itemsize for dtype, shape in arrays]
        self._digest = _digest_of(images_dtype, images_shape, labels_dtype, labels_shape)
        self._files: list[io.FileIO] = []
        with _storing(folder.parent):
            try:
                for name, (dtype, shape), size in zip(_FILES, arrays, self._left, strict=True):
                    file = (folder / name).open("wb", buffering=0)
                    self._files.append(file)
                    head = io.BytesIO()
                    description = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": tuple(shape)}
                    npy.write_array_header_1_0(head, description)
                    file.write(head.getvalue())
                    os.posix_fallocate(file.fileno(), 0, len(head.getvalue()) + size)
            except BaseException:
                self.close()
                raise

    def append(self, buffer: Buffer) -> None:
        """Store the next bytes. Raises UserError where the disk is full, ValueError where they are too many."""
        content = _flat(buffer)
        if len(content) > sum(self._left):
            raise ValueError(f"{len(content)} bytes, {sum(self._left)} are missing")
        self._digest.update(content)
        for number, file in enumerate(self._files):
            part = content[: self._left[number]]
            content = content[len(part) :]
            self._left[number] -= len(part)
            with _storing(self._folder.parent):
                while part:
                    part = part[file.write(part) :]

    def check(self, digest: str) -> None:
        """Raise ValueError unless all bytes are there and are those of `digest`."""
        if sum(self._left):
            raise ValueError(f"the samples end {sum(self._left)} bytes early")
        if self._digest.hexdigest() != digest:
            raise ValueError(f"these are other samples: their digest is {self._digest.hexdigest()}, not {digest}")

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            file.close()


@contextmanager
def _storing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        remedy = "make room there, or set BPTCNN_CACHE_DIR to another folder"
        raise UserError(f"cannot store samples in {shown(folder)}: {why}; {remedy}") from None


def _digest_of(
    images_dtype: np.dtype[Any], images_shape: Shape, labels_dtype: np.dtype[Any], labels_shape: Shape
) -> hashlib._Hash:
    """A digest that has taken the header."""
    images, labels = ("x".join(map(str, shape)) for shape in (images_shape, labels_shape))
    header = f"bptcnn samples {images_dtype.str} {images} {labels_dtype.str} {labels}\n"
    return hashlib.sha256(header.encode())


def _flat(buffer: Buffer) -> memoryview:
    view = buffer.data if isinstance(buffer, np.ndarray) else memoryview(buffer)
    return view.cast("B") if view.nbytes else memoryview(b"")  # NumPy's views without bytes cannot be cast


def _mapped(entry: Path) -> Samples | None:
    """An entry's arrays as read-only maps; None if it is damaged in a way that shows at once."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # damaged headers make the parser warn before it fails
            arrays = []
            for name in _FILES:
                regular_size(entry / name)
                arrays.append(npy.open_memmap(entry / name, mode="r").view(np.ndarray))
        return Samples(*arrays)
    except Exception:  # a header is a Python literal: damaged, it can raise nearly anything
        return None


def _listed(folder: str | os.PathLike[str]) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:  # not there yet, or not ours to list: writing says why
        return []


def _is_owned(entry: os.DirEntry[str]) -> bool:
    """Whether the process that a temporary folder is named for is still at work."""
    owner = entry.name.removeprefix(_WRITING).rsplit("-", 3)
    if len(owner) == 4 and owner[0] == os.uname().nodename:
        return owner[1].isdecimal() and owner[2] == _start_of(int(owner[1]))
    try:
        newest = max(file.stat().st_mtime for file in [entry, *_listed(entry)])
    except OSError:  # it is gone
        return True
    return bool(time.time() - newest < _FOREIGN_SECONDS)


def _start_of(pid: int) -> str | None:
    """When a process started, in clock ticks since boot; None if it does not run."""
    try:
        fields = kernel_text(f"/proc/{pid}/stat").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]
