"""What `bptcnn node --join` and a running run say to each other: packets of JSON over the socket in the run folder.

    command ──connects──> run          Greeting: what is trained
            ──JoinRequest──>           Refused, or Starting, then Progress once a second, Lost, and Ended at last
            ──end of file──>           the node leaves, unless it was to stay

The socket keeps the packets apart (SOCK_SEQPACKET), and only the run's user, or root, can connect.
"""

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

from bptcnn.nodes.findings import CoresTimesClock, ImagesPerSecond
from bptcnn.outer import Outcome
from bptcnn.untrusted import Between, Length, Malformed, build, parse_json, printable

LONGEST_PACKET = 1 << 16

_Name = Annotated[str, Length(1, 100)]
_Version = Annotated[str, Length(1, 100)]
_Whole = Annotated[int, Between(1, 1 << 40)]
_Count = Annotated[int, Between(0, 1 << 40)]
_Threads = Annotated[int, Between(1, 4096)]
_Share = Annotated[float, Between(0.0, 1.0)]
_Speed = Annotated[float, Between(1e-6, 1000.0)]  # what is no share of full speed the run refuses
_BytesPerSecond = Annotated[float, Between(1.0, 1e12)]
_Text = Annotated[str, Length(0, 10_000)]
_Path = Annotated[str, Length(1, 4096)]
_Options = Annotated[list[Annotated[str, Length(1, 3000)]], Length(0, 10)]
_HostKey = bool | int | float | _Path | Annotated[dict[_Name, _Text], Length(0, 100)]
_HostKeys = Annotated[dict[_Name, _HostKey], Length(0, 20)]


@dataclass(frozen=True)
class Greeting:
    """What whoever wants to join must know: the run's bptcnn, the network that is trained, and with what.

    `same_python`: the network is Python code. `hosts`: the run's hosts file.
    """

    version: _Version
    network: _Text
    input_shape: tuple[_Whole, _Whole, _Whole]
    batch_size: _Whole
    same_python: bool
    threads: _Threads | None
    hosts: _Path | None


@dataclass(frozen=True)
class JoinRequest:
    """A node to take in: a local process, or one on `host` (keys as in a hosts file), which has been looked at.

    `name` None: the first free one of joined1, joined2, ... `threads` None: the free cores, on a host all of them.
    `images_per_second` and `cores_times_clock`: what is known of the host's speed. `bandwidth` is in bytes/s, `options`
    are ssh's. `stay`: the node remains when the connection ends.
    """

    name: _Name | None = None
    speed: _Speed = 1.0
    threads: _Threads | None = None
    stay: bool = False
    host: _HostKeys | None = None
    images_per_second: ImagesPerSecond | None = None
    cores_times_clock: CoresTimesClock | None = None
    bandwidth: _BytesPerSecond | None = None
    options: _Options = field(default_factory=list)


@dataclass(frozen=True)
class Refused:
    """The node is not taken in."""

    reason: _Text


@dataclass(frozen=True)
class Starting:
    """The node is being started under this name; `note`: what its user should know, or empty."""

    name: _Name
    note: _Text


@dataclass(frozen=True)
class Progress:
    """The node trains: its share of the data, its speed (None: not measured yet), and the images it has trained."""

    epoch: _Count
    epochs: _Count
    share: _Share
    images_per_second: Annotated[float, Between(0.0, 1e12)] | None
    images: _Count


@dataclass(frozen=True)
class Lost:
    """The node is lost, for good unless it `may_return`."""

    reason: _Text
    may_return: bool


@dataclass(frozen=True)
class Ended:
    """The run is over: completed, stopped or failed."""

    outcome: Outcome
    reason: _Text


Packet = Greeting | JoinRequest | Refused | Starting | Progress | Lost | Ended
_KINDS: dict[str, type[Any]] = {
    kind.__name__: kind for kind in (Greeting, JoinRequest, Refused, Starting, Progress, Lost, Ended)
}


def encode(packet: Packet) -> bytes:
    """Return the packet's bytes."""
    return json.dumps({"kind": type(packet).__name__, **asdict(packet)}).encode()


def decode(content: bytes) -> Packet:
    """Return the packet; raise Malformed where it is none."""
    values = parse_json(content, LONGEST_PACKET)
    name = values.pop("kind", None) if isinstance(values, dict) else None
    if not isinstance(name, str) or name not in _KINDS:
        raise Malformed(f"no packet: its kind is {printable(repr(name), 50)}")
    found: Packet = build(_KINDS[name], values)
    return found


@contextlib.contextmanager
def short_path(path: Path) -> Iterator[str]:
    """Yield a name for a file that fits into a socket's address, 108 bytes, however deep its folder lies."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


class Door:
    """The run's side: a listening socket for its user alone. Nothing here waits."""

    def __init__(self, path: Path) -> None:
        """Listen at `path`, whoever listened there before is dead; raise OSError where a file system has no sockets."""
        self._path = path
        path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            os.fchmod(self._listener.fileno(), 0o600)  # before there is a name
            with short_path(path) as name:
                self._listener.bind(name)
            self._listener.listen()
            self._listener.setblocking(False)
        except OSError:
            self._listener.close()
            raise

    def visitor(self) -> "Visitor | None":
        """Return the next one that has connected; None where there is none."""
        try:
            return Visitor(self._listener.accept()[0])
        except OSError:
            return None

    def close(self) -> None:
        """Let nobody in any more; safe to call again."""
        if self._listener.fileno() >= 0:
            with contextlib.suppress(OSError):  # the folder is gone, and the socket with it
                self._path.unlink(missing_ok=True)
            self._listener.close()


class Visitor:
    """Somebody at the door; `gone` once the connection has ended."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._came = time.monotonic()
        connection.setblocking(False)
        self.gone = False

    def receive(self) -> Packet | None:
        """Return a packet that has come, None if none has; raise Malformed for what is none."""
        try:
            content = self._connection.recv(LONGEST_PACKET)
        except BlockingIOError:
            return None
        except OSError:
            content = b""
        if not content:
            self.gone = True
            return None
        return decode(content)

    @property
    def seconds(self) -> float:
        """For how long it has been there."""
        return time.monotonic() - self._came

    def tell(self, packet: Packet) -> None:
        """Send a packet; one who does not read (a stopped process) misses it."""
        try:
            self._connection.send(encode(packet), socket.MSG_NOSIGNAL)
        except BlockingIOError:
            pass
        except OSError:
            self.gone = True

    def close(self) -> None:
        """End the connection; safe to call again."""
        self._connection.close()
