"""`bptcnn train` end to end."""

import json
import tomllib
from pathlib import Path

import pytest
from programs import bptcnn, refused
from safetensors.numpy import load_file

from bptcnn.kernels.unit import MATRIX_UNIT
from bptcnn.training import TrainSettings, default_run_dir


def test_a_run_off_a_terminal_is_told_in_plain_lines(finished: Path) -> None:
    lines = (finished.parent / "output.txt").read_text().splitlines()
    assert "training on 2 nodes: 400 images an epoch, 3 epochs" in lines
    epochs = [line for line in lines if line.startswith("epoch ")]
    assert [line.split(":")[0] for line in epochs] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]
    assert epochs[0].endswith("images/s, best so far")
    assert lines[-2].split() == ["run", "folder", "run"]
    assert lines[-1].split() == ["next", "bptcnn", "evaluate", "run"]
    assert "\x1b" not in "".join(lines)


def test_the_summary_is_that_of_the_run_folder(finished: Path) -> None:
    out = (finished.parent / "output.txt").read_text()
    summary = json.loads((finished / "summary.json").read_text())
    assert f"test accuracy  {summary['test_accuracy']:.4f}" in out
    for node in summary["nodes"]:
        row = next(line for line in out.splitlines() if line.startswith(node["name"]))
        assert row.split()[3] == f"{node['alone_images_per_second']:,.0f}/s"
        assert row.split()[4] == f"{node['images']:,}"
    heading, seconds = (line.split() for line in out.splitlines() if line.startswith(("node time", "seconds")))
    told = dict(zip(heading[2:], seconds[1:], strict=True))
    assert told == {name: f"{summary['breakdown'][name]:.2f}" for name in told}
    assert f"efficiency     {summary['efficiency']:.1%}" in out


def test_quiet_prints_one_line(tmp_path: Path, data: Path) -> None:
    ended = bptcnn("train", data, "--epochs", "1", "--quiet", "--nodes", "1", "--run-dir", "a", folder=tmp_path)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.count("\n") == 1
    assert ended.out.startswith("test accuracy ")
    assert ended.out.rstrip().endswith(", a")


def test_without_run_dir_the_run_lies_in_runs(tmp_path: Path, data: Path) -> None:
    ended = bptcnn("train", data, "--epochs", "1", "--quiet", "--nodes", "1", folder=tmp_path)
    assert ended.code == 0, ended
    (run,) = (tmp_path / "runs").iterdir()
    assert run.name.split("-")[-1] == default_run_dir("cnn2").name.split("-")[-1] == "cnn2"
    assert (run / "summary.json").is_file()


@pytest.mark.skipif(not MATRIX_UNIT, reason="this CPU multiplies no bfloat16 numbers")
def test_bfloat16_products_repeat_and_are_not_float32s(tmp_path: Path, data: Path) -> None:
    weights = []
    for name, precision in (("a", "bf16"), ("b", "bf16"), ("c", "float32")):
        arguments = ("--precision", precision, "--epochs", "1", "--nodes", "1", "--no-autotune", "--seed", "3")
        ended = bptcnn("train", data, *arguments, "--quiet", "--run-dir", name, folder=tmp_path)
        assert (ended.code, ended.err) == (0, "")
        assert tomllib.loads((tmp_path / name / "config.toml").read_text())["precision"] == precision
        saved = load_file(tmp_path / name / "last.safetensors")
        weights.append({name: array.tobytes() for name, array in saved.items()})
    assert weights[0] == weights[1] != weights[2]
    message = refused("train", "--resume", "--run-dir", "a", "--epochs", "2", "--precision", "float32", folder=tmp_path)
    assert "precision cannot change when a run is resumed" in message


def test_a_validation_share_is_named(tmp_path: Path, data: Path) -> None:
    ended = bptcnn(
        *("train", data, "--epochs", "1", "--nodes", "1", "--validation", "0.25", "--run-dir", "a"), folder=tmp_path
    )
    assert ended.code == 0, ended
    assert "validation accuracy" in ended.out
    assert "300 images an epoch" in ended.out


def test_a_run_goes_on_and_another_starts_from_it(tmp_path: Path, data: Path) -> None:
    train = ("train", data, "--batch-size", "16", "--epochs", "1", "--seed", "3", "--run-dir", "a")
    assert bptcnn(*train, folder=tmp_path).code == 0
    ended = bptcnn("train", "--resume", "--run-dir", "a", "--epochs", "2", folder=tmp_path)
    assert ended.code == 0, ended
    assert "epoch 2/2" in ended.out
    assert "epoch 1/2" not in ended.out
    rows = (tmp_path / "a" / "metrics.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["epoch", "1", "2"]
    config = tomllib.loads((tmp_path / "a" / "config.toml").read_text())
    assert (config["epochs"], config["seed"], config["batch_size"]) == (2, 3, 16)

    started = bptcnn("train", data, "--epochs", "1", "--init", "a", "--run-dir", "b", folder=tmp_path)
    assert started.code == 0, started

    kept = (tmp_path / "a" / "last.safetensors").read_bytes()
    message = refused("train", data, "--run-dir", "a", folder=tmp_path)
    assert "--resume" in message
    assert (tmp_path / "a" / "last.safetensors").read_bytes() == kept


def test_print_config_is_what_config_reads(tmp_path: Path) -> None:
    ended = bptcnn(
        *("train", "--print-config", "--nodes", "1.0,0.5", "--lr", "0.1/epoch", "--staleness", "3"),
        *("--network", "lenet5", "some/data"),
        folder=tmp_path,
    )
    assert (ended.code, ended.err) == (0, "")
    values = tomllib.loads(ended.out)
    assert values.pop("network") == "lenet5"
    assert values.pop("data") == "some/data"
    assert TrainSettings(**values) == TrainSettings(nodes=(1.0, 0.5), lr="0.1/epoch", staleness=3)
    (tmp_path / "a.toml").write_text(ended.out)
    assert bptcnn("train", "--config", "a.toml", "--print-config", folder=tmp_path).out == ended.out
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", ["config.toml"])
def test_the_configuration_of_a_run_can_be_used_again(finished: Path, data: Path, name: str, tmp_path: Path) -> None:
    train = ("train", data, "--config", finished / name, "--epochs", "1", "--quiet", "--run-dir", "a")
    assert bptcnn(*train, folder=tmp_path).code == 0
    layers = [tomllib.loads((run / name).read_text())["network"]["layers"] for run in (finished, tmp_path / "a")]
    assert layers[0] == layers[1]
