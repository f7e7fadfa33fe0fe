"""File names and files are UTF-8 here whatever the locale says; what a terminal is sent stays in its own encoding."""

import locale
import os
import sys

_IO = "PYTHONIOENCODING"


def use_utf8() -> None:
    """Have Python take names and files as UTF-8: under another locale it starts anew, in its UTF-8 mode.

    Python decides that before our first line. The programs that we start are told the same.
    """
    if sys.getfilesystemencoding() == "utf-8":
        os.environ.pop(_IO, None)  # is of this program's terminal, and has had its effect
        return
    terminal = getattr(sys.stdout, "encoding", None) or locale.getencoding()
    environment = {**os.environ, "PYTHONUTF8": "1", _IO: f"{terminal}:backslashreplace"}
    os.execve(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]], environment)


def locale_name() -> str:
    """Return the variable that says the locale of texts, and its value; "" where none does."""
    for name in ("LC_ALL", "LC_CTYPE", "LANG"):
        if os.environ.get(name):
            return f"{name}={os.environ[name]}"
    return ""


def is_installed() -> bool:
    """Whether the system knows the locale that the environment names."""
    try:
        locale.setlocale(locale.LC_CTYPE, "")  # what Python has done at its start, so that this changes nothing
    except locale.Error:
        return False
    return True
