"""Authenticated raw frames over a connected stream socket: weights and samples between a node and the coordinator.

    connect                                              accept
      hello: magic, version, role, node, nonce ──────────>
      <────────── hello: magic, version, role, node, nonce
      proof: HMAC-SHA256(key, role, both hellos) ────────>
      <──────────────────────────────────────────── proof
      header, meta (JSON), payload, MAC  <───────────────>

Guarantees
- Nothing is unpickled, ever. Before the proofs, 48 bytes are read from a peer and no more.
- Nonces are fresh on both sides and roles differ, so neither an earlier nor a reflected conversation proves anything.
- A frame's lengths are checked before anything of their size is allocated; its MAC (HMAC-SHA256 over direction,
  header with sequence number, meta and payload) before a byte of it is used. So a frame is taken whole, once, in
  order, from the other end, or the channel refuses it and everything after it.
- A frame that has begun comes whole within a time that its size allows, or is refused.
- The bytes are authenticated, not encrypted: that is SSH's part.
"""

import contextlib
import hashlib
import hmac
import json
import secrets
import select
import socket
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NoReturn, Self

import numpy as np
import numpy.typing as npt

from bptcnn.untrusted import Malformed, parse_json

Buffer = bytes | bytearray | memoryview | npt.NDArray[Any]
Scalar = str | int | float | bool | None
Meta = Mapping[str, Scalar | Sequence[Scalar]]

VERSION = 1  # of everything in this file
KEY_BYTES = 32
META_LIMIT = 16 << 10  # bytes: what a frame says about its payload is small

_MAGIC = b"bptc"
_HELLO = struct.Struct("<4sBBHQ32s")  # magic, kind, role, version, node, nonce
_HEADER = struct.Struct("<4sIQIQ")  # magic, kind, sequence number, bytes of meta, bytes of payload
_CONNECTING, _ACCEPTING = 1, 2  # roles, and the directions of what they send
_MAC_BYTES = 32
_PROOF_BYTES = 32
_PAUSE_SECONDS = 3600.0  # between two bytes of a frame, whose size may allow it weeks
_FRAME_SECONDS, _LEAST_RATE = 30.0, 16e3  # that a frame may take, and bytes/s beyond that: a link of 128 kbit/s
_PIECE = 64 << 10  # bytes between two signs of life: half a second at 1 Mbit/s


class FrameError(Exception):
    """The peer's bytes are refused; the message says why. Nothing more can be received from it."""


class Kind(IntEnum):
    """What a frame is. HELLO is the handshake's own."""

    HELLO = 0
    WEIGHTS = 1  # a request for the weight set, and its answer
    SUBMIT = 2  # a submission
    MERGED = 3  # the answer to a submission
    SAMPLES = 4  # a request for the samples
    CHUNK = 5  # a piece of them
    ERROR = 6  # the other side cannot
    STATE = 7  # a request for the velocity that the node starts with, and its answer
    KEEP = 8  # the node's optimizer state, at a pause
    KEPT = 9  # the answer: whether to send the next one


@dataclass(frozen=True, eq=False)
class Frame:
    """A frame as received: `meta` is what its JSON holds, `payload` fresh bytes, (n,) uint8, writable."""

    kind: Kind
    meta: dict[str, Any]
    payload: npt.NDArray[np.uint8]


