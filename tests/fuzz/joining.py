"""The join socket: packets of JSON, and a real door with whoever comes to it."""

import random
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fuzz.harness import Kind, Target
from fuzz.mutation import mutated, scrambled
from fuzz.texts import Texts, encoded
from fuzz.writing import json_text

from bptcnn.networks import Network
from bptcnn.networks.layers import Dense, Flatten
from bptcnn.outer import Coordinator, NodeJoined, NodeProfile, NodeReturned, Ready, RunSettings, Tick
from bptcnn.profiling import NodeSpeed
from bptcnn.training.joins import Joining, Joins
from bptcnn.training.members import Member
from bptcnn.training.settings import TrainSettings
from bptcnn.training.visits import (
    Door,
    Ended,
    Greeting,
    JoinRequest,
    Lost,
    Progress,
    Refused,
    Starting,
    decode,
    encode,
    short_path,
)

HOST = {"name": "far", "address": "user@far", "python": "/opt/python", "threads": 2, "env": {"A": "b"}}
GREETING = Greeting("0.1.0", "lenet5", (28, 28, 1), 64, False, 1, None)
REQUESTS = (
    JoinRequest(),
    JoinRequest("node7", 0.5, 1, True),
    JoinRequest("far", 1.0, 2, False, HOST, 1000.0, 4.5, 1e7, ["-c", "aes128-gcm@openssh.com"]),
)
PACKETS = (
    *REQUESTS,
    GREETING,
    Refused("no place"),
    Starting("node2", ""),
    Progress(1, 8, 0.25, 1000.0, 640),
    Lost("silent", True),
    Ended("completed", "8 epochs trained"),
)
PLACES = 18
_TURNS = 40  # of the door, half a second each in a run
_SECONDS = 20.0


def plain(packet: Any) -> dict[str, Any]:
    """Return what JSON holds of a packet."""
    return {"kind": type(packet).__name__, **asdict(packet)}


def _packet(content: bytes) -> None:
    found = decode(content)
    assert type(found).__name__ in {type(packet).__name__ for packet in PACKETS}
    assert decode(encode(found)) == found


class StubLauncher:
    """What `Joins` wants of a launcher; nothing is started."""

    places = PLACES

    def __init__(self) -> None:
        self.network = Network((4, 4, 1), [Flatten(), Dense(10)], "lenet5")
        self.settings = TrainSettings(nodes=(1.0, 1.0), threads=1)
        self.members = [Member(f"node{index}", 1.0, 1, NodeSpeed(1000.0, 2.0)) for index in range(2)]

    def make_room(self, index: int, member: Member) -> None:
        assert 0 <= index < self.places


class Visits(Target):
    """Two visitors say anything at a real door, over which a run's coordinator stands; an honest one comes after."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "join.sock"

    def valid(self) -> Sequence[list[bytes]]:
        return [[encode(request)] for request in REQUESTS]

    def draw(self, draw: random.Random) -> list[bytes]:
        packets = []
        for _ in range(draw.randint(1, 3)):
            packet = draw.choice(REQUESTS if draw.random() < 0.8 else PACKETS)
            text = encoded(json_text(mutated(plain(packet), draw), draw))
            packets.append(text[:60_000] if draw.random() < 0.9 else scrambled(text, draw)[:60_000])
        if draw.random() < 0.2:
            packets.append(encode(draw.choice(REQUESTS)))
        return packets

    def take(self, given: list[bytes]) -> str | None:
        launcher: Any = StubLauncher()
        profiles = [NodeProfile(member.name, 1000.0) for member in launcher.members]
        settings = RunSettings(tuple(profiles), 1000, 2, 10, 2, (0.1, 0.1))
        coordinator = Coordinator(settings)
        for node in range(2):
            coordinator.handle(Ready(node, 0.1))
        joins = Joins(Door(self._path), GREETING, launcher, profiles)
        try:
            with self._visitor() as first, self._visitor() as second:
                for index, packet in enumerate(given):
                    with suppress(BlockingIOError):  # more than a socket holds that nobody has read
                        (first, second)[index % 2].send(packet)
                self._attend(joins, coordinator, turns=6)
                with self._visitor() as honest:
                    honest.send(encode(JoinRequest("honest")))
                    said = self._attend(joins, coordinator, turns=_TURNS, until=honest)
                assert any(isinstance(packet, Starting) for packet in said), f"an honest node is told {said}"
        finally:
            joins.close(Ended("stopped", "over"))
        coordinator.validate()
        return None

    @contextmanager
    def _visitor(self) -> Iterator[socket.socket]:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as opened, short_path(self._path) as name:
            opened.settimeout(_SECONDS)
            opened.connect(name)
            opened.setblocking(False)
            yield opened

    def _attend(
        self, joins: Joins, coordinator: Coordinator, turns: int, until: socket.socket | None = None
    ) -> list[Any]:
        """Attend as the driver does; return what somebody has been told, once that is an answer."""
        said: list[Any] = []
        for turn in range(turns):
            for wish in joins.attend(coordinator.statuses, coordinator.epoch, 2):
                if isinstance(wish, Joining):
                    now = 1.0 + turn
                    coordinator.handle(
                        NodeJoined(wish.index, now, wish.profile.name, wish.profile.speed, wish.profile.trusted)
                    )
                    coordinator.handle(NodeReturned(wish.index, now))
                    coordinator.handle(Tick(now))
            if until is not None:
                said += self._heard(until)
                if any(isinstance(packet, Starting | Refused) for packet in said):
                    return said
            time.sleep(0.0005)  # what is allocated is, in a thread
        return said

    def _heard(self, opened: socket.socket) -> list[Any]:
        found = []
        while True:
            try:
                content = opened.recv(1 << 16)
            except BlockingIOError:
                return found
            except ConnectionResetError:
                content = b""
            if not content:
                return found
            found.append(decode(content))


@contextmanager
def _open_packets(folder: Path) -> Iterator[Target]:
    yield Texts([plain(packet) for packet in PACKETS], json_text, _packet, (ValueError,))


@contextmanager
def _open_visits(folder: Path) -> Iterator[Target]:
    yield Visits(folder)


KINDS = (Kind("join-packet", 80, _open_packets), Kind("join-door", 40, _open_visits))
