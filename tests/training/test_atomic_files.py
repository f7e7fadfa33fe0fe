"""Files are replaced whole or not at all, and attempts leave nothing behind."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bptcnn.errors import UserError
from bptcnn.files import write_atomically


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
