"""Compilation: numba with explicit signatures, no GIL, and a cache that cannot serve stale code.

numba's own cache looks at one source file only, so the folder is keyed by a digest of every source file that holds
compiled code, by the host CPU and by the vector unit in use. It is local to the host: home folders may be shared.
What is cached are pickles of code: the folder is this user's alone.
"""

import atexit
import contextlib
import hashlib
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import llvmlite.binding as llvm
import numba
from numba.core import config, sigutils, types

from bptcnn.caches import cache_root, private_folder, require_own_files
from bptcnn.files import sync
from bptcnn.kernels.unit import MATRIX_UNIT, UNIT
from bptcnn.precision import Precision

F = TypeVar("F", bound=Callable[..., Any])
_COMPILED_PACKAGES = ("kernels", "inner", "memory", "profiling")
_FASTMATH = {"reassoc", "contract", "nsz"}  # NaN and infinity stay visible
_STALE_SECONDS = 3 * 86400


@cache
def _cache_key() -> str:
    digest = hashlib.sha256()
    package = Path(__file__).parent.parent
    for name in _COMPILED_PACKAGES:
        for source in sorted((package / name).glob("*.py")):
            digest.update(source.name.encode() + source.read_bytes())
    versions = (numba.__version__, llvm.llvm_version_info, platform.python_version())
    digest.update(
        repr((versions, llvm.get_host_cpu_name(), UNIT, MATRIX_UNIT, platform.node(), os.fspath(package))).encode()
    )
    return digest.hexdigest()[:20]


@cache
def cache_folder() -> Path:
    """Return this host's folder of compiled kernels, created if need be (`BPTCNN_CACHE_DIR` moves it).

    Where that cannot be written, a temporary folder serves this process and those that it starts. Raises UserError
    where others could write into it.
    """
    try:
        folder = _made(cache_root())
    except OSError:
        temporary = tempfile.mkdtemp(prefix="bptcnn-kernels-")
        atexit.register(shutil.rmtree, temporary, ignore_errors=True)
        os.environ["BPTCNN_CACHE_DIR"] = temporary
        folder = _made(Path(temporary))
    _sweep(folder)
    return folder


def _made(root: Path) -> Path:
    folder = private_folder(root, "kernels", _cache_key())
    require_own_files(folder)
    os.utime(folder)  # in use
    if not os.access(folder, os.W_OK):
        raise PermissionError(folder)
    return folder


def _sweep(folder: Path) -> None:
    """Delete caches of other versions that nobody has used for three days."""
    for other in folder.parent.iterdir():
        with contextlib.suppress(OSError):  # another process may sweep too
            if other != folder and time.time() - other.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(other, ignore_errors=True)


def is_warm(precision: Precision = "float32") -> bool:
    """Tell whether an earlier process has compiled all that a precision needs for this version, CPU and vector unit."""
    return (cache_folder() / f"complete-{precision}").exists()


def mark_warm(precision: Precision = "float32") -> None:
    """Record that every kernel that a precision needs is in the cache."""
    folder = cache_folder()
    for file in folder.rglob("*"):  # numba leaves it to chance when they reach the disk, and cannot read torn ones
        with contextlib.suppress(FileNotFoundError):  # another process's temporary file
            sync(file)
    (folder / f"complete-{precision}").touch()
    sync(folder)


@contextmanager
def _cached_here() -> Iterator[None]:
    """numba reads its cache folder when a function is decorated; a user's own numba code keeps its setting."""
    before = config.CACHE_DIR
    config.CACHE_DIR = os.fspath(cache_folder())
    try:
        yield
    finally:
        config.CACHE_DIR = before


def compiled(signature: str, *, exact: bool = False) -> Callable[[F], F]:
    """Compile a function for `signature` now: no GIL, cached, IEEE NaN kept, division by zero as in C.

    `exact`: every operation rounds as it is written; else sums may be reordered and products fused into them.
    """
    fastmath = set() if exact else _FASTMATH

    def decorate(function: F) -> F:
        with _cached_here():
            return numba.njit(
                signature, nogil=True, cache=True, error_model="numpy", fastmath=fastmath, boundscheck=False
            )(function)

    return decorate


def linked(signature: str) -> Callable[[F], Any]:
    """Compile a function for callers that link to it by its name: each caller of a `compiled` one compiles a copy.

    The result can be called from compiled code only.
    """

    def decorate(function: F) -> Any:
        with _cached_here():
            compiled_function = numba.cfunc(signature, cache=True, error_model="numpy", fastmath=_FASTMATH)(function)
        _KEPT.append(compiled_function)
        symbol = f"bptcnn_{function.__name__}"
        llvm.add_symbol(symbol, compiled_function.address)
        parameters, result = sigutils.normalize_signature(signature)
        return types.ExternalFunction(symbol, result(*parameters))

    return decorate


def task_kernel(function: Callable[[int, int, int, int, int], int]) -> int:
    """Compile a task's kernel and return its address.

    The function takes (operation, first, last, part, worker): the address of the operation's record, the range that
    the task covers, the number of the task's partial sum and of the thread that runs it. It returns 0, or a status
    that stops the step: an exception raised in there would be printed and swallowed.
    """
    with _cached_here():
        compiled_function = numba.cfunc(
            "int64(int64, int64, int64, int64, int64)", cache=True, error_model="numpy", fastmath=_FASTMATH
        )(function)
    _KEPT.append(compiled_function)
    return int(compiled_function.address)


_KEPT: list[object] = []  # the addresses stay valid as long as numba's objects live
