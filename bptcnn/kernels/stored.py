"""Compiled functions in the cache: a file each, which is read whole and intact or not at all.

    <module>.<function>-<digest of signature, CPU, code and closure>      SHA-256 of what follows, then numba's pickle

numba's own cache insists on a folder that it can write, and looks for another one, beside the sources, where it cannot.
"""

import hashlib
import pickle
from collections.abc import Callable
from typing import Any

from numba.core.compiler import CompileResult
from numba.core.serialize import dumps

from bptcnn.cache_layers import CacheLayers
from bptcnn.files import replace_file

_DIGEST_BYTES = 32


class StoredFunction:
    """What numba asks, as its `_Cache`, before it compiles a function, and tells afterwards."""

    def __init__(self, function: Callable[..., Any], layers: CacheLayers, used: set[str]) -> None:
        """The names of the files that are read or written are added to `used`."""
        self._function, self._layers, self._used = function, layers, used

    def load_overload(self, signature: Any, target: Any) -> Any:
        """Return numba's CompileResult, or None where there is no intact file."""
        target.refresh()
        name = self._name(signature, target.codegen())
        for folder in self._layers.folders:
            try:
                content = (folder / name).read_bytes()
            except OSError:
                continue
            digest, pickled = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
            if hashlib.sha256(pickled).digest() == digest:
                self._used.add(name)
                return CompileResult._rebuild(target, *pickle.loads(pickled))
        return None

    def save_overload(self, signature: Any, result: Any) -> None:
        """Store a CompileResult; raise UserError where no folder takes it."""
        name, pickled = self._name(signature, result.codegen), dumps(result._reduce())
        content = hashlib.sha256(pickled).digest() + pickled
        self._layers.store(lambda folder: replace_file(folder / name, content))
        self._used.add(name)

    def _name(self, signature: Any, codegen: Any) -> str:
        """Return the file's name; the sources themselves are in the folder's."""
        function = self._function
        cells = dumps(tuple(cell.cell_contents for cell in function.__closure__ or ()))
        key = repr((signature, codegen.magic_tuple(), function.__code__.co_firstlineno)).encode()
        digest = hashlib.sha256(b"\0".join((key, function.__code__.co_code, cells))).hexdigest()
        return f"{function.__module__.rpartition('.')[2]}.{function.__name__}-{digest[:20]}"
