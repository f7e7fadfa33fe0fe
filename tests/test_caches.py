"""The cache of compiled kernels is code: a folder that somebody else could fill is refused, in one line."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

import bptcnn
from bptcnn.cache_layers import wanted_root
from bptcnn.caches import private_folder, require_own_files
from bptcnn.data import SampleCache
from bptcnn.errors import UserError

ROOT = Path(bptcnn.__file__).parent.parent
NOBODY = 65534
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")


def refused(root: Path, *parts: str) -> str:
    with pytest.raises(UserError) as caught:
        private_folder(root, *parts)
    assert "BPTCNN_CACHE_DIR" in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_made_is_this_users_alone_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        folder = private_folder(tmp_path / "root", "kernels", "key")
    finally:
        os.umask(before)
    for made in (folder, folder.parent, tmp_path / "root"):
        assert stat.S_IMODE(made.stat().st_mode) == 0o700
    assert private_folder(tmp_path / "root", "kernels", "key") == folder


@pytest.mark.parametrize("mode", [0o777, 0o702, 0o1777])
@pytest.mark.parametrize("part", ["root", "root/kernels", "root/kernels/key"])
def test_a_folder_that_others_can_write_is_refused(tmp_path: Path, part: str, mode: int) -> None:
    private_folder(tmp_path / "root", "kernels", "key")
    (tmp_path / part).chmod(mode)
    if (part, mode) == ("root", 0o1777):  # a file system's top, often: what is in there is each user's own
        assert private_folder(tmp_path / "root", "kernels", "key").is_dir()
    else:
        assert "can be written by others" in refused(tmp_path / "root", "kernels", "key")


@pytest.mark.parametrize("part", ["root", "root/kernels", "root/kernels/key"])
def test_a_folder_made_under_umask_002_is_taken_from_the_group(tmp_path: Path, part: str) -> None:
    """As earlier versions made it, where that is the system's umask."""
    folder = private_folder(tmp_path / "root", "kernels", "key")
    (tmp_path / part).chmod(0o775)
    assert private_folder(tmp_path / "root", "kernels", "key") == folder
    assert stat.S_IMODE((tmp_path / part).stat().st_mode) == 0o755


@needs_root
@pytest.mark.parametrize("part", ["root", "root/kernels", "root/kernels/key"])
def test_a_folder_of_another_user_is_refused(tmp_path: Path, part: str) -> None:
    private_folder(tmp_path / "root", "kernels", "key")
    os.chown(tmp_path / part, NOBODY, NOBODY)
    assert "another user" in refused(tmp_path / "root", "kernels", "key")


@pytest.mark.parametrize("part", ["root/kernels", "root/kernels/key"])
def test_a_link_within_the_cache_is_refused(tmp_path: Path, part: str) -> None:
    private_folder(tmp_path / "root", "kernels", "key")
    (tmp_path / part).rename(tmp_path / "elsewhere")
    (tmp_path / part).symlink_to(tmp_path / "elsewhere")
    assert "link" in refused(tmp_path / "root", "kernels", "key")


def test_the_root_may_be_a_link_to_a_larger_disk(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir(mode=0o700)
    (tmp_path / "root").symlink_to(tmp_path / "disk")
    assert private_folder(tmp_path / "root", "kernels") == (tmp_path / "disk" / "kernels").resolve()
    (tmp_path / "disk").chmod(0o777)
    refused(tmp_path / "root", "kernels")


@needs_root
def test_a_planted_file_is_refused(tmp_path: Path) -> None:
    folder = private_folder(tmp_path / "root", "kernels")
    (folder / "numba").mkdir()
    planted = folder / "numba" / "f.nbi"
    planted.write_bytes(b"")
    require_own_files(folder)
    os.chown(planted, NOBODY, NOBODY)
    with pytest.raises(UserError, match=r"f\.nbi"):
        require_own_files(folder)
    os.chown(planted, 0, 0)
    planted.rename(tmp_path / "f.nbi")
    planted.symlink_to(tmp_path / "f.nbi")
    with pytest.raises(UserError, match="link"):
        require_own_files(folder)


def run_in(cache: Path, *command: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "bptcnn_cli", *command],
        env={**os.environ, "BPTCNN_CACHE_DIR": str(cache), "PYTHONPATH": f"{ROOT}:{ROOT / 'cli'}", "COLUMNS": "300"},
        cwd=cache.parent,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_commands_refuse_a_cache_that_others_can_write_and_checks_tells_it(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    cache.chmod(0o777)
    ended = run_in(cache, "train", "--epochs", "1")
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1), ended
    assert "can be written by others" in ended.stderr
    assert "Traceback" not in ended.stderr
    ended = run_in(cache, "checks")
    assert ended.returncode == 1, ended
    assert "can be written by others" in ended.stdout
    assert not list(cache.iterdir())


def test_samples_are_neither_read_from_nor_written_to_such_a_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BPTCNN_CACHE_DIR", str(tmp_path / "cache"))
    assert wanted_root() == tmp_path / "cache"
    (tmp_path / "cache" / "samples" / ("a" * 64)).mkdir(parents=True)
    (tmp_path / "cache" / "samples").chmod(0o777)
    cache = SampleCache()
    with pytest.raises(UserError, match="can be written by others"):
        cache.get("a" * 64)
    with (
        pytest.raises(UserError, match="can be written by others"),
        cache.writer("a" * 64, "u1", (1, 1, 1, 1), "i4", (1,)),
    ):
        pass
