"""How much memory can still be had, and what allows no more: the machine, control groups, or the process's own limits.

    machine        what the system can give without swapping        all processes together
    control group  limit minus use, this one's or one above it      all processes in it
    process        ulimit -v and -d (RLIMIT_AS, RLIMIT_DATA)        each process by itself

One place reads them all; `checks`, the preflight of hosts, and whoever allocates ask it.
"""

import contextlib
import os
import resource
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from bptcnn.errors import UserError
from bptcnn.files import kernel_text

_CGROUPS, _OWN_GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
_NO_LIMIT = 1 << 60  # bytes: version 1 says "none" by a number beyond all memory


@dataclass(frozen=True)
class Headroom:
    """Bytes that can still be had, and why not more; `limit` is all there is."""

    free: int
    limit: int
    what: str


def available_bytes() -> int:
    """Return how many bytes this process can still allocate without swapping or meeting a limit."""
    return tightest().free


def tightest(shared: bool = False) -> Headroom:
    """Return what allows least: for this process, or (`shared`) for it and those that it starts together."""
    found = [_machine(), *_control_groups()]
    if not shared:
        found += _own_limits()
    return min(found, key=lambda headroom: headroom.free)


def limits() -> list[Headroom]:
    """Return all that limits this process, what allows least first."""
    return sorted([_machine(), *_control_groups(), *_own_limits()], key=lambda headroom: headroom.free)


def require_available(size: int, what: str, remedy: str, shared: bool = False) -> None:
    """Raise UserError where fewer than `size` bytes can be had, see `tightest`; `what` says who needs them."""
    least = tightest(shared)
    if size > least.free:
        raise UserError(f"too little memory: {what}, {least.free / 1e6:,.0f} MB are free{least.what}; {remedy}")


def require_for_each(size: int, what: str, remedy: str) -> None:
    """Raise UserError where a process such as this one, which has our libraries, may not allocate `size` bytes more."""
    own = _own_limits()
    least = min(own, key=lambda headroom: headroom.free, default=None)
    if least is not None and size > least.free:
        raise UserError(f"too little memory: {what}, {least.free / 1e6:,.0f} MB are free{least.what}; {remedy}")


def oom_kills() -> int:
    """Return how many processes the system has killed for want of memory: in our control group, or else anywhere.

    To be compared with what it was before.
    """
    for folder, version in _folders():  # the innermost one first: its count has those that the machine's want killed
        count = _fields(folder / ("memory.events" if version == 2 else "memory.oom_control")).get("oom_kill")
        if count is not None:
            return count
    return _fields(Path("/proc/vmstat")).get("oom_kill", 0)


class OutOfMemory:
    """Watches from its making on whether the system kills for want of memory, in our control group if there is one."""

    def __init__(self) -> None:
        self._kills, self._hits = oom_kills(), _hits()

    def cause(self) -> str | None:
        """Return which limit was met, for a message; None where nothing was killed for it."""
        if oom_kills() <= self._kills:
            return None
        now = _hits()
        for folder, version in _folders():  # the innermost one first
            headroom = _headroom(folder, version)
            if headroom is not None and now.get(folder, 0) > self._hits.get(folder, 0):
                return f"limit {headroom.limit / 1e6:,.0f} MB of the control group {folder}"
        return f"the machine has {_machine().limit / 1e6:,.0f} MB"


def _hits() -> Mapping[Path, int]:
    """How often each of the groups has met its own limit."""
    found = {}
    for folder, version in _folders():
        if version == 2:
            found[folder] = _fields(folder / "memory.events").get("oom", 0)
        else:
            with contextlib.suppress(OSError, ValueError):  # it is gone, or hidden
                found[folder] = int(kernel_text(folder / "memory.failcnt"))
    return found


def _machine() -> Headroom:
    memory = psutil.virtual_memory()
    return Headroom(int(memory.available), int(memory.total), "")


def _own_limits() -> list[Headroom]:
    """What this process's own limits leave it; a child inherits them and begins anew."""
    status = _fields(Path("/proc/self/status"))
    found = []
    for name, kind, used in (("-v", resource.RLIMIT_AS, "VmSize"), ("-d", resource.RLIMIT_DATA, "VmData")):
        limit = resource.getrlimit(kind)[0]
        if limit != resource.RLIM_INFINITY:
            free = max(0, limit - 1024 * status.get(used, 0))
            found.append(Headroom(free, limit, f" under ulimit {name} {limit // 1024}"))
    return found


def _control_groups() -> list[Headroom]:
    """Return what each control group with a limit on memory leaves, this process's and all above it."""
    found = []
    for folder, version in _folders():
        headroom = _headroom(folder, version)
        if headroom is not None:
            found.append(headroom)
    return found


def _folders() -> Iterator[tuple[Path, int]]:
    """Yield this process's memory control group and those above it, as far as they can be seen, and their version.

    In a container a group's own path may be hidden: then its mount is the group, and it is what comes last.
    """
    try:
        lines = kernel_text(_OWN_GROUPS).splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            version, root = 2, _CGROUPS if (_CGROUPS / "cgroup.controllers").exists() else _CGROUPS / "unified"
        elif "memory" in controllers.split(","):
            version, root = 1, _CGROUPS / "memory"
        else:
            continue
        folder = Path(os.path.normpath(root / path.lstrip("/")))
        if root != folder and root not in folder.parents:  # it lies outside of what this namespace sees
            folder = root
        while folder != root:
            yield folder, version
            folder = folder.parent
        yield root, version


def _headroom(folder: Path, version: int) -> Headroom | None:
    """Return what a group leaves: limit minus use, where file cache, which can be had back, counts as free."""
    prefix = "" if version == 2 else "total_"
    limits = ("memory.max", "memory.high") if version == 2 else ("memory.limit_in_bytes",)
    use = "memory.current" if version == 2 else "memory.usage_in_bytes"
    try:
        stat = _fields(folder / "memory.stat")
        allowed = [limit for name in limits if (limit := _number(folder / name)) is not None]
        if version == 1:  # that of a group above it which may be hidden
            allowed.append(stat.get("hierarchical_memory_limit", _NO_LIMIT))
        limit = min(allowed, default=_NO_LIMIT)
        if limit >= _NO_LIMIT:
            return None
        cached = sum(stat.get(prefix + name, 0) for name in ("inactive_file", "active_file"))
        cached += stat.get("slab_reclaimable", 0)
        free = max(0, limit - int(kernel_text(folder / use)) + cached)
    except (OSError, ValueError):  # the root has no limit, and others no such files
        return None
    return Headroom(free, limit, f" in the control group {folder}, whose limit is {limit / 1e6:,.0f} MB")


def _number(path: Path) -> int | None:
    text = kernel_text(path).strip() if path.exists() else "max"
    return None if text == "max" else int(text)


def _fields(path: Path) -> Mapping[str, int]:
    """Read lines of a name and a whole number; nothing where there is no such file."""
    found: dict[str, int] = {}
    try:
        lines = kernel_text(path).splitlines()
    except OSError:
        return found
    for line in lines:
        name, *rest = line.replace(":", " ").split() or [""]
        if rest and rest[0].isdecimal():
            found[name] = int(rest[0])
    return found
