"""Runs that go on: counts continue, rows are appended, nodes may differ; what does not fit changes nothing."""

import re
from pathlib import Path

import pytest
from training.runs import check_counts, data, lenet, metrics, pids, run, summary

import bptcnn as bpt
from bptcnn.errors import UserError
from bptcnn.networks import Dense, Flatten, Network
from bptcnn.training import EpochRow, Observer, RunFolder
from bptcnn.training.checkpoint import read_checkpoint

SMALL_DATA = data(600, 200)


@pytest.mark.parametrize("update", ["agwu", pytest.param("sgwu", marks=pytest.mark.slow)])
def test_more_epochs(tmp_path: Path, update: str) -> None:
    folder = tmp_path / "run"
    first = run(folder, SMALL_DATA, nodes=2, epochs=2, update=update)
    before = metrics(folder)
    second = run(folder, SMALL_DATA, nodes=2, epochs=5, update=update, resume=True)
    check_counts(folder, 600, 5)
    assert metrics(folder)[:2] == before
    assert [row.epoch for row in second.epochs] == [1, 2, 3, 4, 5]
    assert second.summary.updates > first.summary.updates
    assert second.epochs[-1].train_loss < first.epochs[0].train_loss
    assert read_checkpoint(folder / "last.safetensors").epoch == 5


def test_learning_goes_on_from_the_last_weights(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    rates = "where(epoch > 3, 1e-9, 0.05)"
    first = run(folder, SMALL_DATA, nodes=1, epochs=3, lr=rates)
    second = run(folder, SMALL_DATA, nodes=1, epochs=4, lr=rates, resume=True)
    assert second.epochs[-1].test_accuracy == pytest.approx(first.epochs[-1].test_accuracy, abs=0.01)


def test_a_resumed_run_stays_the_run_that_it_was(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run(folder, SMALL_DATA, nodes=1, epochs=1, lr="0.03", seed=5)
    for change in ({"seed": 6}, {"lr": "0.1"}, {"batch_size": 17}, {"update": "sgwu"}):
        with pytest.raises(UserError, match="cannot change when a run is resumed"):
            bpt.train(lenet(), SMALL_DATA, run_dir=folder, resume=True, **change)
    bpt.train(lenet(), SMALL_DATA, run_dir=folder, resume=True, epochs=2)
    config = RunFolder.open(folder).read_config()
    assert (config["seed"], config["lr"], config["epochs"]) == (5, "0.03", 2)


@pytest.mark.parametrize("partition", ["idpa", pytest.param("uniform", marks=pytest.mark.slow)])
@pytest.mark.parametrize(("before", "after"), [(1, 3), (2, 1)])
def test_other_numbers_of_nodes(tmp_path: Path, before: int, after: int, partition: str) -> None:
    folder = tmp_path / "run"
    run(folder, SMALL_DATA, nodes=before, epochs=2, partition=partition)
    run(folder, SMALL_DATA, nodes=after, epochs=4, partition=partition, resume=True)
    found = summary(folder)
    assert found["images_trained"] == 600 * 4
    assert found["epochs"] == 4
    assert [node["name"] for node in found["nodes"]] == [f"node{node}" for node in range(max(before, after))]
    assert sum(node["images"] for node in found["nodes"]) == 600 * 4
    assert len(metrics(folder)) == 4


def test_nothing_left_to_do(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    first = run(folder, SMALL_DATA, nodes=2, epochs=2)
    weights = (folder / "last.safetensors").read_bytes()
    again = run(folder, SMALL_DATA, nodes=2, epochs=2, resume=True)
    check_counts(folder, 600, 2)
    assert again.summary.test_accuracy == pytest.approx(first.summary.test_accuracy, abs=1e-5)
    assert (folder / "last.safetensors").read_bytes() == weights


def everything(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_does_not_fit_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run(folder, SMALL_DATA, nodes=2, epochs=1)
    before = everything(folder)
    other = Network((28, 28, 1), [Flatten(), Dense(10)], "other")
    with pytest.raises(UserError, match="another network"):
        run(folder, SMALL_DATA, other, epochs=2, resume=True)
    assert everything(folder) == before
    with pytest.raises(UserError, match="500 training images, not 600"):
        run(folder, data(500, 200), epochs=2, resume=True)
    assert everything(folder) == before


def test_a_speed_of_earlier_days_can_be_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run(folder, SMALL_DATA, nodes=1, epochs=1)
    config = folder / "config.toml"
    config.write_text(re.sub(r"(?s)^nodes = \[.*?\]", "nodes = [1e-5]", config.read_text(), flags=re.MULTILINE))
    with pytest.raises(UserError, match="at most 1, not 1e-05"):
        run(folder, SMALL_DATA, epochs=2, resume=True)
    run(folder, SMALL_DATA, nodes=1, epochs=2, resume=True)
    check_counts(folder, 600, 2)


def test_no_run_to_resume(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run"):
        run(tmp_path / "gone", resume=True)
    assert not (tmp_path / "gone").exists()


def test_a_torn_last_row_of_the_metrics(tmp_path: Path) -> None:
    """As a full disk or a crash leaves it: rows beyond the checkpoint do not matter."""
    folder = tmp_path / "run"
    run(folder, SMALL_DATA, nodes=1, epochs=1)
    with (folder / "metrics.csv").open("a") as file:
        file.write("2,0.31,1.2")
    run(folder, SMALL_DATA, nodes=1, epochs=2, resume=True)
    check_counts(folder, 600, 2)


class Die(Exception):
    """Ends the run from within."""


@pytest.mark.parametrize("lost", [1, 2])
def test_a_death_between_checkpoint_and_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: int) -> None:
    """Evaluation takes long, so the coordinator may well die in it: the epoch's row must not be missing for ever."""
    from bptcnn.training.evaluation import Evaluator

    folder = tmp_path / "run"
    accuracy, calls = Evaluator.accuracy, []

    def dies(self: Evaluator, *arguments: object) -> float:
        calls.append(0)
        if len(calls) == lost:
            raise Die
        return accuracy(self, *arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Evaluator, "accuracy", dies)
        with pytest.raises(Die):
            run(folder, SMALL_DATA, nodes=1, epochs=2)
    run(folder, SMALL_DATA, nodes=1, epochs=2, resume=True)
    check_counts(folder, 600, 2)
    with bpt.load(folder, threads=1) as model:
        assert model.network.to_dict() == lenet().to_dict()


def test_the_nodes_file_is_of_this_run(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    seen: list[dict[str, int]] = []

    class Reading(Observer):
        def epoch_ended(self, row: EpochRow, best: bool) -> None:
            seen.append(pids(folder))

    run(folder, SMALL_DATA, nodes=2, epochs=1, observer=Reading())
    run(folder, SMALL_DATA, nodes=3, epochs=2, resume=True, observer=Reading())
    assert [sorted(found) for found in seen] == [["node0", "node1"], ["node0", "node1", "node2"]]
    assert not set(seen[0].values()) & set(seen[1].values())


@pytest.mark.parametrize("content", ["version = 1\n", "a = " + "[" * 100_000, "ranges = 9007199254740993"])
def test_a_damaged_tuning_is_refused_and_changes_nothing(tmp_path: Path, content: str) -> None:
    folder = tmp_path / "run"
    run(folder, SMALL_DATA, nodes=1, epochs=1)
    (folder / "tuning.toml").write_text(content)
    before = everything(folder)
    with pytest.raises(UserError, match=r"tuning\.toml"):
        run(folder, SMALL_DATA, nodes=1, epochs=2, resume=True)
    assert everything(folder) == before
