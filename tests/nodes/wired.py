"""Pairs of channels for tests: two that trust each other, and two with somebody between them."""

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from bptcnn.nodes import frames
from bptcnn.nodes.frames import Channel, Kind

KEY = bytes(range(32))
NODE = 3
SECONDS = 20.0  # for what takes milliseconds
HELLO, PROOF = 48, 32  # bytes


def read(sock: socket.socket, size: int) -> bytes:
    """Exactly `size` bytes, within SECONDS."""
    sock.settimeout(SECONDS)
    content = b""
    while len(content) < size:
        piece = sock.recv(size - len(content))
        assert piece, f"the end after {len(content)} of {size} bytes"
        content += piece
    return content


@contextmanager
def channels() -> Iterator[tuple[Channel, Channel]]:
    """Two ends of a connection that trust each other: the one that connected, the one that accepted."""
    ours, theirs = socket.socketpair()
    with ThreadPoolExecutor(1) as pool:
        accepting = pool.submit(Channel.accept, theirs, KEY, NODE, SECONDS)
        connected = Channel.connect(ours, KEY, NODE, SECONDS)
        accepted = accepting.result(SECONDS)
    try:
        yield connected, accepted
    finally:
        for channel in (connected, accepted):
            channel.shutdown()
            channel.close()


@dataclass
class Tapped:
    """Two channels with somebody between them: what either sends is read from its wire, and only there."""

    connected: Channel
    accepted: Channel
    wire_of_connected: socket.socket
    wire_of_accepted: socket.socket
    handshake: bytes  # of the connected one

    def captured(self, kind: Kind, meta: frames.Meta, payload: bytes) -> bytes:
        """What a small frame of the connected one is on the wire."""
        before = self.connected.bytes_sent
        self.connected.send(kind, meta, payload)
        return read(self.wire_of_connected, self.connected.bytes_sent - before)

    def deliver(self, content: bytes) -> None:
        """Give bytes to the accepted one, and then the end."""
        self.wire_of_accepted.sendall(content)
        self.wire_of_accepted.shutdown(socket.SHUT_WR)


@contextmanager
def tapped() -> Iterator[Tapped]:
    ours, wire_of_connected = socket.socketpair()
    theirs, wire_of_accepted = socket.socketpair()
    with wire_of_connected, wire_of_accepted, ThreadPoolExecutor(2) as pool:
        connecting = pool.submit(Channel.connect, ours, KEY, NODE, SECONDS)
        accepting = pool.submit(Channel.accept, theirs, KEY, NODE, SECONDS)
        handshake = b""
        for size in (HELLO, PROOF):
            piece = read(wire_of_connected, size)
            handshake += piece
            wire_of_connected.sendall(read(wire_of_accepted, size))
            wire_of_accepted.sendall(piece)
        connected, accepted = connecting.result(SECONDS), accepting.result(SECONDS)
        try:
            yield Tapped(connected, accepted, wire_of_connected, wire_of_accepted, handshake)
        finally:
            connected.close()
            accepted.close()
