"""What a process has: threads, child processes, descriptors, shared memory; and what of it was not there before."""

import gc
import multiprocessing.resource_tracker
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil

CLOSING_SECONDS = 5.0  # what a test has closed may take this long to be gone
SHARED_MEMORY = Path("/dev/shm")
SHARED_NAMES = ("bptcnn", "psm_", "sem.mp", "pymp")  # ours and multiprocessing's: other programs have segments too


def _threads() -> frozenset[str]:
    return frozenset(f"{thread.name} ({thread.ident})" for thread in threading.enumerate())


def _children() -> frozenset[str]:
    found = set()
    for child in psutil.Process().children(recursive=True):
        try:
            command = " ".join(child.cmdline())
        except psutil.NoSuchProcess:
            continue
        except psutil.Error:
            command = "?"
        if "multiprocessing.resource_tracker" not in command:  # lives as long as the interpreter
            found.add(f"{child.pid}: {command or 'a zombie: nobody waited for it'}")
    return frozenset(found)


def _descriptors() -> frozenset[str]:
    tracker = getattr(multiprocessing.resource_tracker, "_resource_tracker", None)
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except OSError:  # the listing's own
            continue
        if int(name) != getattr(tracker, "_fd", None):
            found.add(f"{name} -> {target}")
    return frozenset(found)


def _shared() -> frozenset[str]:
    if not SHARED_MEMORY.is_dir():
        return frozenset()
    return frozenset(name for name in os.listdir(SHARED_MEMORY) if name.startswith(SHARED_NAMES))


KINDS: dict[str, Callable[[], frozenset[str]]] = {
    "threads": _threads,
    "child processes": _children,
    "file descriptors": _descriptors,
    "shared memory": _shared,
}


def left_over(before: dict[str, frozenset[str]]) -> dict[str, frozenset[str]]:
    """Return what is there now and was not before, by kind; what is about to close gets a little time."""
    left = {kind: look() - before[kind] for kind, look in KINDS.items()}
    if any(left.values()):
        gc.collect()
    deadline = time.monotonic() + CLOSING_SECONDS
    while any(left.values()) and time.monotonic() < deadline:
        time.sleep(0.01)
        left = {kind: look() - before[kind] for kind, look in KINDS.items()}
    return {kind: found for kind, found in left.items() if found}
