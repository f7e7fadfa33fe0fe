"""Nodes that join a run: they train, every sample counts once, and they may leave or be killed at any moment."""

import json
import os
import random
import signal
import socket
import stat
import time
from pathlib import Path
from typing import Any

import pytest
from training.faults import spying
from training.guests import Host
from training.runs import check_counts, data, listed, run, summary

from bptcnn.errors import UserError
from bptcnn.outer import NodeStatus
from bptcnn.training import EpochRow, Snapshot
from bptcnn.training.joining import Connection
from bptcnn.training.visits import JoinRequest, Lost, Progress, Refused, Starting, short_path

SAMPLES = 600
DATA = data(SAMPLES, 100)
MANY = 100_000  # epochs: the run is ended otherwise


def history(folder: Path) -> list[dict[str, Any]]:
    """The lines of allocation.jsonl."""
    return [json.loads(line) for line in (folder / "allocation.jsonl").read_text().splitlines()]


def hosted(folder: Path, host: Host, nodes: int = 1, **settings: Any) -> None:
    """Run until the host ends it; the nodes leave time to those that start."""
    with pytest.raises(KeyboardInterrupt):
        run(folder, DATA, epochs=MANY, observer=host, nodes=(0.2,) * nodes, **settings)
    found = summary(folder)
    assert sum(node["images"] for node in found["nodes"]) == found["images_trained"]
    assert found["epochs"] * SAMPLES <= found["images_trained"]


def goes_on(folder: Path) -> dict[str, Any]:
    """Resume a run for one epoch."""
    epochs = summary(folder)["epochs"] + 1
    run(folder, DATA, epochs=epochs, resume=True)
    return check_counts(folder, SAMPLES, epochs)


@pytest.mark.parametrize("update", ["agwu", "sgwu"])
def test_a_node_joins_and_a_resumed_run_knows_what_it_did(tmp_path: Path, update: str) -> None:
    folder = tmp_path / "run"

    class Looking(Host):
        def node_joined(self, name: str) -> None:
            super().node_joined(name)
            names.extend(entry["name"] for entry in listed(folder))
            mode.append(stat.S_IMODE(os.stat(folder / "join.sock").st_mode))

        def is_enough(self, status: NodeStatus) -> bool:
            return super().is_enough(status) and status.share > 0.1

    names: list[str] = []
    mode: list[int] = []
    with spying(folder) as spy:
        host = Looking(spy, JoinRequest(name="node2", speed=0.5), images=300)
        hosted(folder, host, nodes=2, update=update)
    assert (host.joined, mode) == (["node2"], [0o600])
    assert set(names) <= {"node0", "node1", "node2"}
    (guest,) = host.guests
    assert guest.kinds() == ["Starting", "Progress", "Ended"]
    assert (guest.ended.outcome, guest.ended.reason) == ("stopped", "interrupted")
    nodes = summary(folder)["nodes"]
    assert [(node["name"], node["speed"], node["lost"]) for node in nodes[1:]] == [
        ("node1", 0.2, None),
        ("node2", 0.5, None),
    ]
    assert nodes[2]["images"] >= 300
    entries = history(folder)
    assert entries[0]["cause"] == "round"
    joined = [entry for entry in entries if entry["cause"] == "join"]
    assert [entry["node"] for entry in joined] == ["node2"]
    assert all(sum(shard["samples"] for shard in entry["shards"]) <= SAMPLES for entry in entries)
    assert not (folder / "join.sock").exists()
    again = goes_on(folder)["nodes"]
    assert [node["name"] for node in again] == ["node0", "node1", "node2"]
    assert again[2]["lost"] == "left out when the run was resumed"
    assert history(folder)[: len(entries)] == entries
    assert "resume" in {entry["cause"] for entry in history(folder)[len(entries) :]}


def test_a_node_joins_one_that_was_alone(tmp_path: Path) -> None:
    with spying(tmp_path / "run") as spy:
        host = Host(spy, JoinRequest(threads=1))
        hosted(tmp_path / "run", host)
    assert host.joined == ["joined1"]
    (guest,) = host.guests
    guest.kinds()
    assert isinstance(guest.packets[0], Starting)
    shown = [packet for packet in guest.packets if isinstance(packet, Progress)]
    assert all(0.0 <= packet.share <= 1.0 and packet.epochs == MANY for packet in shown)


