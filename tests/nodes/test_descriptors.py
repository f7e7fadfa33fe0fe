"""How many of the coordinator's descriptors nodes take: what is asked for before a run begins."""

import os
import resource
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from nodes.agents import agent, ready, submissions
from nodes.loopback import Loopback, loopback

from bptcnn.errors import UserError
from bptcnn.nodes import local, remote
from bptcnn.nodes.sockets import LocalSockets
from bptcnn.nodes.ssh import can_forward


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loopback]:
    with loopback(tmp_path_factory.mktemp("sshd")) as found:
        yield found


def count() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_local_node_takes_as_many_as_it_says(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with agent(tmp_path / "a") as first:
        ready(first.node)
        shared = 2 * 4  # the bench's weights, images, labels and clock: a descriptor and a mapping's own each
        before = count()
        with agent(tmp_path / "b") as second:
            ready(second.node)
            assert count() - before == local.DESCRIPTORS + shared


def test_a_host_takes_no_more_than_it_says(tmp_path: Path, here: Loopback, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BPTCNN_SSH", here.ssh)
    most, over = 0, threading.Event()
    before = count()

    def watch() -> None:
        nonlocal most
        while not over.wait(0.002):
            most = max(most, count())

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        with agent(tmp_path, address="good") as bench:
            ready(bench.node)
            bench.node.send(bench.work(count=16))
            submissions(bench.node, 16)
            steady = count() - before
    finally:
        over.set()
        watching.join()
    shared, starting = 2, 8  # the bench's weights; a process that starts
    assert remote.DESCRIPTORS - 2 <= steady - shared <= remote.DESCRIPTORS
    assert most - before <= remote.DESCRIPTORS + shared + starting


@pytest.mark.parametrize("name", ["with blank", "o'quote", 'double"', "größe", "100%", "a:b", "$HOME", "back\\slash"])
def test_a_host_trains_whatever_tmpdir_is_called(
    tmp_path: Path, here: Loopback, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    folder = tmp_path / name
    folder.mkdir()
    monkeypatch.setenv("BPTCNN_SSH", here.ssh)
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    if name == "with blank":
        with agent(tmp_path, address="good") as bench:
            ready(bench.node)
            assert submissions_of(bench) == 16
        return
    made = LocalSockets()
    try:
        assert all(can_forward(path) for path in made.paths())
    finally:
        made.close()


def submissions_of(bench: object) -> int:
    bench.node.send(bench.work(count=16))  # type: ignore[attr-defined]
    return submissions(bench.node, 16)[-1].samples_committed  # type: ignore[attr-defined]


def test_a_deep_tmpdir_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / ("deep" * 25)
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    made = LocalSockets()
    try:
        assert all(len(path) < 108 for path in made.paths())
    finally:
        made.close()
    assert not Path(made.paths()[0]).parent.exists()


def test_without_a_folder_for_sockets_a_line_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "a b"))
    monkeypatch.setattr("bptcnn.nodes.sockets._FOLDERS", (str(tmp_path / "none"),))
    with pytest.raises(UserError, match="no folder for the sockets of a host"):
        LocalSockets()


def test_descriptors_that_run_out_while_a_host_starts_are_a_line_and_leave_none(tmp_path: Path, here: Loopback) -> None:
    """Whichever of its descriptors is the one that is lacking."""
    program = (
        "import gc, os, resource, sys\n"
        f"sys.path.insert(0, {str(Path(__file__).parent.parent)!r})\n"
        "from pathlib import Path\n"
        "from nodes.agents import agent\n"
        "from bptcnn.errors import UserError\n"
        "import bptcnn.nodes.remote, encodings.idna\n"
        "hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]\n"
        "for more in range(2, 16):\n"
        "    before = os.listdir('/proc/self/fd')\n"
        "    resource.setrlimit(resource.RLIMIT_NOFILE, (len(before) + more, hard))\n"
        "    try:\n"
        f"        with agent(Path({str(tmp_path)!r}), address='good'):\n"
        "            pass\n"
        "    except UserError as error:\n"
        "        assert str(error).count('\\n') == 0, error\n"
        "        print('refused')\n"
        "    except OSError as error:\n"
        "        assert 'memfd' in str(error) or more < 5, error  # the bench's own\n"
        "    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))\n"
        "    gc.collect()\n"
        "    assert os.listdir('/proc/self/fd') == before, more\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "BPTCNN_SSH": here.ssh, "PYTHONPATH": str(Path(__file__).parent.parent.parent)},
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout.count("refused") >= 4  # where ssh itself cannot be started, it is the node that says so


def test_limits_are_numbers_that_can_be_compared() -> None:
    from bptcnn.descriptors import descriptor_limits

    soft, hard = descriptor_limits()
    assert 0 < soft <= hard
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] in (soft, resource.RLIM_INFINITY)
