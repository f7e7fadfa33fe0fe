"""Network namespaces whose names say who owns them; what dead owners have left is swept."""

import itertools
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from cpu_groups import CpuGroup, group_names

NAMED = Path("/run/netns")
PREFIX = "bptcnn-hosts"
DYING_SECONDS = 20.0  # what has been killed is gone by then, on a busy machine too
_counter = itertools.count()


def unique() -> str:
    """Return a name that no other living or dead owner has: process, its start, a counter."""
    return f"{PREFIX}-{os.getpid()}-{_started(os.getpid())}-{next(_counter)}"


def path(name: str) -> Path:
    """Where nsenter finds a namespace."""
    return NAMED / name


def ip(*lines: str, namespace: str | None = None) -> None:
    """Run commands of ip(8) in a namespace, or in this one."""
    where = [] if namespace is None else ["-n", namespace]
    ran = subprocess.run(["ip", *where, "-batch", "-"], input="\n".join(lines) + "\n", text=True, capture_output=True)
    if ran.returncode != 0:
        raise RuntimeError(f"ip, {lines}: {ran.stderr.strip()}")


def create(names: Iterable[str]) -> None:
    """Make namespaces with a loopback device; other devices will speak IPv4 alone.

    TCP's congestion control is the machine's: a namespace may not choose another.
    """
    names = list(names)
    ip(*(f"netns add {name}" for name in names))
    script = """
        ip link set lo up
        [ ! -e /proc/sys/net/ipv6 ] || echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6
    """
    for name in names:
        subprocess.run(["nsenter", f"--net={path(name)}", "sh", "-ec", script], check=True)


def delete(name: str) -> None:
    """Kill what lives in a namespace, and remove it; it may be gone already."""
    kill_all(lambda: _inside(name))
    if path(name).exists():
        ran = subprocess.run(["ip", "netns", "del", name], capture_output=True, text=True)
        if path(name).exists():
            raise RuntimeError(f"namespace {name} cannot be removed: {ran.stderr.strip()}")


def kill_all(find: Callable[[], list[int]]) -> None:
    """SIGKILL the processes found until there are none."""
    deadline = time.monotonic() + DYING_SECONDS
    while found := find():
        for pid in found:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        if time.monotonic() > deadline:
            raise RuntimeError(f"processes {found} do not die")
        time.sleep(0.002)


def sweep() -> None:
    """Remove the namespaces and CPU groups of owners that are gone."""
    if NAMED.is_dir():
        for name in os.listdir(NAMED):
            if _abandoned(name):
                delete(name)
    for name in group_names():
        if _abandoned(name):
            group = CpuGroup(name)
            kill_all(group.pids)
            group.remove()


def _inside(name: str) -> list[int]:
    """Return the processes in a namespace; zombies are in none."""
    try:
        wanted = path(name).stat()
    except FileNotFoundError:
        return []
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            theirs = os.stat(f"/proc/{pid}/ns/net")
        except OSError:  # it has just ended
            continue
        if (theirs.st_dev, theirs.st_ino) == (wanted.st_dev, wanted.st_ino):
            found.append(int(pid))
    return found


def _abandoned(name: str) -> bool:
    if not name.startswith(PREFIX + "-"):
        return False
    pid, started, *_ = name.removeprefix(PREFIX + "-").split("-")
    return _started(int(pid)) != int(started)


def _started(pid: int) -> int | None:
    """Return when a process started, in clock ticks since the machine did; None if there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(stat.rpartition(")")[2].split()[19])
