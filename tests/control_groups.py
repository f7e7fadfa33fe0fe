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
        deadline = time.monotonic() + EMPTYING_SECONDS
        while True:
            try:
                group.rmdir()
                break
            except OSError:  # the last process is still leaving
                assert time.monotonic() < deadline, f"{group} is not empty"
                time.sleep(0.01)


def run_in(words: Sequence[str], command: Sequence[str], **how: object) -> "subprocess.CompletedProcess[str]":
    """Run a program in a group to its end."""
    return subprocess.run(  # type: ignore[call-overload, no-any-return]
        [*words, *command], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, timeout=300, **how
    )
