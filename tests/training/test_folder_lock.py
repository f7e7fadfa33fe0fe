"""The lock of a run folder: one run at a time, nobody who may only read is in the way, and reading comes after it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from training.runs import check_counts, data, metrics, run

import bptcnn
from bptcnn.errors import UserError
from bptcnn.training import Observer, RunFolder
from bptcnn.training import start as starting
from bptcnn.training.checkpoint import Checkpoint, read_checkpoint

SMALL_DATA = data(600, 200)
NOBODY = 65534
HOLD = """
import sys
from pathlib import Path
from bptcnn.training.folder_lock import is_locked, locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def held_elsewhere(folder: Path) -> "Iterator[subprocess.Popen[str]]":
    """Another process that has the folder."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)],
        cwd=Path(bptcnn.__file__).parent.parent,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_one_holds_it_until_it_ends_however_that_is(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run")
    assert not folder.is_held()
    with held_elsewhere(folder.path) as process:
        assert folder.is_held()
        with pytest.raises(UserError, match="in use by another run"), folder.held():
            pass
        process.kill()
        process.wait()
        assert not folder.is_held()
    with folder.held():
        assert folder.is_held()
        with pytest.raises(UserError, match="in use by another run"), folder.held():
            pass
    assert not folder.is_held()


def test_only_its_owner_can_open_it(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run")
    (folder.path / "lock").write_text("")
    (folder.path / "lock").chmod(0o666)  # as it may come with somebody's folder
    with folder.held():
        assert (folder.path / "lock").stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(os.getuid() != 0, reason="needs another user")
def test_a_reader_cannot_be_in_the_way(tmp_path: Path) -> None:
    """Whatever can be locked by who can only read: the folder, and each file in it."""
    folder = RunFolder.create(tmp_path / "run")
    folder.write_config({})
    with folder.held():
        pass
    for path in (tmp_path, *tmp_path.parents):
        if path.stat().st_uid == os.getuid() and path != Path("/") and path != Path("/tmp"):
            path.chmod(0o755)
    code = f"""
import fcntl, os, sys
os.setuid({NOBODY})
for path in sys.argv[1:]:
    try:
        fcntl.flock(os.open(path, os.O_RDONLY), fcntl.LOCK_EX)
    except PermissionError:
        pass
print("locked", flush=True)
sys.stdin.read()
"""
    paths = [str(folder.path), *(str(path) for path in folder.path.iterdir())]
    with subprocess.Popen(
        [sys.executable, "-c", code, *paths], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "locked\n"
        assert not folder.is_held()
        with folder.held():
            assert folder.is_held()
        reader.kill()


def test_asking_takes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An owner who starts while somebody asks is not refused."""
    import fcntl

    folder = RunFolder.create(tmp_path / "run")
    with folder.held():
        pass
    ask, asked = fcntl.fcntl, []

    def owner_comes(descriptor: int, command: int, request: bytes) -> object:
        found = ask(descriptor, command, request)
        if not asked:
            asked.append(command)
            with held_elsewhere(folder.path):
                pass
        return found

    monkeypatch.setattr(fcntl, "fcntl", owner_comes)
    assert not folder.is_held()
    assert asked


@pytest.mark.parametrize("strange", ["link", "hard link", "folder", "pipe", "dangling"])
def test_what_is_no_lock_is_refused(tmp_path: Path, strange: str) -> None:
    folder = RunFolder.create(tmp_path / "run")
    lock, precious = folder.path / "lock", tmp_path / "precious"
    precious.write_text("precious")
    match strange:
        case "link":
            lock.symlink_to(precious)
        case "hard link":
            lock.hardlink_to(precious)
        case "folder":
            lock.mkdir()
        case "pipe":
            os.mkfifo(lock)
        case _:
            lock.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="cannot lock"), folder.held():
        pass
    assert precious.read_text() == "precious"
    assert not (tmp_path / "elsewhere").exists()


def test_a_resumed_run_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "run"
    run(folder, SMALL_DATA, nodes=1, epochs=1)

    def no_reading(*arguments: object) -> None:
        raise AssertionError("read before it was locked")

    monkeypatch.setattr(starting, "read_checkpoint", no_reading)
    monkeypatch.setattr(RunFolder, "read_config", no_reading)
    with held_elsewhere(folder), pytest.raises(UserError, match="in use by another run"):
        run(folder, SMALL_DATA, nodes=1, epochs=2, resume=True)


def test_the_folder_is_held_from_reading_to_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, held = tmp_path / "run", []
    run(folder, SMALL_DATA, nodes=1, epochs=1)

    def reading(path: Path) -> Checkpoint:
        held.append(RunFolder(folder).is_held())
        return read_checkpoint(path)

    class Watching(Observer):
        def setup(self, message: str) -> None:
            held.append(RunFolder(folder).is_held())

    monkeypatch.setattr(starting, "read_checkpoint", reading)
    run(folder, SMALL_DATA, nodes=1, epochs=2, resume=True, observer=Watching())
    assert len(held) > 1
    assert all(held)
    assert not RunFolder(folder).is_held()
    check_counts(folder, 600, 2)


def test_a_folder_of_an_earlier_version_has_no_lock_yet(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run(folder, SMALL_DATA, nodes=1, epochs=1)
    (folder / "lock").unlink()
    assert not RunFolder(folder).is_held()
    run(folder, SMALL_DATA, nodes=1, epochs=2, resume=True)
    assert len(metrics(folder)) == 2


def test_two_runs_that_make_one_folder(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    folder = RunFolder.create(tmp_path / "run")
    with (
        held_elsewhere(folder.path),
        pytest.raises(UserError, match=r"exists|in use"),
        RunFolder.made(folder.path, "cnn2"),
    ):
        pass


@pytest.mark.parametrize("name", ["logs", "allocation", "a log"])
def test_a_foreign_folder_does_not_lead_what_is_appended_elsewhere(tmp_path: Path, name: str) -> None:
    folder, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    run(folder, SMALL_DATA, nodes=1, epochs=1)
    places = {"logs": folder / "logs", "allocation": folder / "allocation.jsonl", "a log": folder / "logs/node0.log"}
    if name == "logs":
        for log in places["logs"].iterdir():
            log.unlink()
        places["logs"].rmdir()
        elsewhere.mkdir()
    else:
        places[name].unlink()
        elsewhere.write_text("precious")
    places[name].symlink_to(elsewhere)
    with pytest.raises(UserError, match="link"):
        run(folder, SMALL_DATA, nodes=1, epochs=2, resume=True)
    assert not (any(elsewhere.iterdir()) if name == "logs" else elsewhere.read_text() != "precious")


@pytest.mark.parametrize("name", ["last.safetensors", "best.safetensors", "config.toml", "metrics.csv", "summary.json"])
def test_what_is_written_replaces_a_link_and_not_what_it_leads_to(tmp_path: Path, name: str) -> None:
    folder, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    run(folder, SMALL_DATA, nodes=1, epochs=1)
    before = (folder / name).read_bytes()
    (folder / name).rename(elsewhere)
    (folder / name).symlink_to(elsewhere)
    run(folder, SMALL_DATA, nodes=1, epochs=2, resume=True)
    assert elsewhere.read_bytes() == before
