"""SIGTERM and a terminal that goes away act as Ctrl-C does: one KeyboardInterrupt in the main thread.

While the program cleans up, more of them are ignored: a second Ctrl-C must not cut the clean-up short. If it takes
longer than any clean-up of ours may, they count again.

Ctrl-Z (SIGTSTP) stops the process once everybody who takes part has stood still: the display gives the terminal back,
a run stops its nodes. They go on when it does.
"""

import signal
import time
from types import FrameType

from bptcnn.standing_still import standing_still

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
    if signal.getsignal(signal.SIGTSTP) is not signal.SIG_IGN:
        signal.signal(signal.SIGTSTP, _stand_still)


def _stand_still(number: int, frame: FrameType | None) -> None:
    """Be stopped as the signal does by itself: the shell gets its prompt, and here it goes on after SIGCONT."""
    with standing_still():
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        try:
            signal.raise_signal(signal.SIGTSTP)  # to this very thread: it is stopped before this returns
        finally:
            signal.signal(signal.SIGTSTP, _stand_still)
