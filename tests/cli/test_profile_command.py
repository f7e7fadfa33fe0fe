"""`bptcnn profile`."""

import json
import os
import platform
from dataclasses import replace
from pathlib import Path

import pytest
from bptcnn_cli.profile import with_earlier
from programs import Ended, bptcnn

from bptcnn.profiling import Profile, read_profile, write_profile


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ended]:
    """The folder in which this machine was measured, and what the command said."""
    folder = tmp_path_factory.mktemp("measured")
    small = ("--input-shape", "8x8x1", "--batch-size", "8", "--threads", "1", "--tuning")
    return folder, bptcnn("profile", *small, "--trace", "step.json", folder=folder, home=folder / "home")


def own_profile(folder: Path) -> Path:
    host = (platform.node() or "localhost").replace(os.sep, "-")
    return folder / "home" / "bptcnn" / "profiles" / f"{host}.toml"


def test_it_measures_shows_and_writes_where_training_looks(measured: tuple[Path, Ended]) -> None:
    folder, ended = measured
    assert (ended.code, ended.err) == (0, "")
    assert "\x1b" not in ended.out
    assert "cnn2 on 8x8x1 images, batches of 8, 1 thread: " in ended.out
    path = own_profile(folder)
    assert ended.out.endswith(f"written to {path}, timeline to step.json\n")
    profile = read_profile(path)
    (network,) = profile.network
    assert (network.name, network.input_shape, network.batch_size, network.threads) == ("cnn2", (8, 8, 1), 8, 1)
    for name in (
        "vector unit",
        "usable cores",
        "caches",
        "memory",
        "peak",
        "bandwidth",
        *(x.name for x in network.layer),
    ):
        assert f"\n{name} " in ended.out
    assert profile.host.cpu in ended.out
    assert "\ntuned in " in ended.out
    assert " 4 parts " in ended.out
    assert json.loads((folder / "step.json").read_text())["traceEvents"]


def test_checks_finds_it(measured: tuple[Path, Ended]) -> None:
    folder, _ = measured
    ended = bptcnn("checks", folder=folder, home=folder / "home")
    assert ended.code == 0, ended
    assert f"{own_profile(folder).name}: cnn2" in "".join(ended.out.split("\n" + " " * 21))


def test_a_profile_keeps_other_networks_of_the_same_cpu(measured: tuple[Path, Ended], tmp_path: Path) -> None:
    found = read_profile(own_profile(measured[0]))
    (network,) = found.network
    other, faster = replace(network, name="other"), replace(network, images_per_second=1e6)
    path = tmp_path / "a.toml"
    write_profile(path, Profile(found.host, (other, faster)))
    assert with_earlier(found, path).network == (other, network)
    write_profile(path, Profile(replace(found.host, cpu="another"), (other,)))
    assert with_earlier(found, path) == found
    path.write_text("damaged")
    assert with_earlier(found, path) == found
    assert with_earlier(found, tmp_path / "missing.toml") == found


def test_another_place_is_written_as_asked(tmp_path: Path) -> None:
    arguments = (
        "profile",
        "--network",
        "lenet5",
        "--batch-size",
        "8",
        "--threads",
        "1",
        "--no-autotune",
        "--output",
        "here.toml",
    )
    ended = bptcnn(*arguments, folder=tmp_path, home=tmp_path / "home")
    assert ended.code == 0, ended
    assert ended.out.endswith("written to here.toml\n")
    assert [network.name for network in read_profile(tmp_path / "here.toml").network] == ["lenet5"]
    assert not (tmp_path / "home").exists()
