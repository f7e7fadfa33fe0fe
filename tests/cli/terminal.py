"""A shell with job control on a terminal of its own, and what is typed there and shown."""

import os
import pty
import select
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from programs import TIMEOUT_SECONDS, environment

PROMPT = "ready> "


class Shell:
    """An interactive bash: `shown` is all that it and its programs have written."""

    def __init__(self, terminal: int) -> None:
        self._terminal = terminal
        self.shown = ""

    def type(self, text: str) -> int:
        """Type it; return where in `shown` what follows begins."""
        begin = len(self.shown)
        os.write(self._terminal, text.encode())
        return begin

    def read_until(self, wanted: str, begin: int = 0) -> None:
        """Read until this is shown behind `begin`."""
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while wanted not in self.shown[begin:]:
            assert time.monotonic() < deadline, f"no {wanted!r} in {self.shown[begin:]!r}"
            self.read(0.5)

    def read(self, seconds: float) -> None:
        """Read what is there, or comes so soon."""
        if select.select([self._terminal], [], [], seconds)[0]:
            self.shown += os.read(self._terminal, 65536).decode(errors="replace")

    @property
    def cursor_is_shown(self) -> bool:
        return self.shown.rfind("\x1b[?25h") >= self.shown.rfind("\x1b[?25l")


@contextmanager
def shell(folder: Path) -> Iterator[Shell]:
    """Start one in `folder`, and end it with all of its jobs."""
    ours, theirs = pty.openpty()
    environ = {**environment(), "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "24", "PS1": PROMPT}
    command = ["setsid", "--ctty", "bash", "--norc", "--noprofile", "--noediting", "-i"]
    process = subprocess.Popen(command, cwd=folder, env=environ, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    try:
        made = Shell(ours)
        made.read_until(PROMPT)
        yield made
    finally:
        os.close(ours)  # the terminal is gone: SIGHUP to all
        try:
            process.wait(TIMEOUT_SECONDS)
        finally:
            process.kill()
            process.wait()
