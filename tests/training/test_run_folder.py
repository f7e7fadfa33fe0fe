"""What a run leaves behind, as scripts outside read it."""

import json
import math
import tomllib
from pathlib import Path

import pytest
from training.runs import COLUMNS, check_counts, data, lenet, metrics, run, summary

import bptcnn as bpt
from bptcnn.errors import UserError
from bptcnn.networks import Network
from bptcnn.training import EpochRow, Result, RunFolder, default_run_dir, settings_from
from bptcnn.training.checkpoint import read_checkpoint

EPOCHS = 3
SUMMARY = {
    *("test_accuracy", "train_seconds", "setup_seconds", "images_per_second", "images_trained", "images_redone"),
    *("epochs", "updates", "update", "partition", "network", "parameters", "efficiency", "breakdown", "nodes"),
}
NODE = {
    *("name", "speed", "alone_images_per_second", "images", "compute_seconds", "wait_seconds"),
    *("communication_seconds", "bytes_sent", "bytes_received"),
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """A run on a fast and a slow node."""
    return run(tmp_path_factory.mktemp("runs") / "run", nodes=[1.0, 0.5], epochs=EPOCHS, seed=7)


def test_the_summary(finished: Result) -> None:
    found = check_counts(finished.run_dir, 1000, EPOCHS)
    assert set(found) >= SUMMARY
    assert found == json.loads(json.dumps(finished.summary.to_dict()))
    assert (found["outcome"], found["chosen_by"]) == ("completed", "test set")
    assert (found["update"], found["partition"], found["network"]) == ("agwu", "idpa", "lenet5")
    assert found["parameters"] == lenet().size
    assert found["images_redone"] == 0
    assert found["updates"] >= 1000 * EPOCHS / 32
    assert found["train_seconds"] > 0.0
    assert found["setup_seconds"] > 0.0
    assert found["images_per_second"] == pytest.approx(1000 * EPOCHS / found["train_seconds"])
    assert found["test_accuracy"] == pytest.approx(float(metrics(finished.run_dir)[-1]["test_accuracy"]))


def test_the_summarys_nodes(finished: Result) -> None:
    nodes = summary(finished.run_dir)["nodes"]
    assert [node["name"] for node in nodes] == ["node0", "node1"]
    assert [node["speed"] for node in nodes] == [1.0, 0.5]
    for node in nodes:
        assert set(node) >= NODE
        assert node["lost"] is None
        assert node["images"] > 0
        assert node["compute_seconds"] > 0.0
        assert node["wait_seconds"] >= 0.0
        assert node["communication_seconds"] > 0.0
        assert node["bytes_sent"] == node["bytes_received"] > 0
    # agwu: every submission moves the weight set each way once
    assert sum(node["bytes_sent"] for node in nodes) == 4 * lenet().size * summary(finished.run_dir)["updates"]


def test_metrics(finished: Result) -> None:
    path = finished.run_dir / "metrics.csv"
    assert path.read_text().splitlines()[0] == ",".join(COLUMNS)
    rows = metrics(finished.run_dir)
    for row, kept in zip(rows, finished.epochs, strict=True):
        values = {name: float(row[name]) for name in COLUMNS}
        assert all(math.isfinite(value) for value in values.values())
        assert 0.0 <= values["train_accuracy"] <= 1.0
        assert 0.0 <= values["test_accuracy"] <= 1.0
        assert values["test_accuracy"] == pytest.approx(kept.test_accuracy, rel=1e-4)
    # an epoch's speed counts what was trained ahead in it, so only the sum is known
    trained = sum(float(row["images_per_second"]) * float(row["seconds"]) for row in rows)
    assert trained == pytest.approx(1000 * EPOCHS, rel=1e-3)
    assert sum(float(row["seconds"]) for row in rows) == pytest.approx(finished.summary.train_seconds, rel=0.05)
    assert float(rows[-1]["train_loss"]) < float(rows[0]["train_loss"])


def test_the_configuration_is_the_resolved_one(finished: Result) -> None:
    config = tomllib.loads((finished.run_dir / "config.toml").read_text())
    assert Network.from_dict(config.pop("network")).to_dict() == lenet().to_dict()
    assert config.pop("data") == "embedded"
    settings = settings_from(config)
    assert (settings.nodes, settings.epochs, settings.seed, settings.batch_size) == ((1.0, 0.5), EPOCHS, 7, 16)


def test_nodes(finished: Result) -> None:
    for node in json.loads((finished.run_dir / "nodes.json").read_text()):
        assert set(node) == {"name", "pid", "host", "cores"}
        assert isinstance(node["pid"], int)


def test_a_clean_run_logs_nothing(finished: Result) -> None:
    logs = sorted((finished.run_dir / "logs").iterdir())
    assert [(log.name, log.read_text()) for log in logs] == [("node0.log", ""), ("node1.log", "")]


def test_the_report_names_the_run(finished: Result) -> None:
    report = (finished.run_dir / "report.html").read_text()
    assert report.lstrip().lower().startswith("<!doctype html>")
    for name in ("lenet5", "node0", "node1"):
        assert name in report


def test_load_gives_the_checkpoints_weights(finished: Result) -> None:
    best = max(finished.epochs, key=lambda row: row.test_accuracy)
    assert finished.summary.best_epoch == best.epoch
    for last, name, accuracy in (
        (False, "best.safetensors", best.test_accuracy),
        (True, "last.safetensors", finished.epochs[-1].test_accuracy),
    ):
        checkpoint = read_checkpoint(finished.run_dir / name)
        with bpt.load(finished.run_dir, last=last, threads=1) as model:
            assert model.weights.tobytes() == checkpoint.weights.tobytes()
            assert model.evaluate(data()) == pytest.approx(accuracy)
            assert model.network.to_dict() == lenet().to_dict()


def test_runs_that_are_none(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "gone"):
        with pytest.raises(UserError, match="no run at"):
            bpt.load(path)
    (tmp_path / "config.toml").write_text("")
    with pytest.raises(UserError, match="first epoch"):
        bpt.load(tmp_path)


def test_an_existing_run_is_refused(finished: Result) -> None:
    before = {path: path.read_bytes() for path in finished.run_dir.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match="--resume") as caught:
        run(finished.run_dir)
    assert "\n" not in str(caught.value)
    assert {path: path.read_bytes() for path in finished.run_dir.rglob("*") if path.is_file()} == before


def test_a_run_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "run", Path("/proc/run")):
        with pytest.raises(UserError):
            RunFolder.create(path)


def test_metrics_are_the_epochs_rows(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run")
    rows = [EpochRow(epoch, 1.5, 0.25, 0.5, 0.125, 1000.0 / epoch) for epoch in range(1, 4)]
    for count in range(4):
        folder.write_metrics(rows[:count])
        assert len(metrics(folder.path)) == count
    assert folder.metrics.read_text().splitlines()[1:3] == ["1,1.5,0.25,0.5,0.125,1000", "2,1.5,0.25,0.5,0.125,500"]


@pytest.mark.parametrize("name", ["../../elsewhere", "/etc/passwd", "a/b", "x\n\x1b[2J", "n" * 5000, ""])
def test_a_networks_name_does_not_lead_out_of_runs(name: str) -> None:
    path = default_run_dir(name)
    assert path.parent == Path("runs")
    assert str(path).isprintable()
    assert len(path.name) < 200
