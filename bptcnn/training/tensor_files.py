"""safetensors files with a checksum: named arrays and named texts, written whole, and read with suspicion.

The checksum is SHA-256 over all names, texts, types, shapes and bytes, whatever their order in the file, and is one of
the texts itself. Guarantee: for any file, `read_tensors` returns what `write_tensors` was given or raises UserError,
and takes no more memory than three times the file's size, nor more than there is.
"""

import hashlib
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from bptcnn.available import require_available
from bptcnn.errors import UserError
from bptcnn.files import write_atomically
from bptcnn.untrusted import Malformed, parse_json

Tensors = dict[str, npt.NDArray[Any]]
Texts = dict[str, str]

_CHECKSUM = "checksum"
_METADATA = "__metadata__"
_MOST_HEADER = 100_000_000  # bytes: as safetensors itself has it
_COPIES = 3  # of a file's content in memory: its bytes, the arrays, and what becomes of them


def write_tensors(path: Path, tensors: Mapping[str, npt.NDArray[Any]], texts: Mapping[str, str]) -> None:
    """Write the file whole or not at all; raise UserError where it cannot be written."""
    arrays = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    write_atomically(path, save(arrays, {**texts, _CHECKSUM: _checksum(arrays, texts)}))


def read_tensors(path: Path) -> tuple[Tensors, Texts, bool]:
    """Return arrays, texts, and whether a checksum said that they are as written.

    Raises UserError, one line, for whatever is no such file, has another checksum, or is too large for this machine's
    memory.
    """
    try:
        content = _content(path)
        texts = _texts(content)
        tensors = load(content)
    except UserError:
        raise
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, AttributeError, ImportError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
        raise UserError(reason) from None
    checksum = texts.pop(_CHECKSUM, None)
    if checksum is not None and checksum != _checksum(tensors, texts):
        raise UserError("it is damaged: its checksum is another")
    return tensors, texts, checksum is not None


def _content(path: Path) -> bytes:
    """Return a regular file's bytes, if three times as much memory can be had."""
    # a pipe would be waited for
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise UserError("it is no file")
        require_available(_COPIES * status.st_size, f"it has {status.st_size / 1e6:,.0f} MB", "end other programs")
        return file.read(status.st_size)


def _texts(content: bytes) -> Texts:
    """Return the texts of the header; the library hands them out for files only."""
    length = int.from_bytes(content[:8], "little")
    if not 2 <= length <= min(_MOST_HEADER, len(content) - 8):
        raise Malformed("it is no safetensors file, or is cut off")
    header = parse_json(content[8 : 8 + length], _MOST_HEADER)
    texts = header.get(_METADATA, {}) if isinstance(header, dict) else None
    if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
        raise Malformed("its metadata are no table of texts")
    return dict(texts)


def _checksum(tensors: Mapping[str, npt.NDArray[Any]], texts: Mapping[str, str]) -> str:
    found = hashlib.sha256()
    for name, text in sorted(texts.items()):
        _add(found, name.encode(), text.encode())
    for name, array in sorted(tensors.items()):
        _add(found, name.encode(), array.dtype.str.encode(), repr(array.shape).encode())
        found.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return found.hexdigest()


def _add(found: "hashlib._Hash", *parts: bytes) -> None:
    """Add parts so that no two lists of them come to the same bytes."""
    for part in parts:
        found.update(len(part).to_bytes(8, "little") + part)
