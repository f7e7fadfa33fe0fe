"""The door of a run: whoever comes, and whatever is said there, training goes on and who means it gets in."""

import json
import os
import random
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bptcnn.errors import UserError
from bptcnn.outer import NodeProfile, NodeStatus, NodeTotals
from bptcnn.training import joining, joins
from bptcnn.training.joining import Connection
from bptcnn.training.joins import Joins
from bptcnn.training.visits import (
    LONGEST_PACKET,
    Door,
    Ended,
    Greeting,
    JoinRequest,
    Lost,
    Packet,
    Progress,
    Refused,
    Starting,
    decode,
    encode,
    short_path,
)
from bptcnn.untrusted import Malformed
from bptcnn.version import VERSION

HOST = {"address": "127.0.0.1", "python": "/bin/false", "name": "h"}
GREETING = Greeting(VERSION, "lenet5", (28, 28, 1), 64, False, None, None)
PACKETS: list[Packet] = [
    GREETING,
    JoinRequest(),
    JoinRequest("a", 0.5, 2, True, {**HOST, "port": 7, "env": {"A": "b"}}, 1e3, 2.0, 1e6, ["Ciphers=a"]),
    Refused("no"),
    Starting("a", ""),
    Progress(1, 2, 0.5, None, 7),
    Progress(1, 2, 0.0, 12.5, 7),
    Lost("gone", True),
    Ended("completed", "2 epochs trained"),
]
NOISE: list[bytes] = [
    b"[" * 60_000,
    b'{"kind":' * 7_000,
    random.Random(0).randbytes(60_000),
    b'{"kind":"JoinRequest","speed":' + b"9" * 60_000 + b"}",
    b"5",
    b"null",
    b"[]",
    b"{}",
    b'{"kind":[]}',
    b'{"kind":"Door"}',
    b'{"kind":"JoinRequest"}',
    b"\xff",
    b"x" * LONGEST_PACKET,
]
WRONG: list[dict[str, Any]] = [
    {"images_per_second": "x"},
    {"images_per_second": 0.0},
    {"images_per_second": -1.0},
    {"images_per_second": float("nan")},
    {"images_per_second": 1e300},
    {"cores_times_clock": 0.0},
    {"cores_times_clock": 1e300},
    {"cores_times_clock": float("inf")},
    {"cores_times_clock": []},
    {"bandwidth": "x"},
    {"bandwidth": 0},
    {"bandwidth": 1e300},
    {"speed": "x"},
    {"speed": 5e-324},
    {"speed": 0},
    {"speed": 2000.0},
    {"speed": True},
    {"threads": 0},
    {"threads": 10**9},
    {"threads": "2"},
    {"stay": 1},
    {"name": ""},
    {"name": "x" * 101},
    {"name": 7},
    {"host": []},
    {"host": {"address": None}},
    {"host": {"address": ["a"]}},
    {"host": {f"k{n}": 1 for n in range(30)}},
    {"options": "Ciphers=a"},
    {"options": [5]},
    {"options": ["Ciphers=a"] * 11},
    {"more": 1},
]


def request(**changes: Any) -> bytes:
    return json.dumps({"kind": "JoinRequest", **asdict(JoinRequest()), **changes}).encode()


@pytest.mark.parametrize("packet", PACKETS, ids=lambda packet: type(packet).__name__)
def test_packets_arrive_as_they_were(packet: Packet) -> None:
    assert decode(encode(packet)) == packet


@pytest.mark.parametrize("noise", NOISE, ids=lambda noise: repr(noise[:12]))
def test_noise_is_refused_in_a_line(noise: bytes) -> None:
    with pytest.raises(Malformed) as refused:
        decode(noise)
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 500


@pytest.mark.parametrize("changes", WRONG, ids=lambda changes: repr(changes)[:40])
def test_wrong_fields_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(Malformed):
        decode(request(**changes))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(st.sampled_from(PACKETS), st.data())
def test_whatever_a_field_holds_is_a_packet_or_refused(packet: Packet, data: st.DataObject) -> None:
    plain = {"kind": type(packet).__name__, **asdict(packet)}
    plain[data.draw(st.sampled_from([field.name for field in fields(packet)]))] = data.draw(JSON)
    try:
        came = decode(json.dumps(plain).encode())
    except Malformed:
        return
    assert all(not isinstance(value, str) or value.isprintable() for value in vars(came).values())


# ---- at the door -----------------------------------------------------------------------------------------------------


class Launcher:
    """As far as joins need one before they have a place."""

    places = 1
    members: list[Any]
    settings = None


def no_statuses() -> list[NodeStatus]:
    return [NodeStatus("node0", True, False, NodeTotals(), 1.0, False, 1.0, 0, None)]


