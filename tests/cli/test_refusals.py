"""What users get wrong: one line on standard error, exit code 2, and nothing is lost or left behind."""

import platform
from pathlib import Path

import numpy as np
import pytest
from programs import refused, write_npz


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with files of every wrong kind."""
    whole = write_npz(tmp_path / "good.npz", 40, 20).read_bytes()
    (tmp_path / "truncated.npz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.npz").write_bytes(b"")
    (tmp_path / "empty folder").mkdir()
    (tmp_path / "regular file").write_text("precious")
    (tmp_path / "mangled.toml").write_bytes(b"epochs = \xff")
    (tmp_path / "unknown.toml").write_text("epoch = 3")
    (tmp_path / "other_shape.toml").write_text('layers = [{layer = "Dense", units = 10}]')
    (tmp_path / "raises.py").write_text("def network(input_shape, classes):\n    raise ValueError('one\\ntwo')")
    np.savez(tmp_path / "no_arrays.npz", x=np.zeros(3))
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["missing"], "missing"),
        (["empty folder"], "empty folder"),
        (["truncated.npz"], "truncated.npz"),
        (["empty.npz"], "empty.npz"),
        (["no_arrays.npz"], "x_train"),
        (["regular file"], "regular file"),
        (["--nodes", "1.0,2.0"], "the speed of each of the nodes must be at least 0.001, at most 1, not 2.0"),
        (["good.npz", "--network", "nonsense"], "nonsense"),
        (["good.npz", "--network", "missing.py"], "missing.py"),
        (["good.npz", "--network", "raises.py"], "raises.py"),
        (["good.npz", "--network", "other_shape.toml"], "other_shape.toml"),
        (["good.npz", "--network", "mangled.toml"], "mangled.toml"),
        (["--config", "missing.toml"], "missing.toml"),
        (["--config", "mangled.toml"], "mangled.toml"),
        (["--config", "unknown.toml"], "epoch"),
        (["--config", "empty folder"], "empty folder"),
        (["good.npz", "--run-dir", "regular file"], "regular file"),
        (["good.npz", "--run-dir", "regular file/run"], "regular file/run"),
        (["good.npz", "--run-dir", "."], "--resume"),
        (["--resume"], "--run-dir"),
        (["--resume", "--run-dir", "missing"], "missing"),
        (["--resume", "--run-dir", "empty folder"], "config.toml"),
        (["--resume", "--run-dir", "a", "--config", "unknown.toml"], "--config"),
        (["--resume", "--run-dir", "a", "--init", "b"], "--init"),
        (["good.npz", "--init", "missing"], "missing"),
        (["--epochs", "0"], "epochs"),
        (["--lr", "nonsense("], "nonsense("),
        (["--lr", "step(0.1)"], "every"),
        (["--patience", "0"], "patience"),
        (["--update", "nonsense"], "agwu"),
        (["--precision", "float16"], "bf16"),
        (["good.npz", "--batch-size", "65536", "--nodes", "250"], "too little memory"),
        (["good.npz", "--epochs", "9" * 20], "epochs"),
    ],
    ids=" ".join,
)
def test_train_refuses(folder: Path, arguments: list[str], named: str) -> None:
    before = sorted(folder.rglob("*"))
    assert named in refused("train", *arguments, folder=folder)
    assert sorted(folder.rglob("*")) == before
    assert (folder / "regular file").read_text() == "precious"


@pytest.mark.parametrize(
    "arguments",
    [
        ["evaluate", "missing"],
        ["evaluate", "empty folder"],
        ["profile", "--network", "nonsense"],
        ["profile", "--input-shape", "28x28"],
        ["profile", "--network", "raises.py"],
        ["benchmark", "nonsense"],
        ["benchmark", "lenet5", "raises.py"],
        ["benchmark", "--input-shape", "28x28"],
        ["benchmark", "--input-shape", "28,28,0"],
        ["benchmark", "--input-shape", "28x28,1"],
        ["benchmark", "--batch-size", "0"],
        ["benchmark", "--threads", "0"],
        ["benchmark", "--precision", "float16"],
        ["benchmark", "--peer", "nonsense"],
        ["benchmark", "--peer", "torch", "--peer-python", "missing"],
        ["benchmark", "--peer-python", "missing"],
        ["benchmark", "--compile"],
        ["benchmark", "--no-compile"],
        ["benchmark", "--output", "missing/a.json"],
        ["benchmark", "--output", "empty folder"],
    ],
    ids=" ".join,
)
def test_the_others_refuse(folder: Path, arguments: list[str]) -> None:
    refused(*arguments, folder=folder)


@pytest.mark.parametrize("command", [["train", "good.npz"], ["train", "good.npz", "--config", "a.toml"], ["benchmark"]])
def test_a_cpu_without_the_precision_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.setenv("BPTCNN_VECTOR_UNIT", "generic")
    (folder / "a.toml").write_text('precision = "bf16"')
    chosen = [] if "--config" in command else ["--precision", "bf16"]
    before = sorted(folder.rglob("*"))
    said = refused(*command, *chosen, folder=folder)
    assert "this CPU has no AVX512-BF16 instructions (BPTCNN_VECTOR_UNIT=generic)" in said
    assert "--precision float32" in said
    assert sorted(folder.rglob("*")) == before


def test_a_damaged_run_is_refused(folder: Path, finished: Path) -> None:
    run = folder / "run"
    run.mkdir()
    (run / "config.toml").write_bytes((finished / "config.toml").read_bytes())
    assert "best.safetensors" in refused("evaluate", "run", folder=folder)
    (run / "best.safetensors").write_bytes((finished / "best.safetensors").read_bytes()[:1000])
    assert "best.safetensors" in refused("evaluate", "run", folder=folder)
    (run / "config.toml").write_text("network = 3")
    assert "config.toml" in refused("evaluate", "run", folder=folder)


def test_data_of_another_shape_is_refused(folder: Path, finished: Path) -> None:
    assert "8, 8, 1" in refused("evaluate", finished, "fashion-mnist-sample", folder=folder)


def test_a_mangled_profile_of_this_host_is_refused(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    home = tmp_path_factory.mktemp("home")
    profile = home / "bptcnn" / "profiles" / f"{platform.node() or 'localhost'}.toml"
    profile.parent.mkdir(parents=True)
    for content in (b"version = 1\n", b"\xff\xfe", b"version = 99\n[host]\n", b""):
        profile.write_bytes(content)
        assert str(profile) in refused("train", "good.npz", "--run-dir", "run", folder=folder, home=home)
        assert not (folder / "run").exists()


def test_errors_are_one_line_whatever_the_file_is_called(folder: Path) -> None:
    assert "two words" in refused("train", "--config", "two\nwords", folder=folder)
