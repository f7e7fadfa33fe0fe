"""A node's log: what its process and ssh print, in a file that does not grow without end.

    process ──socket──> reader thread ──> logs/NAME.log      its first and its last quarter of a megabyte, at most

Guarantees: whatever is printed, the file has at most MOST_BYTES, and where something was left out it says so. Nobody
waits for the file: on a full disk the output is dropped. Output beyond what the allowance grants is read slowly, so
that who prints without end waits, and not the coordinator.
"""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

from bptcnn.nodes.allowance import Allowance
from bptcnn.threads import start_thread

MOST_BYTES = 1 << 20
_KEPT_BYTES = MOST_BYTES // 4  # of the beginning, and of the end, where a file is cut
_TAIL_BYTES = 4096  # where ssh and the agent say why they end
_READ_BYTES = 1 << 16
_SLOW_SECONDS = 0.05  # between two reads of who prints too much: 1.3 MB/s
_BURST_BYTES, _BYTES_PER_SECOND = 4 << 20, 1 << 16  # more than anybody reads


class NodeLog:
    """Appends to the log at `path`; the process is given `fileno()` as its output, then `begin` is called."""

    def __init__(self, path: Path, name: str, flooded: Callable[[], None] | None = None) -> None:
        """Raise OSError where the file cannot be written. `flooded`: told once, where more is printed than allowed."""
        self._path, self._flooded = path, flooded
        with path.open("ab") as file:
            self._size = file.tell()
        self._allowance = Allowance(_BURST_BYTES, _BYTES_PER_SECOND)
        self._tail = b""
        self._ours, self._theirs = socket.socketpair()
        self._thread = threading.Thread(target=self._read, daemon=True, name=f"{name} log")
        self._closing, self._writing = threading.Lock(), threading.Lock()

    def fileno(self) -> int:
        """The process's end."""
        return self._theirs.fileno()

    def begin(self) -> None:
        """Read from here on: the process has its end. Raise UserError where there is no thread for it."""
        self._theirs.close()
        start_thread(self._thread)

    def _read(self) -> None:
        while data := self._ours.recv(_READ_BYTES):
            self._tail = (self._tail + data)[-_TAIL_BYTES:]
            self._append(data)
            if not self._allowance.take(len(data)):
                if self._flooded is not None:
                    self._flooded()
                    self._flooded = None
                time.sleep(_SLOW_SECONDS)

    def write(self, text: str) -> None:
        """Write what the coordinator has to say of the node, from any thread."""
        self._append(text.encode(errors="replace"))

    def _append(self, data: bytes) -> None:
        with self._writing, contextlib.suppress(OSError):  # the disk is full
            if self._size + len(data) > MOST_BYTES:
                self._cut()
            with self._path.open("ab") as file:
                file.write(data)
                self._size = file.tell()

    def _cut(self) -> None:
        """Keep the beginning and the end of the file."""
        with self._path.open("r+b") as file:
            head = file.read(_KEPT_BYTES)
            size = file.seek(0, os.SEEK_END)
            file.seek(max(len(head), size - _KEPT_BYTES))
            tail = file.read(_KEPT_BYTES)
            head, tail = head[: head.rfind(b"\n") + 1] or head, tail[tail.find(b"\n") + 1 :]
            file.seek(len(head))
            file.write(b"[... the log was too long: what stood here is left out ...]\n" + tail)
            file.truncate()
            self._size = file.tell()

    def close(self) -> bytes:
        """Take what was printed last, when the process has ended, and return the end of it; safe to call again."""
        with self._closing:
            self._theirs.close()
            if self._thread.ident is not None:
                with contextlib.suppress(OSError):
                    self._ours.shutdown(socket.SHUT_RD)
                self._thread.join()
            self._ours.close()
        return self._tail
