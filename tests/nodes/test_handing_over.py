"""An agent's configuration reaches it, however large it is and however late it starts; what cannot be sent is said."""

import os
import signal
import socket
import struct
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace

import pytest
from nodes.agents import TINY, agent, gone, ready, submissions
from nodes.test_bootstrap import bootstrap
from nodes.users_own import Mine, Unreadable

from bptcnn.errors import UserError
from bptcnn.networks import Network
from bptcnn.nodes import LocalNode, NodeGone
from bptcnn.nodes import bootstrap as bootstrap_module
from bptcnn.outer import Heartbeat, Pause, Stop

TABLE_BYTES = 3_000_000  # more than any socket's buffer


def mine(table: object) -> Network:
    network = Mine(TINY.input_shape, TINY.layers, "mine")
    network.table = table
    return network


@pytest.fixture(autouse=True)
def agents_find_this_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")])
    )


def test_a_large_configuration_waits_for_an_agent_that_starts_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = str(Path(__file__).parent / "late")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([late, os.environ["PYTHONPATH"]]))
    monkeypatch.setenv("AGENTS_START", str(tmp_path / "start"))
    with agent(tmp_path, network=mine(os.urandom(TABLE_BYTES))) as bench:  # the agent has read nothing yet
        bench.node.send(bench.work(count=16))
        (tmp_path / "start").touch()
        ready(bench.node)
        assert submissions(bench.node, 16)[-1].samples_committed == 16


def test_a_network_that_cannot_be_pickled_is_refused_in_a_line(tmp_path: Path) -> None:
    refused = pytest.raises(UserError, match=r"the network cannot be sent to its nodes: .*generator")
    with refused, agent(tmp_path, network=mine(table=(n for n in ()))):
        pass


def test_a_network_that_cannot_be_unpickled_is_the_reason_told(tmp_path: Path) -> None:
    with agent(tmp_path, network=mine(Unreadable())) as bench:
        said = gone(bench.node)
        assert said.startswith(
            "its process ended with code 2: its network cannot be unpickled: RuntimeError: this table"
        )
        assert "\n" not in said


def test_a_configuration_that_no_host_takes_is_refused_before_ssh_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap_module, "LONGEST_CONFIGURATION", 1000)
    with pytest.raises(UserError, match="MB of Python code and data, a host takes"):
        bootstrap_module.encode_bootstrap(bootstrap(mine(bytes(2000))))


def test_nothing_follows_a_message_of_which_a_part_was_sent(tmp_path: Path) -> None:
    with agent(tmp_path) as bench:
        ready(bench.node)
        os.kill(bench.node.pid or 0, signal.SIGSTOP)
        work = bench.work(count=20_000)

        def flood() -> None:
            for _ in range(1000):
                bench.node.send(work)

        with pytest.raises(NodeGone, match="took no message"):
            flood()
        os.kill(bench.node.pid or 0, signal.SIGCONT)  # it would read the next message into the one cut short
        with pytest.raises(NodeGone, match="a part of a message"):
            bench.node.send(Pause())


def wired() -> tuple[LocalNode, socket.socket]:
    """A node without a process, and the other end of its connection."""
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, 100_000))
    node = LocalNode.__new__(LocalNode)
    node._connection = Connection(ours.detach())
    node._sending = node._cut_short = False
    node._ending = lambda: "its connection broke"  # type: ignore[method-assign]
    return node, theirs


def test_after_ctrl_c_within_a_message_nothing_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    node, theirs = wired()
    with theirs:

        def interrupted(message: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(node._connection, "send", interrupted)
        with pytest.raises(KeyboardInterrupt):
            node.send(Stop())
        with pytest.raises(NodeGone, match="a part of a message"):
            node.send(Pause())
        node._connection.close()


def test_what_follows_an_event_that_was_cut_short_is_not_read() -> None:
    node, theirs = wired()
    with Connection(theirs.detach()) as peer:
        beat = Heartbeat(0, 1.0, 5)
        peer.send(beat)
        os.write(peer.fileno(), struct.pack("!i", 1000) + b"part")
        assert node.receive() == [beat]
        for _ in range(200):
            peer.send(beat)  # into the event that was cut short
        for _ in range(2):
            with pytest.raises(NodeGone, match="its connection broke"):
                node.receive()
        node._connection.close()


@pytest.mark.parametrize(
    ("printed", "reason"), [(b"earlier\nwhat went wrong\x1b[31m\n\n", "what went wrong [31m"), (b"\n", ""), (b"", "")]
)
def test_the_last_line_that_it_printed_is_the_reason_of_an_end(printed: bytes, reason: str) -> None:
    node, theirs = wired()
    with theirs:
        node._log = SimpleNamespace(close=lambda: printed)  # type: ignore[assignment]
        assert node._last_words() == reason
        node._connection.close()
