"""The cache of samples under damage, full disks, and processes that write at once or die."""

from __future__ import annotations

import errno
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stored import described, left, same, some, store

from bptcnn.data import SampleCache, Samples, content, digest
from bptcnn.errors import UserError

SECONDS = 30.0  # for what a process does in one


# ---- damage ----------------------------------------------------------------------------------------------------------


class Bomb:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return open, (str(self.path), "w")


def swap_files(entry: Path) -> None:
    (entry / "images.npy").rename(entry / "x")
    (entry / "labels.npy").rename(entry / "images.npy")
    (entry / "x").rename(entry / "labels.npy")


def replace_by_a_file(entry: Path) -> None:
    shutil.rmtree(entry)
    entry.write_bytes(b"x")


def replace_by_a_dangling_link(entry: Path) -> None:
    shutil.rmtree(entry)
    entry.symlink_to("nowhere")


def empty_out(entry: Path) -> None:
    shutil.rmtree(entry)
    entry.mkdir()


def make_a_pipe(entry: Path) -> None:
    (entry / "images.npy").unlink()
    os.mkfifo(entry / "images.npy")


def make_a_folder(entry: Path) -> None:
    (entry / "labels.npy").unlink()
    (entry / "labels.npy").mkdir()


def replace_by_an_archive(entry: Path) -> None:
    np.savez(entry / "x.npz", allow_pickle=False, images=some().images)
    (entry / "x.npz").rename(entry / "images.npy")


def pickle_inside(entry: Path) -> None:
    np.save(entry / "labels.npy", np.array([Bomb(entry.parent / "exploded")] * 5), allow_pickle=True)
    (entry / "images.npy").write_bytes(pickle.dumps(Bomb(entry.parent / "exploded")))


DAMAGE: list[Callable[[Path], object]] = [
    swap_files,
    replace_by_a_file,
    replace_by_a_dangling_link,
    empty_out,
    make_a_pipe,
    make_a_folder,
    pickle_inside,
    lambda entry: (entry / "images.npy").unlink(),
    lambda entry: (entry / "labels.npy").write_bytes(b""),
    replace_by_an_archive,
    lambda entry: np.save(entry / "images.npy", np.full((5, 4, 3, 2), np.nan, np.float32)),
    lambda entry: np.save(entry / "images.npy", np.asfortranarray(some().images)),
    lambda entry: np.save(entry / "labels.npy", some().labels.astype(np.int64)),
    lambda entry: np.save(entry / "labels.npy", some(6).labels),
]


@pytest.mark.parametrize("harm", DAMAGE)
def test_a_damaged_entry_goes_and_can_come_again(tmp_path: Path, harm: Callable[[Path], object]) -> None:
    cache, samples = SampleCache(tmp_path), some()
    other = store(cache, some(seed=1))
    name = store(cache, samples)
    harm(tmp_path / name)
    assert cache.get(name) is None
    assert left(cache) == [other]
    store(cache, samples)
    assert same(cache.get(name), samples)


@pytest.mark.parametrize("harm", DAMAGE)
def test_a_writer_replaces_a_damaged_entry(tmp_path: Path, harm: Callable[[Path], object]) -> None:
    cache, samples = SampleCache(tmp_path), some()
    name = store(cache, samples)
    harm(tmp_path / name)
    store(cache, samples)
    assert left(cache) == [name]
    assert same(cache.get(name), samples)


@pytest.mark.parametrize("file", ["images.npy", "labels.npy"])
def test_every_changed_or_missing_byte_is_noticed(tmp_path: Path, file: str) -> None:
    cache, samples = SampleCache(tmp_path), some(2)
    name = digest(samples)
    store(cache, samples)
    whole = (tmp_path / name / file).read_bytes()
    data = len(whole) - (samples.images if file == "images.npy" else samples.labels).nbytes
    for position in range(len(whole)):
        bit = 1 << position % 8
        changed = whole[:position] + bytes([whole[position] ^ bit]) + whole[position + 1 :]
        for wrong in [changed, whole[:position]] if position % 4 == 0 else [changed]:
            (tmp_path / name / file).write_bytes(wrong)
            found = cache.get(name)
            if found is None:
                store(cache, samples)
            else:  # some bytes of the header may change without a change of meaning
                assert wrong is changed
                assert position < data
                assert same(found, samples)


def test_an_absurd_header_allocates_nothing(tmp_path: Path) -> None:
    cache, samples = SampleCache(tmp_path), some()
    name = store(cache, samples)
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000, 1000, 1000, 1)}\n"
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(500)
    (tmp_path / name / "images.npy").write_bytes(content)
    assert cache.get(name) is None
    assert left(cache) == []


# ---- folders and disks that do not serve -----------------------------------------------------------------------------


def refusal(cache: SampleCache, samples: Samples) -> str:
    with pytest.raises(UserError) as refused:
        store(cache, samples)
    assert str(refused.value).isprintable()
    return str(refused.value)


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    cache = SampleCache(tmp_path / "file" / "samples")
    assert cache.get("a" * 64) is None
    message = refusal(cache, some())
    assert message.startswith(f"cannot store samples in {cache.folder}: not a directory; ")
    assert "BPTCNN_CACHE_DIR" in message


def test_a_folder_that_may_not_be_written(tmp_path: Path) -> None:
    cache, samples = SampleCache(tmp_path / "samples"), some()
    name = store(cache, samples)
    cache.folder.chmod(0o500)
    try:
        if os.access(cache.folder, os.W_OK):
            pytest.skip("root may write everywhere")
        assert "permission denied" in refusal(cache, some(seed=1))
        assert same(cache.get(name), samples)
        (cache.folder / name / "labels.npy").write_bytes(b"")
        assert cache.get(name) is None
    finally:
        cache.folder.chmod(0o700)


