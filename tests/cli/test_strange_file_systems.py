"""Run folders on file systems that know less than Linux's own, or that go away in the middle of a run."""

import errno
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from programs import TIMEOUT_SECONDS, Ended, bptcnn
from test_endings import read_until, start

from bptcnn.training.checkpoint import read_checkpoint

COMPILER = shutil.which("cc")
BRIEF = ("--epochs", "1", "--no-measure", "--no-autotune", "--nodes", "1", "--quiet")
GONE = {"FUSE's server": errno.ENOTCONN, "NFS's": errno.ESTALE, "the disk": errno.EIO, "the ticket": errno.EACCES}


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if COMPILER is None:
        pytest.skip("needs a C compiler, for a file system that fails")
    made = tmp_path_factory.mktemp("faulty") / "faulty.so"
    source = Path(__file__).with_name("faulty_files.c")
    subprocess.run([COMPILER, "-shared", "-fPIC", "-O1", "-o", made, source, "-ldl"], check=True)
    return made


@dataclass(frozen=True)
class FileSystem:
    """A folder in which calls fail as it is told; programs with its `variables` see that."""

    folder: Path
    how: Path
    library: Path

    @property
    def variables(self) -> dict[str, str]:
        return {"LD_PRELOAD": str(self.library), "FAULTY_FOLDER": str(self.folder), "FAULTY_HOW": str(self.how)}

    def refuse(self, kind: str, number: int) -> None:
        self.how.write_text(f"{kind} {number}\n")

    def heal(self) -> None:
        self.how.write_text("")

    def bptcnn(self, *arguments: str | Path) -> Ended:
        return bptcnn(*arguments, folder=self.folder.parent, variables=self.variables)


@pytest.fixture
def disk(tmp_path: Path, library: Path) -> FileSystem:
    folder = tmp_path / "disk"
    folder.mkdir()
    found = FileSystem(folder, tmp_path / "how", library)
    found.heal()
    return found


def one_line(ended: Ended, number: int) -> str:
    """The line of a command that was refused with this error."""
    assert (ended.code, ended.err.count("\n")) == (2, 1), ended
    assert os.strerror(number) in ended.err
    return ended.err


@pytest.mark.parametrize(
    ("kind", "number"),
    [("chmod", errno.EPERM), ("chmod", errno.ENOTSUP), ("flush", errno.ENOTSUP), ("flush", errno.EINVAL)],
)
def test_without_modes_or_flushing_of_folders_it_trains(disk: FileSystem, data: Path, kind: str, number: int) -> None:
    """As CIFS, FAT and drvfs are, and much of FUSE."""
    disk.refuse(kind, number)
    run = disk.folder / "run"
    ended = disk.bptcnn("train", data, "--run-dir", run, *BRIEF)
    assert (ended.code, ended.err) == (0, ""), ended
    again = disk.bptcnn("train", "--resume", "--run-dir", run, "--epochs", "2", "--quiet")
    assert (again.code, again.err) == (0, ""), again
    assert read_checkpoint(run / "last.safetensors").epoch == 2


def test_without_locks_it_says_what_to_do_and_leaves_nothing(disk: FileSystem, data: Path) -> None:
    disk.refuse("lock", errno.ENOLCK)
    line = one_line(disk.bptcnn("train", data, "--run-dir", disk.folder / "a" / "run", *BRIEF), errno.ENOLCK)
    assert "--run-dir on a file system that has locks" in line
    assert not any(disk.folder.iterdir())


@pytest.mark.parametrize("number", GONE.values(), ids=GONE.keys())
def test_one_that_goes_away_keeps_what_was_saved(
    disk: FileSystem, data: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = disk.folder / "run"
    for name, value in disk.variables.items():
        monkeypatch.setenv(name, value)
    options = ("--no-measure", "--no-autotune", "--run-dir", str(run))
    process = start("train", str(data), "--epochs", "100000", *options, folder=disk.folder.parent)
    try:
        read_until(process.stdout, "epoch 2/")
        disk.refuse("all", number)
        out, err = process.communicate(timeout=TIMEOUT_SECONDS)
    finally:
        process.kill()
        process.communicate()
    line = one_line(Ended(process.returncode, out, err), number)
    assert line.startswith(f"bptcnn: cannot write {run}")
    assert line.endswith(f"; what {run} keeps cannot be read now: when it can, go on with --resume\n")
    for command in (("train", "--resume", "--run-dir", run), ("evaluate", run), ("train", data, "--init", run)):
        one_line(disk.bptcnn(*command), number)
    disk.heal()
    done = read_checkpoint(run / "last.safetensors").epoch
    again = disk.bptcnn("train", "--resume", "--run-dir", run, "--epochs", str(done + 1), "--quiet")
    assert (again.code, again.err) == (0, ""), again


@pytest.mark.parametrize("kind", ["rename", "flush-file", "open", "mkdir", "stat", "unlink"])
def test_whatever_is_refused_from_the_start_is_one_line(disk: FileSystem, data: Path, kind: str) -> None:
    disk.refuse(kind, errno.EIO)
    ended = disk.bptcnn("train", data, "--run-dir", disk.folder / "run", *BRIEF)
    if kind in ("stat", "unlink") and ended.code == 0:
        assert ended.err == ""  # nothing asked for that
        return
    one_line(ended, errno.EIO)
