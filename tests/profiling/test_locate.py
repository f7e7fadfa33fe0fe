"""Which profile belongs to this host."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import profile_examples as examples
import pytest

from bptcnn.errors import UserError
from bptcnn.kernels.unit import UNIT
from bptcnn.profiling import (
    Profile,
    find_profile,
    packaged_folder,
    usable_cores,
    user_profile_path,
    write_profile,
)
from bptcnn.profiling.host import cpu_name, microarchitecture
from bptcnn.profiling.locate import matching_profile


@pytest.fixture(autouse=True)
def data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setattr("platform.node", lambda: "this/host")
    return tmp_path / "data"


def this_host() -> Profile:
    return Profile(
        examples.host(
            cpu=cpu_name(), microarchitecture=microarchitecture(), vector_unit=UNIT.name, cores=usable_cores()
        )
    )


def test_the_own_profile_comes_first(data_folder: Path) -> None:
    assert user_profile_path() == data_folder / "bptcnn" / "profiles" / "this-host.toml"
    write_profile(user_profile_path(), examples.profile())
    assert find_profile() == examples.profile()


def test_a_damaged_own_profile_is_an_error() -> None:
    user_profile_path().parent.mkdir(parents=True)
    user_profile_path().write_text("version = 3")
    with pytest.raises(UserError, match=r"this-host\.toml"):
        find_profile()


@pytest.mark.parametrize("change", ["cpu", "microarchitecture", "vector_unit", "cores"])
def test_a_packaged_profile_must_match(tmp_path: Path, change: str) -> None:
    other = this_host()
    value = 1 + usable_cores() if change == "cores" else "another"
    host = dataclasses.replace(other.host, **{change: value})
    write_profile(tmp_path / "a.toml", dataclasses.replace(other, host=host))
    assert matching_profile(tmp_path) is None
    write_profile(tmp_path / "b.toml", other)
    assert matching_profile(tmp_path) == other
    assert matching_profile(tmp_path / "none") is None


def test_both_layouts_are_found(tmp_path: Path) -> None:
    package = tmp_path / "site-packages" / "bptcnn"
    package.mkdir(parents=True)
    assert packaged_folder(package) == tmp_path / "site-packages" / "profiles"  # a checkout
    (package / "profiles").mkdir()
    assert packaged_folder(package) == package / "profiles"
    assert (packaged_folder() / "README.md").is_file()


def test_reading_profiles_compiles_nothing() -> None:
    code = (
        "import sys; from bptcnn.profiling import read_profile, profiled_speed, usable_cores, write_profile, "
        "packaged_folder, user_profile_path; print('numba' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert run.stdout.strip() == "False"


def test_every_public_name_loads() -> None:
    import bptcnn.profiling as profiling

    assert all(getattr(profiling, name).__module__.startswith("bptcnn.profiling.") for name in profiling.__all__)
    assert sorted(profiling.__all__) == sorted(name for names in profiling._HOMES.values() for name in names)
    with pytest.raises(AttributeError, match="no attribute 'speeed'"):
        profiling.speeed  # noqa: B018
