"""Profile files: what is written is read again; whatever else a file holds is one line naming file and key."""

import tomllib
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import profile_examples as examples
import pytest
import tomli_w
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bptcnn.errors import UserError
from bptcnn.profiling import Profile, packaged_folder, read_profile, write_profile

folder_stays = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def document() -> dict[str, Any]:
    """The example profile as TOML sees it."""
    from bptcnn.profiling.files import _plain

    return _plain(examples.profile())


def places(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The path of every value in a document, tables and lists included."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from places(item, (*path, key))


def parent(tree: Any, path: tuple[str | int, ...]) -> Any:
    for key in path[:-1]:
        tree = tree[key]
    return tree


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_profile(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


def refused(path: Path, tree: dict[str, Any]) -> str:
    path.write_text(tomli_w.dumps(tree))
    return refusal(path)


KEYS = [path for path in places(document()) if isinstance(path[-1], str)]
VALUES = [path for path in places(document()) if path != ("version",)]


@folder_stays
@given(examples.profiles)
def test_what_is_written_is_read_again(tmp_path: Path, profile: Profile) -> None:
    path = tmp_path / "new" / "folder" / "profile.toml"
    write_profile(path, profile)
    assert read_profile(path) == profile
    assert [file.name for file in path.parent.iterdir()] == ["profile.toml"]


def test_writing_again_replaces_the_file(tmp_path: Path) -> None:
    path = tmp_path / "profile.toml"
    write_profile(path, examples.profile())
    write_profile(path, Profile(examples.host(name="other")))
    assert read_profile(path) == Profile(examples.host(name="other"))


def test_written_numbers_are_short(tmp_path: Path) -> None:
    path = tmp_path / "profile.toml"
    write_profile(path, Profile(examples.host(peak_gflops=1000 / 7, l3_kb=-0.0)))
    values = tomllib.loads(path.read_text())["host"]
    assert values["peak_gflops"] == 142.857
    assert str(values["l3_kb"]) == "0.0"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, 0.0, "fast"])
def test_a_profile_that_could_not_be_read_is_not_written(tmp_path: Path, value: object) -> None:
    with pytest.raises(UserError, match=r"host\.peak_gflops must be"):
        write_profile(tmp_path / "profile.toml", Profile(examples.host(peak_gflops=value)))
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write .*profile\.toml"):
        write_profile(tmp_path / "file" / "profile.toml", examples.profile())


@pytest.mark.parametrize("path", KEYS, ids=lambda path: ".".join(map(str, path)))
def test_every_key_is_required(tmp_path: Path, path: tuple[str | int, ...]) -> None:
    tree = document()
    del parent(tree, path)[path[-1]]
    message = refused(tmp_path / "profile.toml", tree)
    assert str(path[-1]) in message
    assert "missing" in message


@pytest.mark.parametrize("path", [(), *(path for path in VALUES if isinstance(path[-1], int | str))], ids=str)
def test_no_table_has_other_keys(tmp_path: Path, path: tuple[str | int, ...]) -> None:
    tree = document()
    table = parent(tree, (*path, ""))
    if not isinstance(table, dict):
        return
    table["colour of the machine\n"] = 1
    message = refused(tmp_path / "profile.toml", tree)
    assert "unknown key" in message
    assert "colour" in message


WRONG: list[Any] = ["", True, [], {}, -1, -0.5, float("nan"), float("inf"), -float("inf"), 2**60, [["a"]], {"a": 1}]


@pytest.mark.parametrize("path", VALUES, ids=lambda path: ".".join(map(str, path)))
def test_every_wrong_value_is_refused(tmp_path: Path, path: tuple[str | int, ...]) -> None:
    original = parent(document(), path)[path[-1]]
    numeric = isinstance(original, int | float)
    for value in [*WRONG, "7" if numeric else 7, 2.5 if isinstance(original, int) else []]:
        if value == [] and path[-1] in ("network", "layer"):
            continue  # no networks, no layers
        tree = document()
        parent(tree, path)[path[-1]] = deepcopy(value)
        message = refused(tmp_path / "profile.toml", tree)
        named = str(path[-1]) if isinstance(path[-1], str) else str(path[-2])
        assert named in message, (value, message)
        assert not numeric or "must be" in message


def test_whole_numbers_stand_for_decimal_ones(tmp_path: Path) -> None:
    tree = document()
    tree["host"]["memory_gb"] = 64
    (tmp_path / "profile.toml").write_text(tomli_w.dumps(tree))
    found = read_profile(tmp_path / "profile.toml").host.memory_gb
    assert (found, type(found)) == (64.0, float)


@pytest.mark.parametrize("version", [0, 2, "1", 1.5, [1]])
def test_another_version_is_refused(tmp_path: Path, version: object) -> None:
    tree = {**document(), "version": version, "something new": 1}
    assert "version must be 1" in refused(tmp_path / "profile.toml", tree)


def test_shares_of_time_end_at_1(tmp_path: Path) -> None:
    tree = document()
    tree["network"][0]["idle_share"] = 1.01
    assert "network[0].idle_share must be at least 0 and at most 1" in refused(tmp_path / "profile.toml", tree)


@folder_stays
@given(st.binary(max_size=300))
def test_garbage_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "profile.toml"
    path.write_bytes(content)
    refusal(path)


@folder_stays
@given(st.data())
def test_a_damaged_profile_is_refused_or_read(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "profile.toml"
    content = bytearray(tomli_w.dumps(document()).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at : at + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
    path.write_bytes(content)
    message = ""
    try:
        read_profile(path)
    except UserError as error:
        message = str(error)
    assert "\n" not in message
    assert message == "" or str(path) in message


@pytest.mark.parametrize(
    "content",
    [
        "version = " + "9" * 5000,
        "a = " + "[" * 100_000,
        "version = 1" + "0" * 3000,
        "version = 1\nversion = 1",
        "\ufeff",
        "version = 1979-05-27",
        "host = nan",
    ],
    ids=["digits", "nested", "large", "twice", "mark", "date", "nan"],
)
def test_odd_files_are_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "profile.toml"
    path.write_text(content)
    assert len(refusal(path)) < 300 + len(str(path))


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    assert "bptcnn profile --output" in refusal(tmp_path / "none.toml")
    refusal(tmp_path)


def test_the_packaged_profiles_are_readable_and_anonymous() -> None:
    paths = sorted(packaged_folder().glob("*.toml"))
    assert paths
    for path in paths:
        profile = read_profile(path)
        assert profile.host.name == path.stem
        assert profile.network


def test_every_key_is_documented() -> None:
    text = (packaged_folder() / "README.md").read_text()
    for path in KEYS:
        assert f"`{path[-1]}`" in text or f"[{path[-1]}]" in text or f".{path[-1]}]]" in text, path
