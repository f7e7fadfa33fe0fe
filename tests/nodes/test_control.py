"""The control socket: who is let in, and that nothing which comes through it is unpickled or does harm."""

import os
import pickle
import resource
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from multiprocessing import connection
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bptcnn.nodes.control import ControlServer, JsonConnection

KEY = bytes(range(32))
SECONDS = 20.0
GROWTH_KB = 64 << 10  # of resident memory that no refusal may cost


class Recorder:
    """A desk that writes down what it is asked."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def greet(self, version: str, pid: int) -> None:
        self.asked.append((version, pid))

    def report(self, events: list[dict[str, Any]]) -> None:
        if not isinstance(events, list):
            raise ValueError("no list")
        self.asked.append(events)

    def collect(self, seconds: float) -> dict[str, Any]:
        return {"messages": [], "updates": 7}

    def secret(self) -> str:
        raise AssertionError("not for agents")


class Door:
    """A control server and its address."""

    def __init__(self, folder: Path) -> None:
        self.address = str(folder / "c")
        self.desk = Recorder()
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(self.address)
        listener.listen()
        self.server = ControlServer(listener, KEY, self.desk)

    def raw(self) -> socket.socket:
        """Connect without a word."""
        opened = socket.socket(socket.AF_UNIX)
        opened.settimeout(SECONDS)
        opened.connect(self.address)
        return opened

    def authenticated(self) -> JsonConnection:
        """Connect as one who holds the key."""
        found = JsonConnection(connection.Client(self.address, family="AF_UNIX"), 1 << 20)
        peer: Any = found
        connection.answer_challenge(peer, KEY)
        connection.deliver_challenge(peer, KEY)
        return found

    def still_serves(self) -> None:
        """A real agent can come and be heard."""
        before = len(self.desk.asked)
        with ThreadPoolExecutor(1) as pool:  # a proxy's connection belongs to its thread
            pool.submit(self._greet).result(SECONDS)
        assert len(self.desk.asked) == before + 1

    def _greet(self) -> None:
        peer = self.authenticated()
        try:
            peer.send([None, "accept_connection", ["agent"], {}])
            assert peer.recv() == ["#RETURN", None]
            peer.send([self.server.ident, "greet", ["1", 2], {}])
            assert peer.recv() == ["#RETURN", None]
        finally:
            peer.close()


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    made = Door(tmp_path)
    yield made
    made.server.close()
    made.server.close()


def in_a_process(address: str, key: bytes, ident: str) -> "subprocess.CompletedProcess[str]":
    """Use the desk as an agent does, from a process of its own."""
    program = (
        "import sys\n"
        "from bptcnn.nodes.control import connect_desk\n"
        "desk = connect_desk(sys.argv[1], bytes.fromhex(sys.argv[2]), sys.argv[3])\n"
        "desk.greet('1', 2)\n"
        "desk.report([{'a': 1}])\n"
        "print(desk.collect(0.1)['updates'])\n"
    )
    command = [sys.executable, "-c", program, address, key.hex(), ident]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_an_agent_is_heard(door: Door) -> None:
    ended = in_a_process(door.address, KEY, door.server.ident)
    assert (ended.returncode, ended.stdout) == (0, "7\n"), ended.stderr
    assert door.desk.asked == [("1", 2), [{"a": 1}]]


@pytest.mark.parametrize("key", [bytes(32), b""])
def test_who_does_not_hold_the_key_is_not(door: Door, key: bytes) -> None:
    ended = in_a_process(door.address, key, door.server.ident)
    assert "AuthenticationError" in ended.stderr
    assert not door.desk.asked
    door.still_serves()


class Touch:
    """Unpickled, it leaves a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str, int]]:
        return os.mkdir, (str(self.path), 0o700)


def test_nothing_is_unpickled(door: Door, tmp_path: Path) -> None:
    trap = pickle.dumps(Touch(tmp_path / "touched"))
    with door.raw() as opened:
        opened.sendall(struct.pack("!i", len(trap)) + trap)
        drain(opened)
    peer = door.authenticated()
    peer.send_bytes(trap)
    assert peer.recv()[0] == "#TRACEBACK"
    peer.close()
    assert not (tmp_path / "touched").exists()
    door.still_serves()


