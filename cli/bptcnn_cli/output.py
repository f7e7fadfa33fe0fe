"""What the commands print: results on standard output, one line for an error on standard error.

A reader that goes away (`| head`) or a disk that is full does not stop what runs: the rest of the output is dropped.
"""

import contextlib
import os
import sys
from typing import IO, TYPE_CHECKING, cast

if TYPE_CHECKING:
    from rich.console import Console

_PLAIN_WIDTH = 120  # columns of tables in files and pipes


class _Stdout:
    """Standard output that never raises OSError; `error` says what was lost, except to a reader that went away."""

    error = ""

    def write(self, text: str) -> int:
        if sys.stdout is not None:
            try:
                sys.stdout.write(text)
            except OSError as error:
                self._drop(error)
        return len(text)

    def flush(self) -> None:
        if sys.stdout is not None:
            try:
                sys.stdout.flush()
            except OSError as error:
                self._drop(error)

    def _drop(self, error: OSError) -> None:
        if not isinstance(error, BrokenPipeError):
            self.error = error.strerror or str(error)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())  # what Python still holds would fail again at its exit
        os.close(nowhere)

    def isatty(self) -> bool:
        return sys.stdout is not None and sys.stdout.isatty()

    def fileno(self) -> int:
        return sys.stdout.fileno()

    @property
    def encoding(self) -> str:
        return sys.stdout.encoding if sys.stdout is not None else "utf-8"


STDOUT = _Stdout()


def console() -> "Console":
    """Return a console on standard output: in colour on a terminal only, whatever the environment says."""
    from rich.console import Console

    terminal = STDOUT.isatty()
    width = None if terminal or os.environ.get("COLUMNS") else _PLAIN_WIDTH
    return Console(
        file=cast(IO[str], STDOUT), force_terminal=terminal, width=width, highlight=False, markup=False, emoji=False
    )


def complain(message: str) -> None:
    """Print a line about an error on standard error; nobody may be there to read it."""
    with contextlib.suppress(OSError):
        print(f"bptcnn: {message}", file=sys.stderr, flush=True)


def one_line(error: object) -> str:
    """An error's text as one line, whatever file names it holds."""
    return " ".join(str(error).split())