@pytest.mark.parametrize("update", ["agwu", "sgwu"])
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 12))])
def test_a_node_that_joined_is_killed_or_leaves_at_any_moment(tmp_path: Path, update: str, seed: int) -> None:
    """While it starts, soon after, or in the middle of training; the run goes on, and takes in another one."""
    chance = random.Random(f"{seed} {update}")
    leaves = chance.random() < 0.4
    limits = {"images": chance.choice([0, 0, 20, 200])}

    class Harmed(Host):
        """Harms its first guest once the node has trained some images; ends the run when the second one trains."""

        harmed = 0.0

        def progress(self, snapshot: Snapshot) -> None:
            first = next((status for status in snapshot.nodes if status.name == "node2"), None)
            if first is None or self.harmed:
                super().progress(snapshot)
                return
            there = "node2" in self._spy.pids  # its process has been started
            if there and first.totals.images >= limits["images"]:
                time.sleep(chance.uniform(0.0, 0.1))
                if leaves:
                    self.guests[0].leave()
                else:
                    os.kill(self._spy.pids["node2"], chance.choice([signal.SIGKILL, signal.SIGSEGV]))
                self.harmed = time.monotonic()
                self._request = JoinRequest(name="node3")
                self.invite()

        def is_enough(self, status: NodeStatus) -> bool:
            return status.name == "node3" and super().is_enough(status)

    with spying(tmp_path / "run") as spy:
        host = Harmed(spy, JoinRequest(name="node2"))
        hosted(tmp_path / "run", host, nodes=2, update=update)
    first, second = host.guests
    assert second.kinds() == ["Starting", "Progress", "Ended"]
    kinds = first.kinds()
    nodes = {node["name"]: node for node in summary(tmp_path / "run")["nodes"]}
    if leaves:
        assert nodes["node2"]["lost"] == "it left the run"
    else:
        assert kinds[-1] == "Lost"
        told = first.packets[-1]
        assert isinstance(told, Lost)
        assert told.reason == nodes["node2"]["lost"]
        assert not told.may_return
    goes_on(tmp_path / "run")


def test_a_node_that_was_lost_joins_again_under_its_name(tmp_path: Path) -> None:
    with spying(tmp_path / "run") as spy:
        host = Host(spy, JoinRequest(name="node1"), report=40)
        spy.at[10] = lambda: spy.signal("node1")
        hosted(tmp_path / "run", host, nodes=2)
    assert set(host.reasons) == {"node1"}
    found = summary(tmp_path / "run")["nodes"]
    assert [(node["name"], node["lost"]) for node in found] == [("node0", None), ("node1", None)]


def test_a_node_that_stays_when_its_connection_ends(tmp_path: Path) -> None:
    class Leaves(Host):
        """The run may end when the node has trained more after the end of the thread that asked."""

        images_then: int | None = None

        def node_joined(self, name: str) -> None:
            super().node_joined(name)
            self.guests[0].leave()

        def is_enough(self, status: NodeStatus) -> bool:
            if self.images_then is None and self.guests[0].is_over:
                self.images_then = status.totals.images
            return self.images_then is not None and status.totals.images >= self.images_then + 100

    with spying(tmp_path / "run") as spy:
        host = Leaves(spy, JoinRequest(stay=True))
        hosted(tmp_path / "run", host)
    assert host.reasons == {}


def test_who_is_refused(tmp_path: Path) -> None:
    """One after the other, while a run goes on."""
    refused = [
        (JoinRequest(name="node0"), "a node called node0 takes part in the run already"),
        (JoinRequest(name="a/b"), "name is 'a/b'"),
        (JoinRequest(speed=1.5), "speed must be at least 0.001, at most 1, not 1.5"),
        (JoinRequest(speed=0.0005), "speed must be at least 0.001, at most 1, not 0.0005"),
        (JoinRequest(threads=0), "threads is 0, not a whole number from 1 to 4096"),
        (JoinRequest(threads="two"), "threads is 'two', not a whole number from 1 to 4096"),  # type: ignore[arg-type]
        (JoinRequest(speed="fast"), "speed is 'fast', not a number"),  # type: ignore[arg-type]
        (JoinRequest(host={"address": "-x", "python": "/p"}), "address is '-x'"),
        (JoinRequest(host={"adress": "x"}), "unknown key 'adress'"),
    ]

    class Refuses(Host):
        def progress(self, snapshot: Snapshot) -> None:
            if len(self.guests) < len(refused):
                self._request = refused[len(self.guests)][0]
                self.invite()
            elif all(guest.packets for guest in self.guests):
                raise KeyboardInterrupt

    with spying(tmp_path / "run") as spy:
        host = Refuses(spy, JoinRequest(), report=-1)
        hosted(tmp_path / "run", host)
    for guest, (_, reason) in zip(host.guests, refused, strict=True):
        (packet,) = guest.packets
        assert isinstance(packet, Refused)
        assert reason in packet.reason
        guest.kinds()
    assert not host.joined
    assert [node["name"] for node in summary(tmp_path / "run")["nodes"]] == ["node0"]


def test_there_is_nothing_to_join(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run at"):
        Connection(tmp_path / "none")
    folder = tmp_path / "run"
    run(folder, DATA, epochs=1, nodes=1)
    with pytest.raises(UserError, match="not running on this machine"):
        Connection(folder)
    with short_path(folder / "join.sock") as name, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as left:
        left.bind(name)  # and closed, but not removed: as by a run that was killed
    with pytest.raises(UserError, match="not running on this machine"):
        Connection(folder)
    run(folder, DATA, epochs=2, resume=True)
    check_counts(folder, SAMPLES, 2)


def test_a_folder_that_lies_deep_is_no_obstacle(tmp_path: Path) -> None:
    folder = tmp_path / ("deep" * 20) / ("deeper" * 10) / "run"

    class Watching(Host):
        def epoch_ended(self, row: EpochRow, best: bool) -> None:
            if row.epoch == 1:
                assert len(str(folder / "join.sock")) > 200
                with Connection(folder):
                    pass

    with spying(folder) as spy:
        run(folder, DATA, epochs=2, nodes=1, observer=Watching(spy, JoinRequest(), report=-1))
