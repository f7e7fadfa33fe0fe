"""Files are replaced whole or not at all, and attempts leave nothing behind."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bptcnn import files
from bptcnn.errors import UserError
from bptcnn.files import make_folder, write_atomically


def refused(path: Path, content: bytes = b"second") -> None:
    with pytest.raises(UserError) as caught:
        write_atomically(path, content)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@given(contents=st.lists(st.binary(max_size=100_000), min_size=1, max_size=3))
def test_contents_are_replaced(tmp_path_factory: pytest.TempPathFactory, contents: list[bytes]) -> None:
    folder = tmp_path_factory.mktemp("files")
    for content in contents:
        write_atomically(folder / "file", content)
        assert (folder / "file").read_bytes() == content
        assert os.listdir(folder) == ["file"]


def test_a_full_disk(tmp_path: Path) -> None:
    path = tmp_path / "file"
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("limited.py")), str(path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"cannot write {path}: File too large\n"
    assert path.read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["file"]


def test_a_folder_that_has_vanished(tmp_path: Path) -> None:
    refused(tmp_path / "gone" / "file")
    assert not os.listdir(tmp_path)


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "folder").write_bytes(b"first")
    refused(tmp_path / "folder" / "file")
    assert (tmp_path / "folder").read_bytes() == b"first"


def test_a_folder_that_cannot_be_written() -> None:
    refused(Path("/proc/sys/bptcnn-test"))


def test_a_target_that_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    refused(tmp_path / "file")
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("call", ["fsync", "replace", "chmod"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), MemoryError()])
def test_whatever_interrupts_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, error: BaseException
) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"first")

    def fail(*arguments: object) -> None:
        raise error

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(UserError if isinstance(error, OSError) else type(error)):
        write_atomically(path, b"second")
    assert path.read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["file"]


def test_the_folder_is_on_the_disk_after_the_file_is_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Content, then name, then folder: else a power cut brings back the file that was there before."""
    path, done = tmp_path / "file", []
    fsync, replace = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        done.append("folder" if os.path.samestat(os.fstat(descriptor), tmp_path.stat()) else "file")
        fsync(descriptor)

    def replaced(*arguments: str) -> None:
        done.append("replace")
        replace(*arguments)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    write_atomically(path, b"first")
    assert done == ["file", "replace", "folder"]


@pytest.mark.parametrize(("number", "tolerated"), [(errno.EINVAL, True), (errno.EIO, False), (errno.ENOSPC, False)])
def test_only_a_file_system_without_such_a_thing_may_refuse_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, tolerated: bool
) -> None:
    fsync = os.fsync

    def fails(descriptor: int) -> None:
        if os.path.samestat(os.fstat(descriptor), tmp_path.stat()):
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fails)
    if tolerated:
        write_atomically(tmp_path / "file", b"first")
    else:
        refused(tmp_path / "file")
    assert os.listdir(tmp_path) == ["file"]


def test_new_folders_are_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []
    monkeypatch.setattr(files, "sync", lambda path: synced.append(Path(path)))
    make_folder(tmp_path / "a" / "b" / "c")
    assert sorted(synced) == [tmp_path, tmp_path / "a", tmp_path / "a" / "b"]
    make_folder(tmp_path / "a" / "b" / "c")
    assert len(synced) == 3