class Channel:
    """One end of an authenticated connection; use `connect` or `accept`.

    One thread may send while another receives; `shutdown` may come from any. Where the connection breaks, `send`
    raises OSError and `receive` EOFError between frames, FrameError within one. `on_traffic` is called, by the thread
    concerned, whenever bytes moved. Frames that come slower than `least_rate`, bytes/s, are refused. `bytes_sent` and
    `bytes_received` count everything, the handshake included.
    """

    def __init__(self, sock: socket.socket, role: int) -> None:
        """Use `connect` or `accept`."""
        self.on_traffic: Callable[[], None] | None = None
        self.least_rate = _LEAST_RATE
        self.bytes_sent = self.bytes_received = 0
        self._socket = sock
        self._role = role
        self._session = b""
        self._sent = self._received = 0  # frames
        self._frame_ends: float | None = None  # when the frame that is being received must be there
        self._cannot_send: str | None = None
        self._cannot_receive: str | None = None

    @classmethod
    def connect(cls, sock: socket.socket, key: bytes, node: int, seconds: float) -> Self:
        """Prove to the side that accepts, and have it prove, that both hold `key` (32 bytes) and mean `node`.

        The socket is the channel's from here on, and closed if this fails: FrameError where the peer is refused or
        refuses, TimeoutError where `seconds` do not suffice.
        """
        return cls._opened(sock, key, node, seconds, _CONNECTING)

    @classmethod
    def accept(cls, sock: socket.socket, key: bytes, node: int, seconds: float) -> Self:
        """The other side of `connect`, with the same arguments and errors."""
        return cls._opened(sock, key, node, seconds, _ACCEPTING)

    @classmethod
    def _opened(cls, sock: socket.socket, key: bytes, node: int, seconds: float, role: int) -> Self:
        channel = cls(sock, role)
        try:
            if len(key) != KEY_BYTES:
                raise ValueError(f"the key has {len(key)} bytes, expected {KEY_BYTES}")
            channel._shake_hands(key, node, time.monotonic() + seconds)
            sock.settimeout(None)
        except TimeoutError:
            channel.close()
            raise TimeoutError(f"the other side did not finish the handshake within {seconds:g} s") from None
        except OSError as error:
            channel.close()
            raise FrameError(f"the connection broke in the handshake: {error.strerror or error}") from None
        except BaseException:
            channel.close()
            raise
        return channel

    # ---- handshake ---------------------------------------------------------------------------------------------------

    def _shake_hands(self, key: bytes, node: int, deadline: float) -> None:
        mine = _HELLO.pack(_MAGIC, Kind.HELLO, self._role, VERSION, node, secrets.token_bytes(32))
        self._push([memoryview(mine)], deadline)
        theirs = self._handshake_bytes(_HELLO.size, deadline)
        _check_hello(theirs, node, self._role)
        hellos = mine + theirs if self._role == _CONNECTING else theirs + mine
        self._push([memoryview(_proof(key, b"proof", self._role, hellos))], deadline)
        proof = self._handshake_bytes(_PROOF_BYTES, deadline)
        if not hmac.compare_digest(proof, _proof(key, b"proof", _other(self._role), hellos)):
            raise FrameError("the other side does not hold this run's key")
        self._session = _proof(key, b"session", 0, hellos)

    def _handshake_bytes(self, size: int, deadline: float) -> bytes:
        received = bytearray(size)
        if self._pull(memoryview(received), deadline) < size:
            raise FrameError("the other side ended the handshake: another key, node or version, or no node at all")
        return bytes(received)

    # ---- frames ------------------------------------------------------------------------------------------------------

    def send(self, kind: Kind, meta: Meta | None = None, payload: Buffer = b"") -> None:
        """Send a frame; `payload` is contiguous, and neither copied nor kept.

        Raises OSError where the connection is broken, ValueError where `meta` is too long or no JSON.
        """
        if self._cannot_send is not None:
            raise BrokenPipeError(self._cannot_send)
        text = json.dumps(dict(meta or {}), allow_nan=False, separators=(",", ":")).encode()
        if len(text) > META_LIMIT:
            raise ValueError(f"{len(text)} bytes of meta, allowed are {META_LIMIT}")
        content = _flat(payload)
        head = _HEADER.pack(_MAGIC, kind, self._sent, len(text), len(content)) + text
        mac = self._mac(self._role, head)
        waiting = [memoryview(head)]
        self._cannot_send = "an earlier frame was not sent whole"
        for first in range(0, len(content), _PIECE):
            piece = content[first : first + _PIECE]
            mac.update(piece)
            waiting.append(piece)
            if first + _PIECE < len(content):
                self._push(waiting)
                waiting = []
        waiting.append(memoryview(mac.digest()))
        self._push(waiting)
        self._sent += 1
        self._cannot_send = None

    def receive(self, limits: Mapping[Kind, int], seconds: float | None = None) -> Frame:
        """Wait for a frame of one of the kinds in `limits`, each with the most bytes that its payload may have.

        Raises EOFError where the peer has ended the connection, FrameError where its bytes are refused or come too
        slowly, and TimeoutError where no frame begins within `seconds`.
        """
        if self._cannot_receive is not None:
            raise FrameError(self._cannot_receive)
        self._await_bytes(seconds)
        self._cannot_receive = "an earlier frame was refused, or not received whole"
        header = bytearray(_HEADER.size)
        self._frame_ends = time.monotonic() + _FRAME_SECONDS
        read = self._pull(memoryview(header))
        if not read:
            self._cannot_receive = self._frame_ends = None
            raise EOFError("the other side has ended the connection")
        if read < len(header):
            self._cut_short()
        kind, meta_size, size = self._check_header(header, limits)
        self._frame_ends += (meta_size + size) / self.least_rate
        meta, payload, mac = bytearray(meta_size), np.empty(size, np.uint8), self._mac(_other(self._role), header)
        for part in (memoryview(meta), payload.data):
            for first in range(0, len(part), _PIECE):
                piece = part[first : first + _PIECE]
                if self._pull(piece) < len(piece):
                    self._cut_short()
                mac.update(piece)
        stated = bytearray(_MAC_BYTES)
        if self._pull(memoryview(stated)) < len(stated):
            self._cut_short()
        if not hmac.compare_digest(stated, mac.digest()):
            raise FrameError("a frame is not as it was sent: its authentication code is wrong")
        self._frame_ends = None
        frame = Frame(kind, _parsed(meta), payload)
        self._received += 1
        self._cannot_receive = None
        return frame

    def _check_header(self, header: bytearray, limits: Mapping[Kind, int]) -> tuple[Kind, int, int]:
        """The kind, and the bytes of meta and payload; nothing of that size is allocated yet."""
        magic, kind, sequence, meta_size, size = _HEADER.unpack(header)
        if magic != _MAGIC:
            raise FrameError("no frame: its first bytes are wrong")
        limit = limits.get(kind)
        if limit is None:
            raise FrameError(f"a frame of kind {kind}, expected {', '.join(Kind(kind).name for kind in limits)}")
        if sequence != self._received:
            raise FrameError(f"frame number {sequence}, expected {self._received}")
        if meta_size > META_LIMIT:
            raise FrameError(f"a frame with {meta_size} bytes of meta, allowed are {META_LIMIT}")
        if size > limit:
            raise FrameError(f"{Kind(kind).name} with {size} bytes, allowed are {limit}")
        return Kind(kind), meta_size, size

    def _mac(self, direction: int, head: bytes | bytearray) -> "hmac.HMAC":
        mac = hmac.new(self._session, bytes([direction]), hashlib.sha256)
        mac.update(head)
        return mac

    def _cut_short(self) -> NoReturn:
        raise FrameError("the connection ended in the middle of a frame")

    # ---- bytes -------------------------------------------------------------------------------------------------------

    def _push(self, parts: list[memoryview], deadline: float | None = None) -> None:
        """Send all of `parts`, in as few calls as the socket allows."""
        while parts:
            self._limit(deadline)
            moved = self._socket.sendmsg(parts)
            self.bytes_sent += moved
            while parts and moved >= len(parts[0]):
                moved -= len(parts.pop(0))
            if parts:
                parts[0] = parts[0][moved:]
            self._signal()

    def _pull(self, into: memoryview, deadline: float | None = None) -> int:
        """Fill `into`; return how many bytes came before the peer's end."""
        filled = 0
        while filled < len(into):
            self._limit(deadline)
            if self._frame_ends is not None:
                self._await_rest(self._frame_ends)
            try:
                moved = self._socket.recv_into(into[filled:])
            except ConnectionResetError:  # the peer's end, with bytes of ours that it has not read
                moved = 0
            if not moved:
                break
            self.bytes_received += moved
            filled += moved
            self._signal()
        return filled

    def _limit(self, deadline: float | None) -> None:
        """In the handshake, where no other thread uses the socket: what is left until the deadline."""
        if deadline is not None:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self._socket.settimeout(left)

    def _await_bytes(self, seconds: float | None) -> None:
        if not self._readable(seconds):
            raise TimeoutError(f"no frame within {seconds or 0:g} s")

    def _await_rest(self, deadline: float) -> None:
        left = deadline - time.monotonic()
        if left <= 0 or not self._readable(min(left, _PAUSE_SECONDS)):
            raise FrameError("a frame came too slowly")

    def _readable(self, seconds: float | None) -> bool:
        """Wait. Not by the socket's timeout, which would hold for a thread that sends, too."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(None if seconds is None else max(0.0, 1000 * seconds)))

    def _signal(self) -> None:
        if self.on_traffic is not None:
            self.on_traffic()

    # ---- end ---------------------------------------------------------------------------------------------------------

    def shutdown(self) -> None:
        """End the connection, from any thread: whoever is in `send` or `receive` comes back with an error."""
        with contextlib.suppress(OSError):  # it is closed, or the peer was faster
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the socket, when no thread uses it any more; idempotent."""
        self._socket.close()


