"""Control groups with a limit on memory or on processes, of version 1 or 2, for programs that are started in them."""

import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

MOUNTS = Path("/sys/fs/cgroup")
EMPTYING_SECONDS = 20.0
JOIN = 'echo $$ > "$0" && exec "$@"'
FILES = {  # of a limit: in version 1, in version 2
    "memory": ("memory.limit_in_bytes", "memory.max"),
    "pids": ("pids.max", "pids.max"),
}


@contextmanager
def control_group(controller: str, limit: int, name: str) -> Iterator[list[str]]:
    """Make a group whose name begins so; yield the words that run a program in it. Skips where none can be made."""
    first = (MOUNTS / controller).is_dir()
    group = (MOUNTS / controller if first else MOUNTS) / f"{name}-{os.getpid()}"
    try:
        if not first:
            (MOUNTS / "cgroup.subtree_control").write_text(f"+{controller}")
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    try:
        try:
            (group / FILES[controller][0 if first else 1]).write_text(str(limit))
        except OSError as error:
            pytest.skip(f"no limit can be set on a control group here: {error}")
        yield ["sh", "-c", JOIN, str(group / "cgroup.procs")]
    finally:
        remove(group)


class Freezer:
    """A control group of version 1 whose processes stand still in the kernel: SIGKILL does not end them."""

    def __init__(self, group: Path) -> None:
        self._group = group

    def freeze(self, pid: int) -> None:
        """Put a process in, with all of its threads, and wait until it stands still."""
        (self._group / "cgroup.procs").write_text(str(pid))
        self._turn("FROZEN")

    def thaw(self) -> None:
        """Let all go on."""
        self._turn("THAWED")

    def _turn(self, state: str) -> None:
        (self._group / "freezer.state").write_text(state)
        deadline = time.monotonic() + EMPTYING_SECONDS
        while (self._group / "freezer.state").read_text().strip() != state:
            assert time.monotonic() < deadline, f"{self._group} is not {state}"
            time.sleep(0.01)


@contextmanager
def freezer(name: str) -> Iterator[Freezer]:
    """Make a group that can be frozen; skips where there is none of version 1 (version 2's lets SIGKILL through)."""
    group = MOUNTS / "freezer" / f"{name}-{os.getpid()}"
    if not group.parent.is_dir():
        pytest.skip("there is no freezer control group of version 1 here")
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    made = Freezer(group)
    try:
        yield made
    finally:
        made.thaw()
        remove(group)


def remove(group: Path) -> None:
    """Remove a group once its last process has left."""
    deadline = time.monotonic() + EMPTYING_SECONDS
    while True:
        try:
            group.rmdir()
            break
        except OSError:
            assert time.monotonic() < deadline, f"{group} is not empty"
            time.sleep(0.01)


def run_in(words: Sequence[str], command: Sequence[str], **how: object) -> "subprocess.CompletedProcess[str]":
    """Run a program in a group to its end."""
    return subprocess.run(  # type: ignore[call-overload, no-any-return]
        [*words, *command], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, timeout=300, **how
    )