def test_a_cache_that_may_only_be_read_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    cache, samples, others = SampleCache(tmp_path), some(), some(seed=1)
    name, damaged = store(cache, samples), store(cache, others)
    (tmp_path / damaged / "images.npy").write_bytes(b"x")
    monkeypatch.setattr(tempfile, "mkdtemp", denied)
    monkeypatch.setattr(os, "utime", denied)
    assert same(cache.get(name), samples)
    assert cache.get(damaged) is None
    assert "permission denied" in refusal(cache, others)
    assert left(cache) == sorted([name, damaged])


def test_a_disk_that_is_full_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, offset: int, size: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    cache = SampleCache(tmp_path)
    monkeypatch.setattr(os, "posix_fallocate", full)
    assert refusal(cache, some()).startswith(f"cannot store samples in {tmp_path}: no space left on device; make room")
    assert left(cache) == []


def test_a_disk_that_becomes_full(tmp_path: Path) -> None:
    cache, samples = SampleCache(tmp_path), some()

    def write() -> None:
        with cache.writer(digest(samples), *described(samples)) as writer, Path("/dev/full").open("wb", 0) as full:
            writer.append(samples.images)
            writer._files.pop().close()
            writer._files.append(full)
            writer.append(samples.labels)

    with pytest.raises(UserError, match="no space left on device"):
        write()
    assert left(cache) == []


def test_an_entry_that_cannot_be_moved_into_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def taken(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOTEMPTY, "Directory not empty")

    cache = SampleCache(tmp_path)
    monkeypatch.setattr(os, "rename", taken)
    assert "directory not empty" in refusal(cache, some())
    assert left(cache) == []


# ---- processes -------------------------------------------------------------------------------------------------------

WRITER = """
import sys
from pathlib import Path
import numpy as np
from bptcnn.data import SampleCache, Samples, digest
images = np.arange(6 * 4 * 3 * 2, dtype=np.uint8).reshape(6, 4, 3, 2)
samples = Samples(images, np.arange(6, dtype=np.int32))
cache, name = SampleCache(Path(sys.argv[1])), digest(samples)
def write(pause):
    with cache.writer(name, np.uint8, images.shape, np.int32, (6,)) as writer:
        writer.append(images)
        if pause:
            print("half", flush=True)
            sys.stdin.read(1)
        writer.append(samples.labels)
"""


def started(folder: Path, code: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER + code, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def ended(process: subprocess.Popen[str], text: str | None = None) -> str:
    """The rest of its output; the process is reaped, whatever it does."""
    try:
        return process.communicate(text, timeout=SECONDS)[0]
    finally:
        process.kill()
        process.wait()


def test_writers_in_several_processes(tmp_path: Path) -> None:
    code = """
import shutil
for turn in range(60):
    if turn % 6 == 5:
        (cache.folder / name / "labels.npy").unlink(missing_ok=True)
    write(False)
    found = cache.get(name)
    assert found is None or np.array_equal(found.images, images)
write(False)
print("done")
"""
    processes = [started(tmp_path, code) for _ in range(4)]
    assert [ended(process) for process in processes] == ["done\n"] * 4
    (name,) = left(SampleCache(tmp_path))
    found = SampleCache(tmp_path).get(name)
    assert found is not None
    assert len(found) == 6


def test_a_writer_that_is_slower_finds_the_entry_there(tmp_path: Path) -> None:
    slow = started(tmp_path, "write(True)\nprint(cache.get(name) is not None)")
    try:
        assert slow.stdout is not None
        assert slow.stdout.readline() == "half\n"
        assert ended(started(tmp_path, "write(False)")) == ""
        (name,) = [entry for entry in left(SampleCache(tmp_path)) if not entry.startswith(".")]
        assert len(left(SampleCache(tmp_path))) == 2  # who is still at work is not swept
        assert ended(slow, "x") == "True\n"
        assert left(SampleCache(tmp_path)) == [name]
    finally:
        slow.kill()
        slow.wait()


def test_a_killed_writer_leaves_a_folder_that_the_next_one_sweeps(tmp_path: Path) -> None:
    cache = SampleCache(tmp_path)
    process = started(tmp_path, "write(True)")
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "half\n"
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # dead, but not reaped
        (temporary,) = left(cache)
        assert temporary.startswith(".writing-")
        name = store(cache, some())
        assert left(cache) == [name]
    finally:
        ended(process)


def test_whose_temporary_folders_are_swept(tmp_path: Path) -> None:
    here, pid = os.uname().nodename, os.getpid()
    start = content._start_of(pid)
    old = time.time() - 2 * 86400
    kept, gone = [f"{here}-{pid}-{start}-a", "other-host-1-2-b", "odd"], [f"{here}-{pid}-1-c", f"{here}-x-{start}-d"]
    aged = ["other-host-1-2-e", "very odd"]
    for name in (*kept, *gone, *aged):
        (tmp_path / f".writing-{name}").mkdir()
        (tmp_path / f".writing-{name}" / "images.npy").write_bytes(b"x")
    for name in (*aged, kept[0]):
        os.utime(tmp_path / f".writing-{name}" / "images.npy", (old, old))
        os.utime(tmp_path / f".writing-{name}", (old, old))
    cache = SampleCache(tmp_path)
    name = store(cache, some())
    assert left(cache) == sorted([*(f".writing-{name}" for name in kept), name])
