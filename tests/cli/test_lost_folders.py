"""Runs whose disk fills up, or whose folder vanishes: they end with one line, the last checkpoint stays as it was."""

import errno
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from programs import TIMEOUT_SECONDS, Ended, bptcnn
from test_endings import read_until, start

from bptcnn.training.checkpoint import read_checkpoint

DISK = "4m"  # a checkpoint has some 100 KB
MOUNT, UMOUNT = shutil.which("mount"), shutil.which("umount")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0 or MOUNT is None or UMOUNT is None:
        pytest.skip("needs root, to mount a small disk")
    mounted = subprocess.run([MOUNT, "-t", "tmpfs", "-o", f"size={DISK}", "none", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount a small disk: {mounted.stderr.decode()}")
    try:
        yield folder
    finally:
        while folder.is_mount():
            subprocess.run([UMOUNT, "--lazy", folder], check=True)


def fill(folder: Path) -> None:
    """Leave no room on a disk."""
    command = ["dd", "if=/dev/zero", f"of={folder / 'ballast'}", "bs=4k", "oflag=append", "conv=notrunc"]
    filled = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"})
    assert "No space left" in filled.stderr


def ending(folder: Path, data: Path, fault: Callable[[], None], *options: str) -> Ended:
    """Cause a fault in the middle of a run in `folder`, again until that has ended; return how it ended."""
    process = start("train", data, "--epochs", "100000", "--run-dir", folder, *options, folder=folder.parent)
    try:
        read_until(process.stdout, "epoch 2/")
        nodes = psutil.Process(process.pid).children(recursive=True)
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while process.poll() is None:
            fault()
            time.sleep(0.02)
            assert time.monotonic() < deadline, "it goes on"
        out, err = process.communicate(timeout=TIMEOUT_SECONDS)
    except BaseException:
        process.kill()
        process.communicate()
        raise
    assert len(nodes) == 2
    assert not [node for node in nodes if node.is_running()]
    ended = Ended(process.returncode, out, err)
    assert ended.code == 2, ended
    assert ended.err.count("\n") == 1, ended
    assert ended.err.startswith("bptcnn: cannot write "), ended
    return ended


@pytest.mark.parametrize("update", ["agwu", "sgwu"])
def test_a_full_disk(disk: Path, data: Path, update: str) -> None:
    """Some time later there is room again, and the run goes on from where it was."""
    folder = disk / "run"
    ended = ending(folder, data, lambda: fill(disk), "--update", update)
    assert ended.err.endswith(
        f": {os.strerror(errno.ENOSPC)}; {folder} keeps the last checkpoint; go on with --resume\n"
    ), ended
    assert not list(folder.glob(".*")), "a temporary file was left"
    done = read_checkpoint(folder / "last.safetensors").epoch
    assert done >= 2
    assert read_checkpoint(folder / "best.safetensors").epoch <= done
    (disk / "ballast").unlink()
    resumed = bptcnn("train", "--resume", "--run-dir", folder, "--epochs", str(done + 1), folder=disk)
    assert resumed.code == 0, resumed
    assert f"epoch {done + 1}/{done + 1}" in resumed.out


def test_a_disk_that_is_full_from_the_start(disk: Path, data: Path) -> None:
    fill(disk)
    ended = bptcnn("train", data, "--run-dir", disk / "run", folder=disk)
    assert ended.code == 2, ended
    assert ended.err.startswith("bptcnn: cannot "), ended
    assert ended.err.count("\n") == 1, ended
    assert os.strerror(errno.ENOSPC) in ended.err


@pytest.mark.parametrize("how", ["removed", "moved", "unmounted"])
def test_a_folder_that_vanishes(tmp_path: Path, data: Path, how: str, request: pytest.FixtureRequest) -> None:
    parent: Path = request.getfixturevalue("disk") if how == "unmounted" else tmp_path
    folder = parent / "run"

    def vanish() -> None:
        if how == "removed":
            shutil.rmtree(folder, ignore_errors=True)  # a checkpoint may just be written into it
        elif how == "moved" and folder.exists():
            folder.rename(tmp_path / "elsewhere")
        elif how == "unmounted" and parent.is_mount():
            subprocess.run([str(UMOUNT), "--lazy", parent], check=True)

    ended = ending(folder, data, vanish)
    assert ended.err.endswith(f": {os.strerror(errno.ENOENT)}; there is no checkpoint\n"), ended
    assert not folder.exists()
    if how == "moved":
        done = read_checkpoint(tmp_path / "elsewhere" / "last.safetensors").epoch
        arguments = ("--run-dir", str(tmp_path / "elsewhere"), "--epochs", str(done + 1))
        assert bptcnn("train", "--resume", *arguments, folder=tmp_path).code == 0
