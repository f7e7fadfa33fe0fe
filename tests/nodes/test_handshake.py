"""Who may talk: the holder of the key that means the same node, now; everybody else is refused in time."""

import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wired import HELLO, KEY, NODE, PROOF, SECONDS, read, tapped

from bptcnn.nodes import frames
from bptcnn.nodes.frames import Channel, FrameError, Kind

SHORT = 0.2  # seconds, for what must time out
OPEN = [Channel.connect, Channel.accept]


def hello(role: int, version: int = frames.VERSION, node: int = NODE, magic: bytes = frames._MAGIC) -> bytes:
    return frames._HELLO.pack(magic, Kind.HELLO, role, version, node, bytes(32))


def role_against(opened: Callable[..., Channel]) -> int:
    return frames._ACCEPTING if opened == Channel.connect else frames._CONNECTING


def refusal(opened: Callable[..., Channel], content: bytes) -> str:
    """How a handshake ends for which the peer has sent `content`; the socket must be closed."""
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.sendall(content)
        theirs.shutdown(socket.SHUT_WR)
        with pytest.raises(FrameError) as refused:
            opened(ours, KEY, NODE, SECONDS)
    assert ours.fileno() == -1
    return str(refused.value)


@pytest.mark.parametrize("key", [bytes(32), KEY[:-1] + b"\xff"])
def test_another_key_is_refused_by_both(key: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ThreadPoolExecutor(1) as pool:
        accepting = pool.submit(Channel.accept, theirs, KEY, NODE, SECONDS)
        with pytest.raises(FrameError, match="key"):
            Channel.connect(ours, key, NODE, SECONDS)
        with pytest.raises(FrameError, match="key"):
            accepting.result(SECONDS)


def test_another_node_is_refused_by_both() -> None:
    ours, theirs = socket.socketpair()
    with ThreadPoolExecutor(1) as pool:
        accepting = pool.submit(Channel.accept, theirs, KEY, 4, SECONDS)
        with pytest.raises(FrameError, match="node 4, expected 3"):
            Channel.connect(ours, KEY, 3, SECONDS)
        with pytest.raises(FrameError, match="node 3, expected 4"):
            accepting.result(SECONDS)


@pytest.mark.parametrize("opened", OPEN)
def test_wrong_hellos_are_refused_by_name(opened: Callable[..., Channel]) -> None:
    role = role_against(opened)
    assert refusal(opened, hello(role, version=2)) == "protocol version 2, here 1"
    assert refusal(opened, hello(role, node=7)) == "node 7, expected 3"
    assert refusal(opened, hello(role, magic=b"HTTP")) == "the other side is no node or coordinator of bptcnn"
    assert refusal(opened, hello(role ^ 3)) == "the other side has the role of this one"
    assert "ended the handshake" in refusal(opened, hello(role))
    assert "does not hold this run's key" in refusal(opened, hello(role) + bytes(PROOF))


def test_a_key_of_another_length_is_a_bug() -> None:
    ours, theirs = socket.socketpair()
    with theirs, pytest.raises(ValueError, match="31 bytes"):
        Channel.connect(ours, KEY[:-1], NODE, SECONDS)


@given(st.sampled_from(OPEN), st.binary(max_size=200), st.integers(0, HELLO))
def test_random_bytes_are_no_handshake(opened: Callable[..., Channel], noise: bytes, head: int) -> None:
    refusal(opened, hello(role_against(opened))[:head] + noise)


def test_a_replayed_handshake_is_refused() -> None:
    with tapped() as between:
        recorded = between.handshake + between.captured(Kind.SUBMIT, {}, b"12345")
    assert "does not hold this run's key" in refusal(Channel.accept, recorded)


@pytest.mark.parametrize("opened", OPEN)
@pytest.mark.parametrize("disguised", [False, True])
def test_a_reflected_handshake_is_refused(opened: Callable[..., Channel], disguised: bool) -> None:
    ours, theirs = socket.socketpair()
    with theirs, ThreadPoolExecutor(1) as pool:
        opening = pool.submit(opened, ours, KEY, NODE, SECONDS)
        theirs.settimeout(SECONDS)
        words = bytearray(read(theirs, HELLO))
        if disguised:
            words[5] = role_against(opened)
        theirs.sendall(words)
        if disguised:
            theirs.sendall(read(theirs, PROOF))
        with pytest.raises(FrameError, match="key" if disguised else "role"):
            opening.result(SECONDS)


@pytest.mark.parametrize("opened", OPEN)
@pytest.mark.parametrize("said", [0, 1, HELLO, HELLO + 1])
def test_a_peer_that_falls_silent_is_left(opened: Callable[..., Channel], said: int) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.sendall((hello(role_against(opened)) + bytes(PROOF))[:said])
        with pytest.raises(TimeoutError, match=r"did not finish the handshake within 0\.2 s"):
            opened(ours, KEY, NODE, SHORT)
    assert ours.fileno() == -1


@pytest.mark.parametrize("opened", OPEN)
def test_a_peer_that_dribbles_is_left(opened: Callable[..., Channel]) -> None:
    ours, theirs = socket.socketpair()
    left = threading.Event()

    def dribble() -> None:  # 0.8 s in all, after which the proof would be wrong
        for byte in hello(role_against(opened)) + bytes(PROOF):
            if left.wait(0.01):
                return
            theirs.sendall(bytes([byte]))

    with theirs, ThreadPoolExecutor(1) as pool:
        dribbling = pool.submit(dribble)
        try:
            with pytest.raises(TimeoutError):
                opened(ours, KEY, NODE, SHORT)
        finally:
            left.set()
        assert isinstance(dribbling.exception(SECONDS), OSError | None)


def test_a_connection_that_breaks_in_the_handshake() -> None:
    for opened in OPEN:
        ours, theirs = socket.socketpair()
        theirs.close()
        with pytest.raises(FrameError, match="handshake"):
            opened(ours, KEY, NODE, SECONDS)


def test_nonces_are_fresh() -> None:
    with tapped() as one, tapped() as other:
        assert one.handshake[HELLO - 32 : HELLO] != other.handshake[HELLO - 32 : HELLO]
        assert one.captured(Kind.CHUNK, {}, b"1")[-16:] != other.captured(Kind.CHUNK, {}, b"1")[-16:]
