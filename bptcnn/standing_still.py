"""What is to be done before this process is stopped (Ctrl-Z), and when it goes on, by whoever has something to do.

Who catches the signal knows no run, and a run knows no terminal: they meet here. All of it happens in the main thread,
between any two of its instructions.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

_Participant = Callable[[], AbstractContextManager[None]]
_participants: list[_Participant] = []


@contextmanager
def takes_part(participant: _Participant) -> Iterator[None]:
    """In here, `participant()` is entered before the process is stopped and left when it goes on."""
    _participants.append(participant)
    try:
        yield
    finally:
        _participants.remove(participant)


@contextmanager
def standing_still() -> Iterator[None]:
    """Have everybody stand still."""
    with ExitStack() as stack:
        for participant in reversed(_participants):  # the last one to come first
            stack.enter_context(participant())
        yield
