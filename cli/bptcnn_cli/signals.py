"""SIGTERM and a terminal that goes away act as Ctrl-C does: one KeyboardInterrupt in the main thread.

While the program cleans up, more of them are ignored: a second Ctrl-C must not cut the clean-up short. If it takes
longer than any clean-up of ours may, they count again.
"""

import signal
import time
from types import FrameType

_CLEANUP_SECONDS = 15.0  # stopping nodes and saving take a few seconds, each wait with a deadline of its own
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def ignore_signals() -> None:
    """The program has done everything: a signal must not change the exit code while the interpreter ends."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def stop_on_signals() -> None:
    """Install the handlers; signals that whoever started us has set to be ignored stay so (nohup, background jobs)."""
    deaf_until = 0.0

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal deaf_until
        now = time.monotonic()
        if now >= deaf_until:
            deaf_until = now + _CLEANUP_SECONDS
            raise KeyboardInterrupt

    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, interrupt)
