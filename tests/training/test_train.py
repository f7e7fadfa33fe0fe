"""Whole runs: what is trained, how well, and what stops them."""

from pathlib import Path

import numpy as np
import pytest
from training.runs import SMALL, check_counts, data, lenet, metrics, run, summary

import bptcnn as bpt
from bptcnn.data import Dataset, Samples, split_validation
from bptcnn.errors import UserError
from bptcnn.networks import BatchNorm, Conv2D, Dense, Flatten, MaxPool2D, Network
from bptcnn.training import EpochRow, Observer, Snapshot, TrainSettings
from bptcnn.training.checkpoint import read_checkpoint

CHANCE = 0.1


DEFAULT = {("agwu", "idpa"), ("agwu-published", "static"), ("sgwu", "uniform")}
RULES = [
    pytest.param(update, partition, marks=[] if (update, partition) in DEFAULT else [pytest.mark.slow])
    for update in ("agwu", "agwu-published", "sgwu")
    for partition in ("idpa", "static", "uniform")
]


@pytest.mark.parametrize(("update", "partition"), RULES)
def test_every_sample_once_an_epoch_under_every_rule(tmp_path: Path, update: str, partition: str) -> None:
    result = run(tmp_path / "run", nodes=3, epochs=3, update=update, partition=partition)
    found = check_counts(tmp_path / "run", 1000, 3)
    assert (found["update"], found["partition"]) == (update, partition)
    assert found["test_accuracy"] > 4 * CHANCE
    assert all(node["images"] > 0 for node in found["nodes"])
    if partition == "uniform":
        assert [node["images"] for node in found["nodes"]] == [1002, 999, 999]
    assert (found["waiting_seconds"] > 0.0) == (update == "sgwu")
    assert result.summary.images_redone == 0


class Watching(Observer):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.names: tuple[str, ...] = ()
        self.rows: list[tuple[EpochRow, bool]] = []
        self.snapshots: list[Snapshot] = []

    def setup(self, message: str) -> None:
        self.calls.append("setup")

    def started(self, names: tuple[str, ...], samples: int, epochs: int) -> None:
        self.calls.append("started")
        self.names = names
        assert (samples, epochs) == (1000, 2)

    def progress(self, snapshot: Snapshot) -> None:
        self.snapshots.append(snapshot)

    def epoch_ended(self, row: EpochRow, best: bool) -> None:
        self.calls.append("epoch")
        self.rows.append((row, best))


def test_one_node_and_what_the_observer_is_told(tmp_path: Path) -> None:
    seen = Watching()
    result = run(tmp_path / "run", nodes=1, epochs=2, observer=seen)
    check_counts(tmp_path / "run", 1000, 2)
    assert [call for call in seen.calls if call != "setup"] == ["started", "epoch", "epoch"]
    assert seen.calls[0] == "setup"
    assert seen.names == ("node0",)
    assert tuple(row for row, _ in seen.rows) == result.epochs
    accuracies = [row.test_accuracy for row, _ in seen.rows]
    assert [best for _, best in seen.rows] == [True, accuracies[1] > accuracies[0]]
    for snapshot in seen.snapshots:
        assert 0 <= snapshot.trained <= snapshot.samples == 1000


def test_a_single_node_repeats_bit_for_bit(tmp_path: Path) -> None:
    weights = []
    for name, threads in (("a", 1), ("b", 2)):
        run(tmp_path / name, nodes=1, epochs=1, threads=threads, seed=5, dataset=data(400, 100))
        weights.append(read_checkpoint(tmp_path / name / "last.safetensors").weights.tobytes())
    assert weights[0] == weights[1]


def test_measuring_speeds_changes_nothing_of_the_run(tmp_path: Path) -> None:
    """Nor does it leave velocity or running statistics of batch normalisation."""
    layers = [Conv2D(4, 3, activation="relu"), BatchNorm(), MaxPool2D(4), Flatten(), Dense(10)]
    network = Network((28, 28, 1), layers, "small")
    weights = []
    for measure in (False, True):
        folder = tmp_path / str(measure)
        run(folder, data(400, 50), network, nodes=1, epochs=2, measure=measure)
        weights.append(read_checkpoint(folder / "last.safetensors").weights.tobytes())
    assert weights[0] == weights[1]


