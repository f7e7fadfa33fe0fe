"""Where the cache lies: the user's folder as long as it takes what is stored, then a spare one; both are read."""

import errno
import os
import pwd
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from bptcnn import cache_layers
from bptcnn.cache_layers import CacheLayers, spare_roots, wanted_root
from bptcnn.errors import UserError
from bptcnn.kernels import compilation


@pytest.fixture
def wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BPTCNN_CACHE_DIR", str(tmp_path / "wanted"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    roots = spare_roots()[:1]  # the others are in folders that all programs share
    monkeypatch.setattr(cache_layers, "spare_roots", lambda: roots)
    return tmp_path / "wanted"


def put(name: str, content: str, failing: Path | None = None, number: int = 0) -> Callable[[Path], Path]:
    def stored(folder: Path) -> Path:
        if failing in folder.parents:
            raise OSError(number, os.strerror(number))
        (folder / name).write_text(content)
        return folder / name

    return stored


def test_what_fits_goes_to_the_users_folder(wanted: Path) -> None:
    layers = CacheLayers("kernels", "key")
    assert layers.store(put("a", "1")) == wanted / "kernels" / "key" / "a"
    assert layers.reserve(1 << 20) == wanted / "kernels" / "key"
    assert (layers.trouble, layers.folders) == (None, (wanted / "kernels" / "key",))
    assert not spare_roots()[0].exists()


@pytest.mark.parametrize(
    ("number", "why", "remedy"),
    [
        (errno.ENOSPC, "is full", "free some space"),
        (errno.EDQUOT, "(by its quota) is full", "free some space"),
        (errno.EROFS, "cannot be written (read-only file system)", "set BPTCNN_CACHE_DIR"),
        (errno.EIO, "cannot be written (input/output error)", "set BPTCNN_CACHE_DIR"),
    ],
)
def test_what_does_not_fit_goes_to_a_spare_one_and_both_are_read(
    wanted: Path, number: int, why: str, remedy: str
) -> None:
    layers = CacheLayers("kernels", "key")
    layers.store(put("a", "1"))
    stored = layers.store(put("b", "2", wanted, number))
    assert stored == spare_roots()[0] / "kernels" / "key" / "b"
    assert layers.trouble is not None
    assert layers.trouble.what.startswith(f"the cache folder {wanted} {why}: kernels are kept in {spare_roots()[0]}")
    assert "at each start" in layers.trouble.what
    assert layers.trouble.remedy.startswith(remedy)
    other = CacheLayers("kernels", "key")  # another process
    assert [other.find(name) for name in "abc"] == [wanted / "kernels" / "key" / "a", stored, None]
    assert other.trouble is None


def test_where_nothing_is_stored_all_reasons_are_told_in_a_line(wanted: Path, tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(UserError) as caught:
        CacheLayers("samples").store(fail)
    for place in (wanted, tmp_path):
        assert f"{place}" in str(caught.value)
    assert "BPTCNN_CACHE_DIR" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("mode", [0o775, 0o777])
def test_a_spare_folder_is_not_made_where_others_could_replace_it(wanted: Path, tmp_path: Path, mode: int) -> None:
    tmp_path.chmod(mode)
    layers = CacheLayers("kernels", "key")
    with pytest.raises(UserError, match=f"others can rename what is in {tmp_path}"):
        layers.store(put("b", "2", wanted, errno.ENOSPC))
    tmp_path.chmod(mode | stat.S_ISVTX)
    assert CacheLayers("kernels", "key").store(put("b", "2", wanted, errno.ENOSPC)).is_file()


def test_what_is_large_is_not_kept_in_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BPTCNN_CACHE_DIR", str(tmp_path / "wanted"))
    monkeypatch.setattr(cache_layers, "spare_roots", lambda: [Path("/dev/shm/bptcnn-cache-test")])
    layers = CacheLayers("samples", in_memory=False)
    with pytest.raises(UserError, match="samples can be stored nowhere"):
        layers.store(put("b", "2", tmp_path / "wanted", errno.ENOSPC))
    assert not Path("/dev/shm/bptcnn-cache-test").exists()


@pytest.mark.parametrize(
    ("variables", "where"),
    [
        ({"BPTCNN_CACHE_DIR": "~/mine"}, "/home/ann/mine"),
        ({"BPTCNN_CACHE_DIR": "mine"}, "HERE/mine"),
        ({"XDG_CACHE_HOME": "/xdg"}, "/xdg/bptcnn"),
        ({"XDG_CACHE_HOME": "relative"}, "/home/ann/.cache/bptcnn"),
        ({"HOME": "/"}, "/.cache/bptcnn"),
        ({"HOME": ""}, f"{pwd.getpwuid(os.getuid()).pw_dir}/.cache/bptcnn"),
        ({"HOME": "relative"}, None),
    ],
)
def test_the_folder_is_as_variables_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], where: str | None
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("BPTCNN_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": "/home/ann", **variables}.items():
        monkeypatch.setenv(name, value)
    assert wanted_root() == (None if where is None else Path(where.replace("HERE", str(tmp_path))))


def test_a_cache_with_a_kernel_missing_is_not_warm(wanted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layers = CacheLayers("kernels", "key")
    monkeypatch.setattr(compilation, "kernel_cache", lambda: layers)
    monkeypatch.setattr(compilation, "_used", {"one", "two"})
    assert not compilation.is_warm()
    for name in ("one", "two"):
        layers.store(put(name, "kernel"))
    compilation.mark_warm()
    assert compilation.is_warm()
    assert not compilation.is_warm("bf16")
    (wanted / "kernels" / "key" / "two").unlink()
    assert not compilation.is_warm()
