"""Threads that start, or one line that says why they cannot."""

import contextlib
import threading
from collections.abc import Iterator

from bptcnn.errors import UserError

_LIMIT = "can't start new thread"  # Python's words, whatever the system's limit


@contextlib.contextmanager
def starting_threads() -> Iterator[None]:
    """Raise UserError where a thread cannot be started in here: the user's or the control group's limit is reached."""
    try:
        yield
    except RuntimeError as error:
        if _LIMIT not in str(error):
            raise
        remedy = "raise the limit of processes (ulimit -u, or pids.max of the control group) or use fewer nodes"
        raise UserError(f"{_LIMIT}: {remedy}") from None


def start_thread(thread: threading.Thread) -> None:
    """Start a thread; raise UserError where the system does not let us."""
    with starting_threads():
        thread.start()