def test_measured_speeds_make_the_efficiency(tmp_path: Path) -> None:
    run(tmp_path / "run", nodes=[1.0, 0.5], epochs=2, measure=True)
    found = check_counts(tmp_path / "run", 1000, 2)
    alone = [node["alone_images_per_second"] for node in found["nodes"]]
    assert all(speed > 0.0 for speed in alone)
    assert found["efficiency"] == pytest.approx(found["images_per_second"] / sum(alone))
    breakdown = found["breakdown"]
    assert breakdown["compute"] == pytest.approx(sum(node["compute_seconds"] for node in found["nodes"]))
    assert breakdown.pop("slowdown") is not None
    assert all(seconds >= 0.0 for seconds in breakdown.values())
    total = breakdown.pop("total")
    assert total == pytest.approx(sum(breakdown.values()))
    assert total > breakdown["evaluation"] > 0.0


def test_without_measuring_no_efficiency_is_made_up(tmp_path: Path) -> None:
    run(tmp_path / "run", nodes=2, epochs=1, measure=False)
    found = check_counts(tmp_path / "run", 1000, 1)
    assert (found["efficiency"], found["breakdown"]["slowdown"]) == (None, None)
    assert [node["alone_images_per_second"] for node in found["nodes"]] == [None, None]


@pytest.mark.parametrize("update", ["sgwu", pytest.param("agwu", marks=pytest.mark.slow)])
def test_fewer_samples_than_nodes_and_steps(tmp_path: Path, update: str) -> None:
    run(tmp_path / "run", data(2, 10), nodes=3, epochs=3, update=update, batch_size=64, local_steps=8)
    check_counts(tmp_path / "run", 2, 3)


def test_a_staleness_bound(tmp_path: Path) -> None:
    run(tmp_path / "run", nodes=[1.0, 0.3], epochs=2, staleness=1, local_steps=8)
    found = check_counts(tmp_path / "run", 1000, 2)
    assert found["updates"] > 1000 * 2 / 16 / 8


def test_settings_given_whole_and_by_name(tmp_path: Path) -> None:
    settings = TrainSettings(epochs=5, **{k: v for k, v in SMALL.items() if k != "threads"}, threads=1)  # type: ignore[arg-type]
    bpt.train(lenet(), data(200, 50), settings, run_dir=tmp_path / "run", nodes="1.0,0.5", epochs=1)
    assert [node["speed"] for node in check_counts(tmp_path / "run", 200, 1)["nodes"]] == [1.0, 0.5]
    with pytest.raises(UserError, match="unknown setting 'epoch'"):
        bpt.train(lenet(), data(200, 50), run_dir=tmp_path / "other", epoch=1)
    assert not (tmp_path / "other").exists()


# ---- validation and target -------------------------------------------------------------------------------------------


def test_the_validation_split_decides(tmp_path: Path) -> None:
    result = run(tmp_path / "run", nodes=2, epochs=3, validation=0.3, seed=11)
    found = check_counts(tmp_path / "run", 700, 3)
    assert found["chosen_by"] == "validation set"
    _, held_out = split_validation(data().train, 0.3, 11)
    with bpt.load(tmp_path / "run", threads=1) as best, bpt.load(tmp_path / "run", last=True, threads=1) as last:
        assert best.evaluate(held_out) == pytest.approx(max(row.test_accuracy for row in result.epochs))
        assert last.evaluate(held_out) == pytest.approx(result.epochs[-1].test_accuracy)
        assert found["test_accuracy"] == pytest.approx(last.evaluate(data().test))


def test_a_target_stops_early_and_says_so(tmp_path: Path) -> None:
    result = run(tmp_path / "run", nodes=2, epochs=50, target_accuracy=0.5)
    found = summary(tmp_path / "run")
    done = found["epochs"]
    assert 1 <= done < 50
    check_counts_of_stopped(found, done)
    assert [row.test_accuracy >= 0.5 for row in result.epochs] == [False] * (done - 1) + [True]
    assert found["outcome"] == "stopped"
    assert "target" in found["reason"] or "accuracy" in found["reason"]


