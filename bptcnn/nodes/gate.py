"""The gate that a remote node's submissions pass on their way into the weight set."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Shut(Exception):
    """Nothing passes any more: the node's generation is refused."""


class Gate:
    """Open, closed for a while, or shut for good. When `close` or `shut` returns, nobody is inside."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._closed = self._shut = self._inside = False

    @contextmanager
    def passing(self) -> Iterator[None]:
        """Wait until the gate is open and keep it busy within; raise Shut where it is shut instead."""
        with self._condition:
            self._condition.wait_for(lambda: self._shut or not (self._closed or self._inside))
            if self._shut:
                raise Shut
            self._inside = True
        try:
            yield
        finally:
            with self._condition:
                self._inside = False
                self._condition.notify_all()

    def close(self) -> None:
        """Let nobody in until `open`."""
        with self._condition:
            self._closed = True
            self._condition.wait_for(lambda: not self._inside)

    def open(self) -> None:
        """Let them in again."""
        with self._condition:
            self._closed = False
            self._condition.notify_all()

    def shut(self) -> None:
        """Let nobody in ever again; safe to call again."""
        with self._condition:
            self._shut = True
            self._condition.notify_all()
            self._condition.wait_for(lambda: not self._inside)
