"""The end of a process that we have started, also of one that the system cannot end now.

Guarantee: a killed process runs no instruction of its own any more. Each of its threads that runs is interrupted by the
signal, and one that is in the kernel dies before it comes back from there. So it cannot merge, and its place in shared
memory is free for another one, whether it could be reaped or not.

It cannot be reaped while the kernel waits in its name: for a disk or a file server that does not answer, or because its
control group is frozen. Nobody waits for that.
"""

import contextlib
import subprocess
import threading
import time
from typing import Any

from bptcnn.errors import UserError
from bptcnn.threads import start_thread

KILL_SECONDS = 2.0  # what a process may take to end once it is killed: the memory of a large one is freed meanwhile
_LEAST_SECONDS = 0.2


def reaped(process: "subprocess.Popen[Any]", limit: float | None = None) -> bool:
    """Return whether a process that was killed has ended by `limit` (monotonic; None: in KILL_SECONDS from now).

    It gets _LEAST_SECONDS at any rate. If it has not, a thread reaps it whenever it ends.
    """
    now = time.monotonic()
    try:
        process.wait(KILL_SECONDS if limit is None else max(_LEAST_SECONDS, limit - now))
    except subprocess.TimeoutExpired:
        with contextlib.suppress(UserError):  # no thread can be had: it is reaped when we end
            start_thread(threading.Thread(target=process.wait, daemon=True, name=f"end of process {process.pid}"))
        return False
    return True


def unended(pid: int) -> str:
    """Return what to say of a process that could not be reaped."""
    return f"its process {pid} cannot be ended now: it waits for a disk, or its control group is frozen"
