"""Names of sockets: private, drawn anew, and swept where their owner died."""

import os
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bptcnn.nodes import sockets
from bptcnn.nodes.sockets import LocalSockets, remote_names, remove_names, sweep_remote
from bptcnn.nodes.ssh import _SOCKET_PATH


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where names lie, here and on a host; short, as names of sockets are."""
    with tempfile.TemporaryDirectory(prefix="b", dir="/tmp") as made:
        monkeypatch.setattr(tempfile, "tempdir", made)
        monkeypatch.setattr(sockets, "_REMOTE_FOLDER", Path(made))
        yield Path(made)


def listener(path: str | Path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX)
    made.bind(os.fspath(path))
    made.listen()
    return made


def close(pair: LocalSockets) -> None:
    pair.control.close()
    pair.data.close()
    pair.forget_names()


def test_local_sockets_are_the_users_alone_until_their_names_are_forgotten(folder: Path) -> None:
    made = LocalSockets()
    try:
        (owned,) = folder.iterdir()
        assert stat.S_IMODE(owned.stat().st_mode) == 0o700
        assert all(_SOCKET_PATH.fullmatch(path) for path in made.paths())
        with socket.socket(socket.AF_UNIX) as opened:
            opened.connect(made.paths()[0])
            accepted, _ = made.control.accept()
            with accepted:
                made.forget_names()
                made.forget_names()
                assert not list(folder.iterdir())
                opened.sendall(b"x")
                assert accepted.recv(1) == b"x", "who is connected stays so"
        with socket.socket(socket.AF_UNIX) as late, pytest.raises(FileNotFoundError):
            late.connect(made.paths()[0])
    finally:
        close(made)


def test_names_on_a_host_are_never_the_same() -> None:
    names = {name for _ in range(100) for name in remote_names()}
    assert len(names) == 200
    assert all(_SOCKET_PATH.fullmatch(name) and len(name) < 100 for name in names)  # 108 bytes are the most


def test_what_the_dead_have_left_here_is_swept(folder: Path) -> None:
    first = LocalSockets()
    (alive,) = folder.iterdir()
    _, pid, started, _ = alive.name.split("-", 3)
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], stdout=subprocess.PIPE, check=True)
    dead = folder / f"bptcnn-{int(ended.stdout)}-{started}-abc"
    reused = folder / f"bptcnn-{pid}-{int(started) - 100}-abc"  # a living process has the number of a dead one
    others = [folder / name for name in ("bptcnn-x-1-abc", "bptcnn-1", "other-1-1-a", "bptcnn-\u00b2-1-a")]
    for made in (dead, reused, *others):
        made.mkdir()
        (made / "c").touch()
    second = LocalSockets()
    try:
        left = set(folder.iterdir())
        assert not {dead, reused} & left
        assert {alive, *others} < left
        assert len(left) == 6
    finally:
        close(first)
        close(second)


def test_sweeps_at_the_same_time_do_not_disturb_each_other(folder: Path) -> None:
    def sweep(number: int) -> None:
        for turn in range(20):
            (folder / f"bptcnn-999999999-{number}-{turn}").mkdir()
            close(LocalSockets())

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(sweep, range(4)))
    assert not list(folder.iterdir())


def test_what_the_dead_have_left_on_a_host_is_swept(folder: Path) -> None:
    own, others = remote_names(), remote_names()
    for name in own:
        listener(name).close()  # nobody listens yet, but they are the caller's
    dead = remote_names()
    for name in dead:
        listener(name).close()
    file, strange = folder / "bptcnn-1.control", folder / "bptcnn-2.txt"
    file.touch()
    strange.touch()
    with listener(others[0]), listener(others[1]):
        sweep_remote(own)
        left = {os.fspath(path) for path in folder.iterdir()}
    assert left == {*own, *others, str(file), str(strange)}


def test_names_that_are_gone_already_are_no_error(folder: Path) -> None:
    names = remote_names()
    listener(names[0]).close()
    remove_names(names)
    remove_names(names)
    assert not list(folder.iterdir())


def test_a_socket_whose_backlog_is_full_lives(folder: Path) -> None:
    name = remote_names()[0]
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as waiting:
        busy.bind(name)
        busy.listen(0)
        waiting.connect(name)
        sweep_remote(())
        assert Path(name).exists()
