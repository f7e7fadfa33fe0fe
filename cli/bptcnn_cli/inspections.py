"""The self-checks, one function each. They change nothing on the machine."""

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from bptcnn.errors import UserError
from bptcnn_cli.output import one_line
from bptcnn_cli.versions import PACKAGES, own_version, package_version

_GB = 10**9
_LITTLE_MEMORY = 1.0  # GB; two nodes on a sample take half of it
_LITTLE_DISK, _NO_DISK = 1.0, 0.1  # GB; a run folder of a large network is some 0.1 GB
_FEW_DESCRIPTORS = 1024  # the usual limit, which does for 64 hosts
_TEMPORARY_BYTES = 1 << 20  # sockets of hosts, and compiled kernels where the cache cannot take them
_OLDEST_PYTHON = (3, 11)


class State(Enum):
    """How a check went."""

    FINE = "ok"
    ADVICE = "note"  # works, could be better
    BROKEN = "broken"


@dataclass(frozen=True)
class Finding:
    """A check's result: what was found, and what to do where that is not fine."""

    state: State
    found: str
    remedy: str = ""


def inspect_all() -> Iterator[tuple[str, Finding]]:
    """Yield each check's name and finding; a check that fails in a way nobody thought of is a finding too."""
    for name, check in _CHECKS.items():
        try:
            yield name, check()
        except UserError as error:
            yield name, Finding(State.BROKEN, one_line(error))
        except Exception as error:
            yield name, Finding(State.BROKEN, f"{type(error).__name__}: {one_line(error)}", "reinstall bptcnn")


def _bptcnn() -> Finding:
    import bptcnn

    return Finding(State.FINE, f"{own_version()}, {Path(str(bptcnn.__file__)).parent}")


def _python() -> Finding:
    found = f"{platform.python_version()}, {sys.executable}"
    if sys.version_info < _OLDEST_PYTHON:
        return Finding(State.BROKEN, found, "use Python 3.11 or later")
    return Finding(State.FINE, found)


def _packages() -> Finding:
    versions = {name: package_version(name) for name in PACKAGES}
    missing = [name for name, version in versions.items() if version is None]
    if missing:
        return Finding(State.BROKEN, f"missing {', '.join(missing)}", f"pip install {' '.join(missing)}")
    return Finding(State.FINE, ", ".join(f"{name} {version}" for name, version in versions.items()))


def _cpu() -> Finding:
    from bptcnn.profiling.host import clock_ghz, cpu_name, microarchitecture

    clock = clock_ghz()
    return Finding(State.FINE, f"{cpu_name()} ({microarchitecture()})" + (f", {clock:.2f} GHz" if clock else ""))


def _vector_unit() -> Finding:
    from bptcnn.profiling import vector_units

    unit, available = vector_units()
    found = f"{unit} (this CPU runs {', '.join(available)})"
    if unit != available[0]:
        return Finding(State.ADVICE, found, "unset BPTCNN_VECTOR_UNIT for the fastest")
    return Finding(State.FINE, found)


def _compile_cache() -> Finding:
    from bptcnn.profiling import compile_cache

    cache = compile_cache()
    access = f"{cache.free / _GB:.1f} GB free" if cache.writable else "can be read and not written"
    found = f"{'warm' if cache.warm else 'cold'}, {cache.folder} ({access})"
    if cache.trouble is not None:
        return Finding(State.ADVICE, f"{found}; {cache.trouble.what}", cache.trouble.remedy)
    if not cache.warm:
        return Finding(State.ADVICE, found, "none: the next command that trains compiles, once")
    return Finding(State.FINE, found)


def _cores() -> Finding:
    from bptcnn.profiling import count_cores

    cores = count_cores()
    quota = "no quota" if cores.quota is None else f"a quota of {cores.quota:g}"
    found = f"{cores.usable} usable: affinity allows {cores.affinity} of {cores.logical}, {quota}"
    return Finding(State.FINE, found)


def _memory() -> Finding:
    from bptcnn.available import limits

    least, *others = limits()
    found = f"{least.free / _GB:.1f} GB available of {least.limit / _GB:.1f} GB{least.what}"
    for other in others:
        found += f"; {other.free / _GB:.1f} GB{other.what or ' on the whole machine'}"
    if least.free < _LITTLE_MEMORY * _GB:
        remedy = "raise that limit" if least.what else "end other programs"
        return Finding(State.ADVICE, found, f"{remedy}, or train with fewer nodes")
    return Finding(State.FINE, found)