def _other(role: int) -> int:
    return _ACCEPTING if role == _CONNECTING else _CONNECTING


def _check_hello(hello: bytes, node: int, role: int) -> None:
    magic, kind, their_role, version, their_node, _ = _HELLO.unpack(hello)
    if magic != _MAGIC or kind != Kind.HELLO:
        raise FrameError("the other side is no node or coordinator of bptcnn")
    if version != VERSION:
        raise FrameError(f"protocol version {version}, here {VERSION}")
    if their_role != _other(role):
        raise FrameError("the other side has the role of this one")
    if their_node != node:
        raise FrameError(f"node {their_node}, expected {node}")


def _proof(key: bytes, purpose: bytes, role: int, hellos: bytes) -> bytes:
    return hmac.digest(key, purpose + bytes([role]) + hellos, hashlib.sha256)


def _flat(payload: Buffer) -> memoryview:
    view = payload.data if isinstance(payload, np.ndarray) else memoryview(payload)
    return view.cast("B") if view.nbytes else memoryview(b"")  # NumPy's views without bytes cannot be cast


def _parsed(text: bytearray) -> dict[str, Any]:
    """The meta of a frame that is authentic."""
    try:
        meta = parse_json(bytes(text), META_LIMIT)
    except Malformed as error:
        raise FrameError(f"the meta of a frame: {error}") from None
    if not isinstance(meta, dict):
        raise FrameError("the meta of a frame is no JSON object")
    return meta
