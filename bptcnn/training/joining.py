"""Joining a running run, from another process of the same user on the coordinator's machine: what the command does."""

import os
import select
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from bptcnn.errors import UserError
from bptcnn.nodes import Host, Question, host_keys
from bptcnn.nodes.preflight import preflight
from bptcnn.training.members import obstacle
from bptcnn.training.run_folder import RunFolder
from bptcnn.training.visits import LONGEST_PACKET, Ended, Greeting, JoinRequest, Packet, decode, encode, short_path
from bptcnn.untrusted import Malformed
from bptcnn.version import VERSION

_BUSY_SECONDS = 5.0  # a run that is not evaluating answers at once
_LONGEST_SECONDS = 3600.0  # that a run may be silent: it says nothing while it evaluates


class Connection:
    """A connection to the run in a folder; a context manager. Where it ends, the node leaves the run.

    It is this user's own run, whatever lies in the folder: what it tells, such as its hosts file, its user has named.
    """

    def __init__(self, run_dir: Path) -> None:
        """Connect; raise UserError where no run trains there."""
        self._folder = RunFolder.open(run_dir)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with short_path(self._folder.socket) as name:
                self._socket.connect(name)
        except OSError as error:
            self.close()
            raise UserError(_not_there(self._folder, error)) from None
        if _owner(self._socket) != os.getuid():
            self.close()
            raise UserError(_not_there(self._folder, PermissionError()))

    def meet(self, told: Callable[[str], None]) -> Greeting:
        """Return what the run says first; `told` is told where that takes long. Raise UserError for another version."""
        if not select.select([self._socket], [], [], _BUSY_SECONDS)[0]:
            told("the run is busy, as when it evaluates: waiting for its answer")
        greeting, path = self._receive(), self._folder.path
        if greeting is None or isinstance(greeting, Ended):
            raise UserError(f"the run in {path} has just ended: there is nothing to join")
        if not isinstance(greeting, Greeting) or greeting.version != VERSION:
            version = greeting.version if isinstance(greeting, Greeting) else "another version"
            raise UserError(f"the run in {path} is trained by bptcnn {version}, this is {VERSION}: use the same")
        return greeting

    def ask(self, request: JoinRequest) -> None:
        """Send the request; what comes of it is in `packets`."""
        with suppress(OSError):  # the run has ended: `packets` says so
            self._socket.send(encode(request), socket.MSG_NOSIGNAL)

    def packets(self) -> Iterator[Packet]:
        """Yield what the run says until it ends the connection; raise UserError where it falls silent."""
        while True:
            packet = self._receive()
            if packet is None:
                return
            yield packet

    def _receive(self) -> Packet | None:
        """Return the next packet, None at the connection's end."""
        self._socket.settimeout(_LONGEST_SECONDS)
        try:
            content = self._socket.recv(LONGEST_PACKET)
        except TimeoutError:
            path, minutes = self._folder.path, _LONGEST_SECONDS / 60
            raise UserError(f"the run in {path} has said nothing for {minutes:g} minutes") from None
        except ConnectionResetError:
            return None
        try:
            return decode(content) if content else None
        except Malformed as error:
            raise UserError(f"{self._folder.path} is trained by another version of bptcnn: {error}") from None

    def leave(self) -> None:
        """Have the node leave, from any thread: `packets` ends."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End the connection; safe to call again."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _owner(connected: socket.socket) -> int:
    """Return the user whose process listens at the other end, as the kernel says."""
    credentials = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("iII"))
    return int(struct.unpack("iII", credentials)[1])


def _not_there(folder: RunFolder, error: OSError) -> str:
    if isinstance(error, FileNotFoundError | ConnectionRefusedError | ConnectionResetError):
        if folder.is_held():
            return f"the run in {folder.path} takes no nodes yet: it is being set up; try again when it trains"
        return f"the run in {folder.path} is not running on this machine: there is nothing to join"
    if isinstance(error, PermissionError):
        return f"the run in {folder.path} is another user's: only who started it can add nodes"
    return f"cannot reach the run in {folder.path}: {error.strerror or error}"


def looked_at(host: Host, greeting: Greeting, request: JoinRequest) -> JoinRequest:
    """Return the request with the host and what was found out about it; raise UserError where it cannot train."""
    question = Question(greeting.network, greeting.batch_size, tuple(greeting.input_shape), request.threads)
    threads = request.threads or host.threads or greeting.threads
    (report,) = preflight([replace(host, threads=threads)], question)
    reason, _ = obstacle(report, greeting.same_python)
    if reason is not None:
        raise UserError(f"{host.name} cannot train: {reason}")
    facts = report.facts
    speed = facts.speed if facts else None
    return replace(
        request,
        threads=threads,
        host=host_keys(host),
        images_per_second=speed.images_per_second if speed else None,
        cores_times_clock=speed.cores_times_clock if speed else None,
        bandwidth=min(facts.link.upload, facts.link.download) if facts and facts.link else None,
        options=list(report.options),
    )