def _descriptors() -> Finding:
    from bptcnn.descriptors import descriptor_limits

    soft, hard = descriptor_limits()
    found = f"{soft:,} at once, can be raised to {hard:,}" if hard > soft else f"{soft:,} at once"
    if hard < _FEW_DESCRIPTORS:
        return Finding(State.ADVICE, found, "raise it (ulimit -Hn, or LimitNOFILE of a service), or train on few hosts")
    return Finding(State.FINE, found)


def _shared_memory() -> Finding:
    try:
        os.close(os.memfd_create("bptcnn-check"))
    except (OSError, AttributeError) as error:
        return Finding(State.BROKEN, f"no memfd: {error}", "use Linux 3.17 or later")
    return Finding(State.FINE, "memfd works (/dev/shm is not needed)")


def _locale() -> Finding:
    import locale

    from bptcnn_cli.output import STDOUT
    from bptcnn_cli.utf8 import is_installed, locale_name

    named = locale_name()
    remedy = "export LC_ALL=C.UTF-8"
    if not is_installed():
        return Finding(State.ADVICE, f"{named} is not installed, so that C is taken", remedy)
    here, terminal = locale.getencoding(), STDOUT.encoding
    found = f"{named or 'C, as no variable says another'}: {here}"
    if "utf" not in here.lower():
        return Finding(State.ADVICE, f"{found}; names and files are taken as UTF-8 all the same", remedy)
    if "utf" not in terminal.lower():
        return Finding(State.ADVICE, f"{found}, but output is {terminal}", "unset PYTHONIOENCODING")
    return Finding(State.FINE, found)


def _sample() -> Finding:
    from bptcnn.data import load

    dataset = load()
    found = f"{dataset.name}, intact: {len(dataset.train):,} training and {len(dataset.test):,} test images"
    return Finding(State.FINE, found)


def _profile() -> Finding:
    from bptcnn.profiling import find_profile, usable_cores, user_profile_path
    from bptcnn.profiling.host import cpu_name

    remedy = "run bptcnn profile"
    try:
        profile = find_profile()
    except UserError as error:
        return Finding(State.BROKEN, one_line(error), remedy)
    if profile is None:
        return Finding(State.ADVICE, "none of this host yet", f"{remedy}, for a better first allocation")
    networks = ", ".join(sorted({entry.name for entry in profile.network})) or "no network"
    place = user_profile_path() if user_profile_path().exists() else "packaged"
    if (profile.host.cpu, profile.host.cores) != (cpu_name(), usable_cores()):
        return Finding(State.ADVICE, f"{place}: of another CPU or number of cores", remedy)
    return Finding(State.FINE, f"{place}: {networks}")


def _disk() -> Finding:
    try:
        folder = Path.cwd()
        free = shutil.disk_usage(folder).free / _GB
    except OSError as error:
        return Finding(State.BROKEN, f"the current folder: {error.strerror or error}", "cd to a folder that is there")
    found = f"{free:.1f} GB free in {folder}"
    if not os.access(folder, os.W_OK):
        return Finding(State.ADVICE, f"{folder} is not writable", "train with --run-dir elsewhere")
    if free < _LITTLE_DISK:
        state = State.BROKEN if free < _NO_DISK else State.ADVICE
        return Finding(state, found, "make room, or train with --run-dir elsewhere")
    return Finding(State.FINE, found)


def _temporary_folder() -> Finding:
    from bptcnn.cache_layers import temporary_folder

    folder, remedy = temporary_folder(), "set TMPDIR to a folder of yours with some space"
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            os.posix_fallocate(file.fileno(), 0, _TEMPORARY_BYTES)
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return Finding(State.ADVICE, f"{folder} takes no files: {(error.strerror or str(error)).lower()}", remedy)
    return Finding(State.FINE, f"{free / _GB:.1f} GB free in {folder}")


_CHECKS: dict[str, Callable[[], Finding]] = {
    "bptcnn": _bptcnn,
    "Python": _python,
    "packages": _packages,
    "CPU": _cpu,
    "vector unit": _vector_unit,
    "compile cache": _compile_cache,
    "cores": _cores,
    "memory": _memory,
    "shared memory": _shared_memory,
    "descriptors": _descriptors,
    "locale": _locale,
    "embedded sample": _sample,
    "profile": _profile,
    "disk": _disk,
    "temporary folder": _temporary_folder,
}
