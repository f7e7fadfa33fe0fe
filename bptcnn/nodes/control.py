"""Control of a node behind a network: a multiprocessing manager whose connections carry JSON instead of pickles.

The manager's authentication (a challenge each way, HMAC over the run's key) and its calls are multiprocessing's own.
Its messages are JSON of bounded length and number, so that whoever holds the key, a host that was broken into included,
can make the coordinator do what `Desk` exposes and nothing else: no call unpickles anything. Who asks too often is
heard no more.

    agent: reporter thread ──report(events)──> Desk ──> the driver
           receiver thread ──collect(seconds)─> Desk: waits for messages, says how many updates there are
"""

import contextlib
import errno
import json
import os
import socket
import struct
import threading
from collections.abc import Callable
from multiprocessing import connection, managers
from typing import Any, Protocol

from bptcnn.errors import UserError
from bptcnn.nodes.allowance import Allowance
from bptcnn.threads import start_thread
from bptcnn.untrusted import parse_json

_SERIALIZER = "bptcnn-json"
_LONGEST_CALL = 1 << 16  # bytes: some hundred events; once parsed they take many times that
_LONGEST_ANSWER = 256 << 20  # two epochs' indices for a node that is alone; it is the coordinator's, who is trusted
_MOST_CONNECTIONS = 16  # an agent needs 3
_FULL_SECONDS = 0.1  # without a free descriptor nobody can come: look again
_BURST_CALLS, _CALLS_PER_SECOND = 1000, 200  # of all connections: 3 a second, some more where epochs are short
_AUTHENTICATION_SECONDS = 5  # a peer that does not answer the challenge is no agent


class JsonConnection:
    """A connection whose objects are JSON; EOFError for a message that is too long, ValueError for one that is none.

    Until the first object has come, that is, while the peers authenticate, every wait has a deadline.
    """

    def __init__(
        self, raw: "connection.Connection[bytes, bytes]", longest: int, allowed: Callable[[bool], bool] = bool
    ) -> None:
        """`allowed`: asked for each object that comes, told whether it `fits`; if not, this is the connection's end."""
        self._raw, self._longest, self._allowed = raw, longest, allowed
        self.send_bytes = raw.send_bytes
        self.close = raw.close
        self._set_deadline(_AUTHENTICATION_SECONDS)
        self._waits = False

    def recv_bytes(self, maxlength: int) -> bytes:
        """Receive one message of at most `maxlength` bytes."""
        return self._raw.recv_bytes(maxlength)

    def send(self, value: Any) -> None:
        """Send one object; TypeError where it is not JSON. What a call raised travels as its text."""
        if isinstance(value, tuple) and isinstance(value[1], Exception):
            value = ("#TRACEBACK", f"{type(value[1]).__name__}: {value[1]}")
        self._raw.send_bytes(json.dumps(value).encode())

    def recv(self) -> Any:
        """Receive one object."""
        try:
            message = self.recv_bytes(self._longest)
        except OSError as error:  # for a manager's server this is no end: it would ask again, for ever
            if error.errno is None:  # not the system's: it is too long
                self._allowed(False)
            raise EOFError(str(error)) from None
        if not self._waits:
            self._set_deadline(0)
            self._waits = True
        if not self._allowed(True):
            raise EOFError("too many messages")
        return parse_json(message, self._longest)

    def wake(self) -> None:
        """End the connection under a thread that is blocked in it."""
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(self._raw.fileno())) as opened:
            opened.shutdown(socket.SHUT_RDWR)

    def _set_deadline(self, seconds: int) -> None:
        with socket.socket(fileno=os.dup(self._raw.fileno())) as opened:
            limit = struct.pack("ll", seconds, 0)  # 0: none
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)


class _Listener:
    """What a manager's server wants of a listener: here the socket belongs to `ControlServer`."""

    def __init__(self, address: str, backlog: int) -> None:
        self.address = address


