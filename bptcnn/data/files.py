"""Reading files that may be damaged: no more memory than their true size, no exception but UserError.

Code that parses a file raises UserError without naming it; `reading` puts the file's name in front, once.
"""

from __future__ import annotations

import gzip
import lzma
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from bptcnn.errors import UserError

DEFLATE_RATIO = 1032  # zlib's documented limit: no deflate stream expands by more
_CHUNK = 1 << 20  # bytes per read
_COUNTED = 1 << 28  # bytes decompressed just to say in an error how many there are

# What the standard library's decoders raise on damaged input, UserError and OSError aside.
_DAMAGE = (zlib.error, lzma.LZMAError, zipfile.BadZipFile, struct.error, ValueError, OverflowError, RuntimeError)


class ByteStream(Protocol):
    """What gzip, zip members and plain files have in common."""

    def read(self, size: int = ..., /) -> bytes: ...
    def tell(self) -> int: ...


@dataclass(frozen=True)
class Source:
    """An open file: its bytes, decompressed, and an upper bound on how many there can be."""

    stream: ByteStream
    limit: int


def shown(path: str | os.PathLike[str]) -> str:
    """The path on one printable line."""
    text = os.fspath(path)
    return text if text.isprintable() else repr(text)


@contextmanager
def reading(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn every failure to read `path` into UserError("cannot read <path>: <why>"). Not to be nested."""
    try:
        yield
    except UserError as error:
        raise _failure(path, str(error)) from error
    except OSError as error:
        raise _failure(path, error.strerror.lower() if error.strerror else f"damaged: {error}") from error
    except EOFError as error:
        raise _failure(path, "truncated: the compressed data end early") from error
    except MemoryError as error:
        raise _failure(path, "not enough memory") from error
    except _DAMAGE as error:
        raise _failure(path, f"damaged: {error}") from error


def _failure(path: str | os.PathLike[str], why: str) -> UserError:
    return UserError(f"cannot read {shown(path)}: {' '.join(why.split())}")


def regular_size(path: Path) -> int:
    """Bytes in a file; for use inside `reading`. UserError if it is empty or not a regular file."""
    status = path.stat()
    if stat.S_ISDIR(status.st_mode):
        raise UserError("it is a folder, not a file")
    if not stat.S_ISREG(status.st_mode):  # a pipe would block for ever
        raise UserError("it is not a regular file")
    if not status.st_size:
        raise UserError("the file is empty")
    return status.st_size


@contextmanager
def opened(path: Path) -> Iterator[Source]:
    """Open a regular file, decompressing if its name ends in .gz; for use inside `reading`."""
    size = regular_size(path)
    # what is a file now may be a pipe then
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as plain:
        if path.suffix == ".gz":
            with gzip.open(plain, "rb") as unzipped:
                yield Source(unzipped, DEFLATE_RATIO * size)
        else:
            yield Source(plain, size)


def read_rest(source: Source, size: int, promised: str) -> npt.NDArray[np.uint8]:
    """The remaining bytes of a source, (size,) uint8; they must be exactly `size` (> 0) of them.

    `promised` says in words what the header announced. UserError if there are fewer bytes or more, or if the memory
    for them is not available; both are found before anything of that size is allocated.
    """
    stream = source.stream
    if size > source.limit - stream.tell():
        while stream.tell() < _COUNTED and stream.read(_CHUNK):
            pass
        held = f"{stream.tell()} bytes" if stream.tell() < _COUNTED else f"at most {source.limit} bytes"
        raise UserError(f"truncated: header promises {promised}, file holds {held}")
    require_memory(size)
    content = np.empty(size, np.uint8)
    held_bytes = 0
    while held_bytes < size:
        chunk = stream.read(min(_CHUNK, size - held_bytes))
        if not chunk:
            raise UserError(f"truncated: header promises {promised}, file holds {stream.tell()} bytes")
        content[held_bytes : held_bytes + len(chunk)] = np.frombuffer(chunk, np.uint8)
        held_bytes += len(chunk)
    if stream.read(1):  # at the end this also makes gzip and zip verify their checksums
        raise UserError(f"trailing bytes: header promises {promised}, more follows")
    return content


def require_memory(size: int) -> None:
    """UserError if the host has less than `size` bytes of memory available."""
    from bptcnn.available import available_bytes  # here, to keep the import of the package light

    available = available_bytes()
    if size > available:
        raise UserError(f"needs {size / 1e9:.1f} GB of memory, {available / 1e9:.1f} GB are available")
