"""Libraries are imported with settings of our own, whatever the user's variables say.

A notebook sets MPLBACKEND for itself, a batch system OMP_NUM_THREADS=4,2: meant for other programs, read by libraries
as they are imported, and an exception there.
"""

import contextlib
import os
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def variables(hidden: tuple[str, ...] = (), **own: str) -> Iterator[None]:
    """Within, the environment has `own` and nothing that begins with one of `hidden`; afterwards it is as before."""
    before = {name: value for name, value in os.environ.items() if name.startswith(hidden) or name in own}
    for name in before:
        del os.environ[name]
    os.environ.update(own)
    try:
        yield
    finally:
        for name in [name for name in os.environ if name.startswith(hidden) or name in own]:
            del os.environ[name]
        os.environ.update(before)


def import_numexpr() -> Any:
    """Return the module. Its number of threads is what the user's variables say, as far as they say a number."""
    wrong = tuple(name for name in _THREADS if not _counts(os.environ.get(name, "1")))
    with variables(wrong):
        import numexpr

    return numexpr


_THREADS = ("NUMEXPR_MAX_THREADS", "NUMEXPR_NUM_THREADS", "OMP_NUM_THREADS")
_MOST_THREADS = 64  # numexpr's own limit, if nothing else is built in


def _counts(text: str) -> bool:
    return text.isdecimal() and 0 < int(text[:9]) <= _MOST_THREADS
