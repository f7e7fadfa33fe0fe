"""Where the cache cannot be written, or lies nowhere: a run goes on and says so in one line; `checks` says the same."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from mounts import UNKNOWN_USER, bptcnn_among, open_folder, warm_cache
from programs import ROOT, Ended, write_npz

from bptcnn.cache_layers import spare_roots

COMPILING = "compiling kernels"


@pytest.fixture
def place() -> Iterator[Path]:
    with open_folder() as folder:
        write_npz(folder / "data.npz")
        (folder / "cache").mkdir(mode=0o700)
        yield folder


def spare(place: Path, user: int = 0) -> Path:
    return place / "tmp" / spare_roots()[0].name.replace("-0", f"-{user}")


def trained(ended: Ended) -> list[str]:
    """Return the notes of a run, which must have ended well."""
    assert (ended.code, ended.err) == (0, ""), ended
    return [line for line in ended.out.splitlines() if line.startswith("note: ")]


def train(
    place: Path, name: str, mounts: list[str], variables: dict[str, str | None], user: int | None = None
) -> Ended:
    words = ("train", "data.npz", "--epochs", "1", "--nodes", "2", "--no-autotune", "--run-dir", f"tmp/{name}")
    return bptcnn_among(mounts, *words, folder=place, variables=variables, user=user)


def checked(place: Path, mounts: list[str], variables: dict[str, str | None], user: int | None = None) -> str:
    """Return what `checks` says of the cache, on one line."""
    wide = {**variables, "COLUMNS": "1000"}
    ended = bptcnn_among(mounts, "checks", folder=place, variables=wide, user=user)
    assert ended.err == "", ended
    return next(line for line in ended.out.splitlines() if line.startswith("compile cache"))


def test_a_disk_that_is_too_small_is_told_and_nothing_torn_is_served_later(place: Path) -> None:
    small, there = f"mount -t tmpfs -o size=3m,mode=700 none {place}/cache", {"BPTCNN_CACHE_DIR": str(place / "cache")}
    first = train(place, "first", [small], there)
    notes = trained(first)
    assert len(notes) == 1, first
    line = checked(place, [small], there)
    for part in ("note", "warm", f"{place}/cache is full", f"kernels are kept in {spare(place)}"):
        assert part in line
    assert f"{place}/cache is full" in notes[0]
    assert "set BPTCNN_CACHE_DIR" in notes[0]
    assert COMPILING in first.out
    assert "once" not in first.out
    stored = sorted(spare(place).rglob("kernels/*/*.*-*"))
    whole = {file.name: file.read_bytes() for file in stored}
    assert len(stored) > 100
    for number, file in enumerate(stored[::10]):
        content = file.read_bytes()
        file.write_bytes(
            (content[: len(content) // 2], b"", content[:-4096] + bytes(4096), bytes(len(content)))[number % 4]
        )
    again = train(place, "again", [small], there)
    assert COMPILING not in again.out
    trained(again)
    third = train(place, "third", [], there)
    trained(third)
    assert {file.name: file.read_bytes() for file in stored[1::10]} == {
        file.name: whole[file.name] for file in stored[1::10]
    }


def test_where_nothing_can_be_stored_one_line_says_so(place: Path) -> None:
    mounts = [f"mount -t tmpfs -o size=1m,mode=1777 none {place}/{name}" for name in ("cache", "tmp")]
    mounts += [f"chmod 700 {place}/cache"]
    ended = train(place, "a", mounts, {"BPTCNN_CACHE_DIR": str(place / "cache")})
    assert (ended.code, ended.err.count("\n")) == (2, 1), ended
    assert "kernels can be stored nowhere" in ended.err
    assert f"{place}/cache is full" in ended.err
    assert "BPTCNN_CACHE_DIR" in ended.err
    line = checked(place, mounts, {"BPTCNN_CACHE_DIR": str(place / "cache")})
    assert "broken" in line
    assert "kernels can be stored nowhere" in line


@pytest.mark.parametrize("user", [None, UNKNOWN_USER])
def test_a_complete_cache_that_can_only_be_read_is_used_as_it_is(place: Path, user: int | None) -> None:
    cache = warm_cache(place / "cache" / "all")
    for folder in (place / "cache", *(path for path in cache.rglob("*") if path.is_dir()), cache):
        folder.chmod(0o755)
    mounts = [f"mount --bind {cache} {cache}", f"mount -o remount,ro,bind {cache}"] if user is None else []
    variables: dict[str, str | None] = {"BPTCNN_CACHE_DIR": str(cache)}
    ended = train(place, "a", mounts, variables, user)
    assert [note for note in trained(ended) if "kernels" in note] == []
    assert COMPILING not in ended.out
    assert not list(place.rglob("tmp/bptcnn-cache-*/kernels/*/*.*-*"))
    line = checked(place, mounts, variables, user)
    assert "warm" in line
    assert "can be read and not written" in line or user is None  # root may write everywhere, says access(2)


@pytest.mark.parametrize("home", ["/", "/does/not/exist", "relative"])
def test_a_home_that_cannot_be_written_is_told_in_one_line(place: Path, home: str) -> None:
    warm_cache(spare(place))
    mounts = [f"mount --bind {place} {place}", "mount -o remount,ro,bind /"]
    variables = {"HOME": home, "XDG_CACHE_HOME": "also/relative", "BPTCNN_CACHE_DIR": None, "XDG_CONFIG_HOME": None}
    ended = train(place, "a", mounts, {**variables, "XDG_DATA_HOME": None})
    notes = trained(ended)
    assert len(notes) == 1, ended
    assert f"kernels are kept in {spare(place)}" in notes[0]
    assert "BPTCNN_CACHE_DIR" in notes[0]
    assert COMPILING not in ended.out
    assert (place / "tmp" / "a" / "report.html").is_file()
    line = checked(place, mounts, variables)
    assert "note" in line
    assert f"kernels are kept in {spare(place)}" in line


def test_a_user_without_home_and_entry_has_a_cache_among_temporary_files(place: Path) -> None:
    warm_cache(spare(place, UNKNOWN_USER), UNKNOWN_USER)
    nothing = dict.fromkeys(("HOME", "USER", "LOGNAME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "BPTCNN_CACHE_DIR"))
    ended = train(place, "a", [], nothing, UNKNOWN_USER)
    notes = trained(ended)
    assert len(notes) == 1, ended
    assert f"user {UNKNOWN_USER} has no entry" in notes[0]
    assert "set HOME" in notes[0]
    assert COMPILING not in ended.out
    assert f"user {UNKNOWN_USER} has no entry" in checked(place, [], nothing, UNKNOWN_USER)


@pytest.mark.parametrize("what", ["another user's", "a link", "in a folder that everybody can change"])
def test_a_spare_folder_that_others_could_fill_is_not_used(place: Path, what: str) -> None:
    root = warm_cache(spare(place), UNKNOWN_USER if what == "another user's" else 0)
    mode = "1777"
    if what == "a link":
        root.rename(place / "elsewhere")
        root.symlink_to(place / "elsewhere")
    elif what != "another user's":
        mode = "777"
    mounts = [f"chmod {mode} {place}/tmp", f"mount --bind {place} {place}", "mount -o remount,ro,bind /"]
    ended = train(place, "a", mounts, {"HOME": "/", "XDG_CACHE_HOME": None, "BPTCNN_CACHE_DIR": None})
    assert (ended.code, ended.err.count("\n")) == (2, 1), ended
    assert "kernels can be stored nowhere" in ended.err


def test_a_host_says_where_its_cache_is_and_stores_samples_there(place: Path) -> None:
    warm_cache(spare(place))
    cache = place / "cache"
    variables: dict[str, str | None] = {"BPTCNN_SSH": f"{sys.executable} {ROOT / 'tests' / 'nodes' / 'plain_ssh.py'}"}
    host = (
        'address = "there"',
        f'python = "{sys.executable}"',
        f'workdir = "{cache}"',
        f'env = {{ BPTCNN_CACHE_DIR = "{cache}", TMPDIR = "{place}/tmp" }}',
    )
    (place / "hosts.toml").write_text("\n".join(("[[host]]", *host)))
    mounts = [f"mount --bind {cache} {cache}", f"mount -o remount,ro,bind {cache}"]
    # a host does not run such a file, so it is sent the samples
    (place / "data.py").write_text("import bptcnn\n\ndataset = bptcnn.data.load('data.npz')\n")
    words = ("train", "data.py", "--epochs", "1", "--no-autotune", "--hosts", "hosts.toml", "--run-dir", "tmp/a")
    ended = bptcnn_among(mounts, *words, folder=place, variables=variables)
    trained(ended)
    kept = f"{cache} cannot be written (read-only file system): kernels are kept in {spare(place)}"
    logs = "".join(log.read_text() for log in (place / "tmp" / "a" / "logs").iterdir())
    assert kept in logs
    assert kept.replace("kernels", "samples") in logs
    assert list(spare(place).glob("samples/*/images.npy"))
    looked = bptcnn_among(
        mounts, "checks", "--hosts", "hosts.toml", folder=place, variables={**variables, "COLUMNS": "1000"}
    )
    assert kept in looked.out, looked
    assert looked.code == 0
