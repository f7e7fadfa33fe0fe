"""Talking with a process over its standard input and output, with a deadline for every wait and a certain end."""

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence

from bptcnn.nodes.ending import reaped

_READ_BYTES = 1 << 16
_MOST_UNREAD = 8 << 20  # bytes; the longest answer has half of it
_MOST_ERRORS = 1 << 16  # bytes of standard error kept: the first


class Silent(Exception):
    """The deadline has passed."""


class Ended(Exception):
    """The process has ended, or its output."""


class Flooded(Exception):
    """The process says more than anybody asked for."""


class Cancelled(Exception):
    """Nobody waits for this conversation any more."""


class Conversation:
    """A process and what it says. Deadlines are those of `time.monotonic`; `close` it in the end.

    `cancel` is a descriptor: when it becomes readable, whoever waits in here raises Cancelled.
    """

    def __init__(self, command: Sequence[str], cancel: int, env: Mapping[str, str] | None = None) -> None:
        """Start the process, in a session of its own; raise OSError where that fails."""
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env=env,
            start_new_session=True,  # a terminal's Ctrl-C is for the coordinator; jump hosts' ssh end with ours
        )
        self._pipes = [pipe for pipe in (self._process.stdin, self._process.stdout, self._process.stderr) if pipe]
        self._in, self._out, self._err = (pipe.fileno() for pipe in self._pipes)
        self._cancel = cancel
        self._open = {self._out, self._err}
        self._said, self._errors = bytearray(), bytearray()
        for descriptor in (self._in, self._out, self._err):
            os.set_blocking(descriptor, False)

    def send(self, data: bytes, deadline: float) -> None:
        """Send all of `data`."""
        left = memoryview(data)
        while left:
            if self._in in self._wait(deadline, sending=True):
                try:
                    left = left[os.write(self._in, left) :]
                except BlockingIOError:
                    continue
                except OSError:
                    raise Ended from None

    def receive(self, size: int, deadline: float) -> bytes:
        """Return the next `size` bytes."""
        while len(self._said) < size:
            self._wait_for_output(deadline)
        data = bytes(self._said[:size])
        del self._said[:size]
        return data

    def receive_line(self, mark: bytes, deadline: float) -> bytes:
        """Return the rest of the first line that has `mark`, from there on; what comes before is dropped."""
        while True:
            start = self._said.find(mark)
            end = self._said.find(b"\n", start) if start >= 0 else -1
            if end >= 0:
                line = bytes(self._said[start + len(mark) : end])
                del self._said[: end + 1]
                return line
            self._wait_for_output(deadline)

    def code(self, deadline: float) -> int | None:
        """Wait for the process's last words and its end; return its exit code, None where that does not come."""
        with contextlib.suppress(Ended, Silent, Flooded):
            while True:
                self._wait(deadline)
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(max(0.0, deadline - time.monotonic()))
        return None

    @property
    def ended(self) -> bool:
        """Whether the process has ended; it stays unreaped, so that `close` finds what it has started."""
        if self._process.returncode is not None:
            return True
        return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    @property
    def words(self) -> str:
        """What the process said on standard error so far or, where that is nothing, on standard output, unread."""
        return bytes(self._errors or self._said[:_MOST_ERRORS]).decode(errors="replace")

    def close(self) -> None:
        """Kill the process and those that it started, and reap it."""
        if self._process.returncode is None:  # not reaped: the number is still its own
            os.killpg(self._process.pid, signal.SIGKILL)
            reaped(self._process)
        for pipe in self._pipes:
            pipe.close()

    def _wait_for_output(self, deadline: float) -> None:
        if self._out not in self._open:
            raise Ended
        self._wait(deadline)

    def _wait(self, deadline: float, sending: bool = False) -> set[int]:
        """Wait for anything to happen, take what is said, and return the descriptors that were ready."""
        if not self._open:
            raise Ended
        poll = select.poll()
        for descriptor in (*self._open, self._cancel):
            poll.register(descriptor, select.POLLIN)
        if sending:
            poll.register(self._in, select.POLLOUT)
        left = deadline - time.monotonic()
        ready = {descriptor for descriptor, _ in poll.poll(1000 * left)} if left > 0 else set()
        if self._cancel in ready:
            raise Cancelled
        if not ready:
            raise Silent
        for descriptor in ready & self._open:
            self._take(descriptor)
        return ready

    def _take(self, descriptor: int) -> None:
        data = os.read(descriptor, _READ_BYTES)
        if not data:
            self._open.remove(descriptor)
        elif descriptor == self._out:
            self._said += data
            if len(self._said) > _MOST_UNREAD:
                raise Flooded
        else:
            self._errors += data[: _MOST_ERRORS - len(self._errors)]
