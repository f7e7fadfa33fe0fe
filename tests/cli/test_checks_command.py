"""`bptcnn checks`."""

import os
import platform
from collections.abc import Callable
from pathlib import Path

import pytest
from bptcnn_cli import inspections
from bptcnn_cli.inspections import Finding, State, inspect_all
from programs import bptcnn

from bptcnn.errors import UserError


def test_a_sound_machine_passes(tmp_path: Path) -> None:
    ended = bptcnn("checks", folder=tmp_path, home=tmp_path)
    assert (ended.code, ended.err) == (0, ""), ended
    for name in ("Python", "packages", "CPU", "cores", "memory", "shared memory", "embedded sample", "profile", "disk"):
        assert f"\n{name} " in ended.out
    assert "broken" not in ended.out
    assert "\x1b" not in ended.out


def test_a_damaged_profile_is_found_and_changes_the_exit_code(tmp_path: Path) -> None:
    host = (platform.node() or "localhost").replace(os.sep, "-")
    profile = tmp_path / "bptcnn" / "profiles" / f"{host}.toml"
    profile.parent.mkdir(parents=True)
    profile.write_text("nonsense = 1")
    ended = bptcnn("checks", folder=tmp_path, home=tmp_path)
    assert ended.code == 1, ended
    line = next(line for line in ended.out.splitlines() if line.startswith("profile"))
    assert line.split()[1] == "broken"
    assert "run bptcnn profile" in " ".join(ended.out.split())


def found(name: str) -> Finding:
    return dict(inspect_all())[name]


def test_a_missing_package_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspections, "package_version", lambda name: None if name == "numba" else "1")
    assert found("packages") == Finding(State.BROKEN, "missing numba", "pip install numba")


@pytest.mark.parametrize(
    ("error", "text"), [(UserError("sample damaged: reinstall"), "sample damaged"), (OSError("odd"), "OSError: odd")]
)
def test_a_check_that_fails_is_a_finding(monkeypatch: pytest.MonkeyPatch, error: Exception, text: str) -> None:
    def fail() -> Callable[[], Finding]:
        raise error

    monkeypatch.setattr("bptcnn.data.load", fail)
    finding = found("embedded sample")
    assert finding.state is State.BROKEN
    assert text in finding.found


def test_little_disk_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = 5_000_000

    monkeypatch.setattr(inspections.shutil, "disk_usage", lambda folder: Usage)
    finding = found("disk")
    assert finding.state is State.BROKEN
    assert "--run-dir" in finding.remedy


def test_the_temporary_folder_is_told_with_its_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert found("temporary folder").state is State.FINE
    assert found("temporary folder").found.endswith(f"free in {tmp_path}")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "gone"))
    finding = found("temporary folder")
    assert (finding.state, finding.found) == (
        State.ADVICE,
        f"{tmp_path / 'gone'} takes no files: no such file or directory",
    )
    assert "TMPDIR" in finding.remedy
