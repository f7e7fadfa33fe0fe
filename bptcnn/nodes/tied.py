"""Processes that the system kills (SIGKILL) with their parent: also those that are stopped or blocked notice its end.

To the system the parent is the *thread* that starts the process: it must outlive it. What starts nodes is the thread
that the run is in, those that join or come back later included.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1
_TIED = """\
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() == int(sys.argv[1]):
    os.execvp(sys.argv[2], sys.argv[2:])
"""  # the tie outlives the exec; between fork and exec Python itself can run no code while there are threads


def tied(command: Sequence[str]) -> list[str]:
    """Return the command line that runs `command`, tied to the calling process before anything of it runs."""
    return [sys.executable, "-I", "-S", "-c", _TIED, str(os.getpid()), *command]


def tie() -> None:
    """Tie this process to the one that started it."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
