"""Compilation: numba with explicit signatures and settings, no GIL, and a cache that cannot serve stale code.

The cache's folders are keyed by a digest of every source file that holds compiled code, by the host CPU and by the
vector unit in use. They are local to the host: home folders may be shared. What is cached are pickles of code: the
folders are this user's alone.
"""

import contextlib
import hashlib
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import llvmlite.binding as llvm
import numba
from numba.core import config, sigutils, types
from numba.core.ccallback import CFunc

from bptcnn.cache_layers import CacheLayers
from bptcnn.files import replace_file
from bptcnn.kernels.stored import StoredFunction
from bptcnn.kernels.unit import MATRIX_UNIT, UNIT
from bptcnn.precision import Precision

F = TypeVar("F", bound=Callable[..., Any])
_COMPILED_PACKAGES = ("kernels", "inner", "memory", "profiling")
_FASTMATH = {"reassoc", "contract", "nsz"}  # NaN and infinity stay visible
_STALE_SECONDS = 3 * 86400
KERNEL_BYTES = 16 << 20  # that all compiled kernels take in the cache: 8 MB with those of bf16


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
def kernel_cache() -> CacheLayers:
    """Return this host's folders of compiled kernels.

    Raises UserError where others could write into the user's.
    """
    layers = CacheLayers("kernels", _cache_key())
    for folder in layers.folders:
        with contextlib.suppress(OSError):  # it may be read only
            os.utime(folder)  # in use
            _sweep(folder)
    return layers


def _sweep(folder: Path) -> None:
    """Delete caches of other versions that nobody has used for three days."""
    for other in folder.parent.iterdir():
        with contextlib.suppress(OSError):  # another process may sweep too
            if other != folder and time.time() - other.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(other, ignore_errors=True)


def is_warm(precision: Precision = "float32") -> bool:
    """Tell whether an earlier process has compiled all that a precision needs for this version, CPU and vector unit."""
    return warm_folder(precision) is not None


def warm_folder(precision: Precision = "float32") -> Path | None:
    """Return the first folder where a process has noted that it has compiled all, if all that it noted is there."""
    layers = kernel_cache()
    for folder in layers.folders:
        mark = folder / _mark(precision)
        try:
            names = mark.read_text(encoding="utf-8").splitlines()
        except OSError:  # it is not there, or swept meanwhile
            continue
        if all(map(layers.find, names)):
            return folder
    return None


def mark_warm(precision: Precision = "float32") -> None:
    """Record that every kernel that a precision needs is in the cache; raise UserError where that cannot be written."""
    if not is_warm(precision):
        names = "\n".join(sorted(_used)).encode()
        kernel_cache().store(lambda folder: replace_file(folder / _mark(precision), names))


def _mark(precision: Precision) -> str:
    return f"complete-{precision}"


def _defaults() -> dict[str, Any]:
    """Return numba's settings as they are by default.

    It reads its variables, and a file in the current folder, before each compilation: meant for other programs, and
    what they change would stay in the cache.
    """
    before = _settings()
    try:
        config._env_reloader.process_environ({"NUMBA_NUM_THREADS": str(config.NUMBA_NUM_THREADS)})
        return {**_settings(), "reload_config": lambda: None}
    finally:
        vars(config).update(before)


def _settings() -> dict[str, Any]:
    return {name: value for name, value in vars(config).items() if name.isupper()}


@contextmanager
def _own_settings() -> Iterator[None]:
    """Within, numba has its defaults; a user's own numba code keeps the user's."""
    before = {name: vars(config)[name] for name in _DEFAULTS}
    vars(config).update(_DEFAULTS)
    try:
        yield
    finally:
        vars(config).update(before)


_DEFAULTS = _defaults()
_used: set[str] = set()  # files of the cache that this process has read or written


def compiled(signature: str, *, exact: bool = False) -> Callable[[F], F]:
    """Compile a function for `signature` now: no GIL, cached, IEEE NaN kept, division by zero as in C.

    `exact`: every operation rounds as it is written; else sums may be reordered and products fused into them.
    """
    fastmath = set() if exact else _FASTMATH

    def decorate(function: F) -> F:
        with _own_settings():
            dispatcher = numba.njit(nogil=True, error_model="numpy", fastmath=fastmath, boundscheck=False)(function)
            dispatcher._cache = StoredFunction(function, kernel_cache(), _used)
            dispatcher.compile(signature)
            dispatcher.disable_compile()
        return dispatcher

    return decorate


def linked(signature: str) -> Callable[[F], Any]:
    """Compile a function for callers that link to it by its name: each caller of a `compiled` one compiles a copy.

    The result can be called from compiled code only.
    """

    def decorate(function: F) -> Any:
        symbol = f"bptcnn_{function.__name__}"
        llvm.add_symbol(symbol, _address(signature, function))
        parameters, result = sigutils.normalize_signature(signature)
        return types.ExternalFunction(symbol, result(*parameters))

    return decorate


def task_kernel(function: Callable[[int, int, int, int, int], int]) -> int:
    """Compile a task's kernel and return its address.

    The function takes (operation, first, last, part, worker): the address of the operation's record, the range that
    the task covers, the number of the task's partial sum and of the thread that runs it. It returns 0, or a status
    that stops the step: an exception raised in there would be printed and swallowed.
    """
    return _address("int64(int64, int64, int64, int64, int64)", function)


def _address(signature: str, function: Callable[..., Any]) -> int:
    """Compile a function as C calls it, and return its address."""
    with _own_settings():
        options = {"error_model": "numpy", "fastmath": _FASTMATH}
        made: Any = CFunc(function, sigutils.normalize_signature(signature), locals={}, options=options)
        made._cache = StoredFunction(function, kernel_cache(), _used)
        made.compile()
    _KEPT.append(made)
    return int(made.address)


_KEPT: list[object] = []  # the addresses stay valid as long as numba's objects live
