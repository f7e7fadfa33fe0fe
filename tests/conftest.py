"""Every test leaves the process as it found it: no new threads, child processes, descriptors or shared memory.

Warnings are errors (`filterwarnings` in pyproject.toml). Property tests take their number of examples from the profile
in use: "default", "ci" (where CI is set; the same examples each time), or "brief" (--hypothesis-profile=brief).
Where examples are cheap and shapes many, a test takes a multiple of that: `settings().max_examples`.
"""

import faulthandler
import gc
import multiprocessing.resource_tracker
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from hypothesis import HealthCheck, settings

SLOW_IS_FINE = [HealthCheck.too_slow, HealthCheck.data_too_large]

settings.register_profile("default", deadline=None, max_examples=50, suppress_health_check=SLOW_IS_FINE)
settings.register_profile(
    "ci", settings.get_profile("default"), derandomize=True, database=None, print_blob=True, max_examples=100
)
settings.register_profile("brief", settings.get_profile("default"), derandomize=True, database=None, max_examples=6)
settings.load_profile("ci" if os.environ.get("CI") else "default")

CLOSING_SECONDS = 5.0  # what a test has closed may take this long to be gone
SHARED_MEMORY = Path("/dev/shm")
SHARED_NAMES = ("bptcnn", "psm_", "sem.mp", "pymp")  # ours and multiprocessing's: other programs have segments too


def pytest_configure(config: pytest.Config) -> None:
    """Tracebacks of crashes, and signals that have their effect, here and in the processes that tests start."""
    if not faulthandler.is_enabled():
        faulthandler.enable()
    os.environ["PYTHONFAULTHANDLER"] = "1"
    # tests interrupt programs, which inherit what is ignored here: SIGINT in a shell's background, SIGHUP under nohup
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


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


@pytest.fixture(autouse=True)
def leaves_nothing_behind() -> Iterator[None]:
    """Fail the test that leaves a thread, a child process, a descriptor or named shared memory behind."""
    before = {kind: look() for kind, look in KINDS.items()}
    yield
    left = left_over(before)
    if left:
        lines = [f"{kind}: {', '.join(sorted(found))}" for kind, found in left.items()]
        pytest.fail("left behind: " + "; ".join(lines), pytrace=False)
