"""How much memory can still be had, control groups included."""

import os
from pathlib import Path

import psutil

from bptcnn.errors import UserError


def available_bytes() -> int:
    """Return how many bytes this process can still allocate without swapping or meeting its cgroup's limit."""
    return min([int(psutil.virtual_memory().available), *_cgroup_headrooms()])


def require_available(size: int, what: str, remedy: str) -> None:
    """Raise UserError where fewer than `size` bytes can be had; `what` says who needs them."""
    available = available_bytes()
    if size > available:
        raise UserError(f"too little memory: {what}, {available / 1e6:,.0f} MB are free; {remedy}")


def _cgroup_headrooms() -> list[int]:
    """Return limit minus use, file cache not counted, for this process's memory cgroup and those above it."""
    headrooms = []
    for line in Path("/proc/self/cgroup").read_text().splitlines() if os.path.exists("/proc/self/cgroup") else []:
        _, controllers, path = line.split(":", 2)
        if controllers == "":  # version 2
            root, limit, use, prefix = Path("/sys/fs/cgroup"), "memory.max", "memory.current", ""
        elif "memory" in controllers.split(","):
            root, limit, use = Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes"
            prefix = "total_"
        else:
            continue
        folder = root / path.lstrip("/")
        while True:
            headroom = _headroom(folder / limit, folder / use, folder / "memory.stat", prefix)
            if headroom is not None:
                headrooms.append(headroom)
            if folder == root or root not in folder.parents:
                break
            folder = folder.parent
    return headrooms


def _headroom(limit: Path, use: Path, stat: Path, prefix: str) -> int | None:
    try:
        allowed = limit.read_text().strip()
        if allowed == "max":
            return None
        fields = dict(line.split() for line in stat.read_text().splitlines())
        cache = int(fields.get(prefix + "inactive_file", 0)) + int(fields.get(prefix + "active_file", 0))
        return max(0, int(allowed) - int(use.read_text()) + cache)
    except (OSError, ValueError):
        return None