def _connect(address: str, authkey: bytes) -> JsonConnection:
    found = JsonConnection(connection.Client(address, family="AF_UNIX"), _LONGEST_ANSWER)
    peer: Any = found  # these two want no more than `send_bytes` and `recv_bytes`
    try:
        connection.answer_challenge(peer, authkey)
        connection.deliver_challenge(peer, authkey)
    except BaseException:
        found.close()
        raise
    return found


managers.listener_client[_SERIALIZER] = (_Listener, _connect)  # type: ignore[attr-defined]


class Desk(Protocol):
    """What an agent can ask of the coordinator's side."""

    def greet(self, version: str, pid: int) -> None:
        """Say who has come; ValueError where it is another version."""
        ...

    def report(self, events: list[dict[str, Any]]) -> None:
        """Take events in their order."""
        ...

    def collect(self, seconds: float) -> dict[str, Any]:
        """Wait up to `seconds` for messages; return {"messages": [...], "updates": count}."""
        ...


_CALLS = ("greet", "report", "collect")
_managers: Any = managers  # MakeProxyType is documented only by what it does
_DeskProxy = _managers.MakeProxyType("_DeskProxy", _CALLS)


def connect_desk(address: str, key: bytes, ident: str) -> Desk:
    """Return the desk behind a control socket; each thread that uses it gets a connection of its own."""
    token = managers.Token("desk", address, ident)
    desk: Desk = _DeskProxy(token, _SERIALIZER, authkey=key, exposed=_CALLS, incref=False)
    return desk


class ControlServer:
    """Serves one node's `Desk` on a listening Unix socket, a thread per connection, until it is closed."""

    def __init__(
        self, listener: socket.socket, key: bytes, desk: Desk, flooded: Callable[[], None] = lambda: None
    ) -> None:
        """`flooded` is called, by any thread, where the node asks for more than it is allowed."""

        class Manager(managers.BaseManager):
            pass

        Manager.register("desk", callable=lambda: desk, exposed=_CALLS)
        manager: Any = Manager(listener.getsockname(), key, serializer=_SERIALIZER)
        self._server: Any = manager.get_server()
        self._server.public = ("accept_connection",)  # a peer creates, counts, inspects and shuts down nothing
        self._server.stop_event = threading.Event()
        self.ident: str = self._server.create(None, "desk")[0]  # what `connect_desk` asks for
        self._listener, self._flooded = listener, flooded
        self._allowance, self._counting = Allowance(_BURST_CALLS, _CALLS_PER_SECOND), threading.Lock()
        self._lock = threading.Lock()
        self._open: dict[threading.Thread, JsonConnection] = {}
        self._accepter = threading.Thread(target=self._accept, daemon=True, name="control")
        start_thread(self._accepter)

    def _accept(self) -> None:
        while True:
            try:
                accepted, _ = self._listener.accept()
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE) or self._server.stop_event.wait(_FULL_SECONDS):
                    return  # closed
                continue
            if len(self._open) >= _MOST_CONNECTIONS or not self._allowed(True):
                accepted.close()
                continue
            found = JsonConnection(connection.Connection(accepted.detach()), _LONGEST_CALL, self._allowed)
            thread = threading.Thread(target=self._serve, args=(found,), daemon=True, name="control client")
            with self._lock:
                try:
                    start_thread(thread)
                except UserError:  # its agent ends and says that it found no way here
                    found.close()
                    continue
                self._open[thread] = found

    def _allowed(self, fits: bool) -> bool:
        """Count a connection or a call."""
        with self._counting:
            allowed = fits and self._allowance.take()
        if not allowed:
            self._flooded()
        return allowed

    def _serve(self, found: JsonConnection) -> None:
        try:
            with contextlib.suppress(OSError):  # the peer is gone, or refused
                self._server.handle_request(found)
        finally:
            with self._lock:
                self._open.pop(threading.current_thread(), None)

    def close(self) -> None:
        """End every connection and thread; idempotent."""
        self._server.stop_event.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._accepter.join()
        self._listener.close()
        with self._lock:
            clients = dict(self._open)
            for found in clients.values():
                found.wake()
        for thread in clients:
            thread.join()