class Here:
    """A run's door, looked after as the driver does."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._path, self._stack = folder / "join.sock", stack
        launcher: Any = Launcher()
        self.joins = Joins(Door(self._path), GREETING, launcher, [NodeProfile("node0", 1.0)])
        stack.callback(self.joins.close, Ended("stopped", "over"))

    def client(self) -> socket.socket:
        made = self._stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        with short_path(self._path) as name:
            made.connect(name)
        made.settimeout(10.0)
        return made

    def attend(self) -> None:
        assert self.joins.attend(no_statuses, 1, 2) == []


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Here]:
    with ExitStack() as stack:
        yield Here(tmp_path, stack)


def test_silent_clients_keep_nobody_out(here: Here) -> None:
    held = []
    for _ in range(7):
        held += [here.client() for _ in range(30)]
        here.attend()
    honest = here.client()
    here.attend()
    assert isinstance(decode(honest.recv(LONGEST_PACKET)), Greeting)
    honest.send(request())
    here.attend()
    said = decode(honest.recv(LONGEST_PACKET))  # by the launcher above there is no place
    assert isinstance(said, Refused)
    assert "no place" in said.reason
    assert isinstance(decode(held[0].recv(LONGEST_PACKET)), Greeting)
    assert isinstance(decode(held[0].recv(LONGEST_PACKET)), Refused), "the one that came first has to go"


def test_who_asks_for_nothing_is_sent_away(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    client = here.client()
    here.attend()
    monkeypatch.setattr(joins, "_SILENT_SECONDS", 0.0)
    here.attend()
    client.recv(LONGEST_PACKET)
    assert decode(client.recv(LONGEST_PACKET)) == Refused("it asked for nothing within 0 s")
    assert client.recv(LONGEST_PACKET) == b""


@pytest.mark.parametrize(
    "said", [*NOISE, *(request(**changes) for changes in WRONG)], ids=lambda said: repr(said[-40:])
)
def test_whatever_is_said_at_the_door_the_run_goes_on(here: Here, said: bytes) -> None:
    client = here.client()
    here.attend()
    client.recv(LONGEST_PACKET)
    client.send(said)
    here.attend()
    answer = decode(client.recv(LONGEST_PACKET))
    assert isinstance(answer, Refused)
    assert answer.reason.startswith("the request cannot be understood: ")
    assert client.recv(LONGEST_PACKET) == b""


@pytest.mark.parametrize("option", ["ProxyCommand=touch /tmp/x", "Ciphers=a\nProxyCommand=x", "-oProxyCommand=x", ""])
def test_options_of_ssh_that_run_programs_are_refused(here: Here, option: str) -> None:
    here.joins._launcher.places = 2  # type: ignore[misc]
    client = here.client()
    here.attend()
    client.recv(LONGEST_PACKET)
    client.send(request(host=HOST, options=[option or "Ciphers="]))
    here.attend()
    here.attend()
    said = decode(client.recv(LONGEST_PACKET))
    assert isinstance(said, Refused)
    assert "ssh is not given the option" in said.reason


# ---- the command that joins ------------------------------------------------------------------------------------------


@pytest.fixture
def run_folder(tmp_path: Path) -> Iterator[tuple[Path, socket.socket]]:
    (tmp_path / "config.toml").touch()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        with short_path(tmp_path / "join.sock") as name:
            listener.bind(name)
        listener.listen()
        yield tmp_path, listener


@pytest.mark.parametrize("said", [*NOISE, encode(GREETING).replace(b"28", b"-1"), encode(GREETING)[:-1]], ids=repr)
def test_what_a_run_says_is_decoded(run_folder: tuple[Path, socket.socket], said: bytes) -> None:
    folder, listener = run_folder
    with Connection(folder) as connection, listener.accept()[0] as accepted:
        accepted.send(said)
        with pytest.raises(UserError) as refused:
            connection.meet(lambda text: None)
    assert str(refused.value).isprintable()


def test_a_run_cannot_steer_the_terminal(run_folder: tuple[Path, socket.socket]) -> None:
    folder, listener = run_folder
    with Connection(folder) as connection, listener.accept()[0] as accepted:
        accepted.send(encode(replace(GREETING, network="\x1b[2Jx", hosts="/a\x07b")))
        greeting = connection.meet(lambda text: None)
    assert (greeting.network, greeting.hosts) == (" [2Jx", "/a b")


def test_another_users_run_is_not_joined(
    run_folder: tuple[Path, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It could name a hosts file, and so programs on this user's hosts."""
    monkeypatch.setattr(joining.os, "getuid", lambda: os.geteuid() + 1)
    with pytest.raises(UserError, match="is another user's"):
        Connection(run_folder[0])