def drain(opened: socket.socket) -> None:
    """Read until the other side has had enough."""
    try:
        while opened.recv(1 << 16):
            pass
    except ConnectionError:
        pass


@pytest.mark.parametrize("claimed", [-1, 1 << 20, (1 << 31) - 1])
def test_lengths_are_refused_before_they_cost_memory(door: Door, claimed: int) -> None:
    def sent(opened: socket.socket) -> None:
        if claimed < 0:
            opened.sendall(struct.pack("!iQ", -1, 1 << 62))
        else:
            opened.sendall(struct.pack("!i", claimed))
        opened.shutdown(socket.SHUT_WR)
        drain(opened)

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with door.raw() as opened:  # before the proof
        sent(opened)
    peer = door.authenticated()  # and after it
    with socket.socket(fileno=os.dup(peer._raw.fileno())) as opened:
        opened.settimeout(SECONDS)
        sent(opened)
    peer.close()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < GROWTH_KB
    door.still_serves()


@given(noise=st.binary(max_size=400))
@settings(max_examples=20)
def test_random_bytes_are_refused(tmp_path_factory: pytest.TempPathFactory, noise: bytes) -> None:
    door = Door(tmp_path_factory.mktemp("door"))
    try:
        with door.raw() as opened:
            opened.sendall(noise)
            opened.shutdown(socket.SHUT_WR)
            drain(opened)
        peer = door.authenticated()
        peer.send_bytes(noise)
        assert peer.recv()[0] == "#TRACEBACK"
        peer.close()
        assert not door.desk.asked
        door.still_serves()
    finally:
        door.server.close()


CALLS = ["secret", "__init__", "__class__", "asked", "__getattribute__", "#GETVALUE", "__str__"]


@pytest.mark.parametrize("name", CALLS)
def test_only_what_is_exposed_can_be_called(door: Door, name: str) -> None:
    peer = door.authenticated()
    peer.send([None, "accept_connection", ["agent"], {}])
    assert peer.recv() == ["#RETURN", None]
    peer.send([door.server.ident, name, [], {}])
    kind, result = peer.recv()
    if name == "__str__":  # multiprocessing's own, harmless
        assert "Recorder" in result
    else:
        assert kind in ("#TRACEBACK", "#UNSERIALIZABLE"), (kind, result)
    assert not door.desk.asked
    peer.send([door.server.ident, "report", [5], {}])
    assert peer.recv() == ["#TRACEBACK", "ValueError: no list"]
    peer.send("[" * 60_000)
    assert peer.recv()[0] == "#TRACEBACK"
    peer.send_bytes(b"[" * 60_000)
    assert peer.recv()[0] == "#TRACEBACK"
    peer.close()
    door.still_serves()


def test_a_peer_that_says_nothing_holds_up_nobody(door: Door) -> None:
    with door.raw(), door.raw(), door.raw():
        door.still_serves()


def test_close_ends_every_thread_whoever_is_connected(tmp_path: Path) -> None:
    door = Door(tmp_path)
    silent = door.raw()
    peer = door.authenticated()
    peer.send([None, "accept_connection", ["agent"], {}])
    assert peer.recv() == ["#RETURN", None]
    threads = threading.active_count()
    door.server.close()
    assert threading.active_count() < threads
    silent.close()
    peer.close()


def test_who_asks_without_end_is_cut_off_and_told_of(tmp_path: Path) -> None:
    door = Door(tmp_path)
    told: list[str] = []
    door.server._flooded = lambda: told.append("flooded")
    peer = door.authenticated()
    peer.send([None, "accept_connection", ["agent"], {}])
    peer.recv()
    answers = 0
    with suppress(EOFError, OSError):
        while answers < 5000:
            peer.send([door.server.ident, "collect", [0.0], {}])
            assert peer.recv()[0] == "#RETURN"
            answers += 1
    peer.close()
    door.server.close()
    assert told
    assert 400 < answers < 5000


def test_a_message_that_is_too_long_is_told_of(tmp_path: Path) -> None:
    door = Door(tmp_path)
    told: list[str] = []
    door.server._flooded = lambda: told.append("flooded")
    peer = door.authenticated()
    with suppress(EOFError, OSError):
        peer.send_bytes(b"[" * (1 << 17))
        peer.recv()
    peer.close()
    door.server.close()
    assert told == ["flooded"]