def test_patience_stops_a_run_that_gets_no_better(tmp_path: Path) -> None:
    run(tmp_path / "run", nodes=2, epochs=50, lr="1e-12", patience=2)
    found = summary(tmp_path / "run")
    assert (found["outcome"], found["epochs"], found["best_epoch"]) == ("stopped", 3, 1)
    assert "better" in found["reason"]
    check_counts_of_stopped(found, 3)


def check_counts_of_stopped(found: dict[str, object], epochs: int) -> None:
    """A run that ends early has trained all of these epochs, and at most one more."""
    trained = found["images_trained"]
    assert isinstance(trained, int)
    assert 1000 * epochs <= trained < 1000 * (epochs + 1)
    nodes = found["nodes"]
    assert isinstance(nodes, list)
    assert sum(node["images"] for node in nodes) == trained


# ---- starting from another run ---------------------------------------------------------------------------------------


def test_init_starts_from_the_best_weights(tmp_path: Path) -> None:
    first = run(tmp_path / "first", nodes=2, epochs=4)
    second = run(tmp_path / "second", nodes=1, epochs=1, init=tmp_path / "first", lr="1e-9")
    assert second.epochs[0].test_accuracy == pytest.approx(max(row.test_accuracy for row in first.epochs), abs=0.01)
    check_counts(tmp_path / "second", 1000, 1)


def test_init_of_other_networks_is_refused(tmp_path: Path) -> None:
    small = Network((28, 28, 1), [Flatten(), Dense(10)], "small")
    run(tmp_path / "first", data(64, 16), small, nodes=1, epochs=1)
    for folder, problem in ((tmp_path / "first", "another network"), (tmp_path / "gone", "no run")):
        with pytest.raises(UserError, match=problem):
            run(tmp_path / "second", init=folder)
        assert not (tmp_path / "second").exists()


def test_init_of_the_same_layers_on_other_images_is_refused(tmp_path: Path) -> None:
    layers = [Flatten(), Dense(10)]
    run(tmp_path / "first", data(64, 16), Network((28, 28, 1), layers), nodes=1, epochs=1)
    parts = [Samples(np.ascontiguousarray(p.images[:, :14]), p.labels) for p in (data(64, 16).train, data(64, 16).test)]
    halves = Dataset(*parts, 10, "halves", "halves")
    with pytest.raises(UserError):
        run(tmp_path / "second", halves, Network((14, 28, 1), layers), nodes=1, init=tmp_path / "first")


# ---- what cannot be trained ------------------------------------------------------------------------------------------


def test_data_that_does_not_fit_the_network(tmp_path: Path) -> None:
    for network in (bpt.networks.lenet5((32, 32, 3), 10), bpt.networks.lenet5(classes=9)):
        with pytest.raises(UserError, match="network"):
            run(tmp_path / "run", network=network)
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("update", ["agwu", pytest.param("sgwu", marks=pytest.mark.slow)])
def test_a_run_that_diverges_says_so(tmp_path: Path, update: str) -> None:
    with pytest.raises(UserError, match="diverged") as caught:
        run(tmp_path / "run", nodes=2, lr="1e30", update=update)
    assert "\n" not in str(caught.value)
    found = summary(tmp_path / "run")
    assert found["outcome"] == "failed"
    assert all(node["lost"] for node in found["nodes"])
    assert metrics(tmp_path / "run") == []


@pytest.mark.parametrize("first", [0, 1])
def test_labels_that_count_from_one_get_a_note(tmp_path: Path, first: int) -> None:
    found = []

    class Notes(Observer):
        def warning(self, message: str) -> None:
            found.append(message)

    x, y = np.zeros((64, 28, 28, 1), np.uint8), np.arange(64) % 9 + first
    run(tmp_path / "run", Dataset.of(x, y, x, y, 10), nodes=1, epochs=1, observer=Notes())
    said = "no training image has a label below 1: labels count from 0, so those classes stay unused"
    assert found == ([said] if first else [])
