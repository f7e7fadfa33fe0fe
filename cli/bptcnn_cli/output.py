"""What the commands print: results on standard output, one line for an error on standard error.

A reader that goes away (`| head`) or a disk that is full does not stop what runs: the rest of the output is dropped.
"""

import contextlib
import os
import shlex
import sys
from typing import IO, TYPE_CHECKING, cast

from bptcnn.untrusted import printable

if TYPE_CHECKING:
    from rich.console import Console

_PLAIN_WIDTH = 120  # columns of tables in files and pipes
_LONGEST_LINE = 5000  # characters of an error: a path has 4096 at most


class _Stdout:
    """Standard output that never raises OSError; `error` says what was lost, except to a reader that went away.

    The process's own, not `sys.stdout`: rich's Live puts something in there that prints to us.
    """

    def __init__(self) -> None:
        self._stream = sys.__stdout__  # None: closed by whoever started us
        self.error = ""

    def write(self, text: str) -> int:
        if self._stream is not None:
            try:
                self._stream.write(text)
            except OSError as error:
                self._drop(error)
        return len(text)

    def flush(self) -> None:
        if self._stream is not None:
            try:
                self._stream.flush()
            except OSError as error:
                self._drop(error)

    def _drop(self, error: OSError) -> None:
        if not isinstance(error, BrokenPipeError):
            self.error = error.strerror or str(error)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())  # what Python still holds would fail again at its exit
        os.close(nowhere)

    def isatty(self) -> bool:
        return self._stream is not None and self._stream.isatty()

    def fileno(self) -> int:
        return 1 if self._stream is None else self._stream.fileno()

    @property
    def encoding(self) -> str:
        return "utf-8" if self._stream is None else self._stream.encoding


STDOUT = _Stdout()


def console() -> "Console":
    """Return a console on standard output: in colour on a terminal only, whatever the environment says."""
    from rich.console import Console

    terminal = STDOUT.isatty()
    width = None if terminal or os.environ.get("COLUMNS") else _PLAIN_WIDTH
    return Console(
        file=cast(IO[str], STDOUT), force_terminal=terminal, width=width, highlight=False, markup=False, emoji=False
    )


def say(text: str) -> None:
    """Print text for other programs: no colour, no wrapping."""
    STDOUT.write(f"{text}\n")
    STDOUT.flush()


def fill_closed_descriptors() -> None:
    """Open /dev/null where standard input, output or error are closed: other files would get their numbers."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number


def complain(message: str) -> None:
    """Print a line about an error on standard error, whatever files told; nobody may be there to read it."""
    with contextlib.suppress(OSError):
        print(f"bptcnn: {one_line(message)}", file=sys.stderr, flush=True)


def one_line(error: object) -> str:
    """An error's text as one line that moves no terminal's cursor, whatever files and file names it holds."""
    text = " ".join(filter(None, map(str.strip, str(error).splitlines())))
    if len(text) > _LONGEST_LINE:
        text = f"{text[:_LONGEST_LINE]}..."
    return printable(text)


def shell_word(text: str | os.PathLike[str]) -> str:
    """One word of a shell's command that can be copied from a terminal, whatever bytes it stands for.

    What is not printable, or not there in the terminal's encoding, is written in octal, as bash, zsh, ksh and POSIX's
    sh of 2024 read it: $'r\\351s'.
    """
    word = os.fspath(text)
    if all(map(_can_show, word)):
        return shlex.quote(word)
    return f"$'{''.join(map(_quoted, word))}'"


def _quoted(character: str) -> str:
    if character in "\\'":
        return f"\\{character}"
    return character if _can_show(character) else "".join(f"\\{byte:03o}" for byte in os.fsencode(character))


def _can_show(character: str) -> bool:
    try:
        return character.isprintable() and bool(character.encode(STDOUT.encoding or "utf-8"))
    except UnicodeEncodeError:
        return False
