"""Runs in which nodes diverge: what they learned is refused, their samples are trained again, nothing bad is merged."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from training.faults import Lost, poisoned, spying
from training.runs import check_counts, data, run, summary

from bptcnn.errors import UserError
from bptcnn.outer import MOST_REFUSALS
from bptcnn.training.checkpoint import read_checkpoint

SAMPLES, EPOCHS = 600, 3
DATA = data(SAMPLES, 100)
FOR_EVER = 10**9
BATCH = 16
LONGEST = 8 * BATCH  # of a local iteration: under SGWU they differ


@dataclass
class Told(Lost):
    """Keeps whose submissions were refused."""

    refused: list[str] = field(default_factory=list)

    def submission_refused(self, name: str, reason: str) -> None:
        assert reason == "the loss became nan"
        self.refused.append(name)


def good(folder: Path) -> None:
    for name in ("last.safetensors", "best.safetensors"):
        assert np.isfinite(read_checkpoint(folder / name).weights).all()


@pytest.mark.parametrize(
    ("nodes", "update", "count"),
    [
        (2, "agwu", 1),
        (3, "sgwu", 1),
        (1, "agwu", 2),
        pytest.param(2, "agwu", 2, marks=pytest.mark.slow),
        pytest.param(1, "sgwu", 2, marks=pytest.mark.slow),
    ],
)
def test_what_diverged_is_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nodes: int, update: str, count: int
) -> None:
    poisoned(monkeypatch, "diverge", "0", 8, count)
    told = Told()
    with spying(tmp_path / "run"):
        run(tmp_path / "run", DATA, nodes=nodes, epochs=EPOCHS, update=update, observer=told)
    found = check_counts(tmp_path / "run", SAMPLES, EPOCHS)
    assert found["outcome"] == "completed"
    assert not told.reasons
    assert told.refused == ["node0"] * count
    assert [node["refused"] for node in found["nodes"]] == [count] + [0] * (nodes - 1)
    assert count <= found["images_redone"] <= LONGEST * count  # a shard's last batch may be short
    assert (tmp_path / "run" / "logs" / "node0.log").read_text().count("is refused: the loss became nan") == count
    good(tmp_path / "run")


@pytest.mark.parametrize("update", ["agwu", pytest.param("sgwu", marks=pytest.mark.slow)])
def test_a_node_that_diverges_for_good_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, update: str) -> None:
    poisoned(monkeypatch, "diverge", "1", 10, FOR_EVER)
    told = Told()
    with spying(tmp_path / "run"):
        run(tmp_path / "run", DATA, nodes=2, epochs=EPOCHS, update=update, observer=told)
    found = check_counts(tmp_path / "run", SAMPLES, EPOCHS)
    assert found["outcome"] == "completed"
    assert told.refused == ["node1"] * MOST_REFUSALS
    assert "diverged" in told.reasons["node1"]
    assert found["nodes"][1]["lost"] == told.reasons["node1"]
    assert MOST_REFUSALS <= found["images_redone"] <= LONGEST * MOST_REFUSALS
    good(tmp_path / "run")


@pytest.mark.parametrize(
    ("nodes", "update"), [(1, "agwu"), (2, "sgwu"), pytest.param(2, "agwu", marks=pytest.mark.slow)]
)
def test_a_run_that_diverges_for_good_ends_and_keeps_its_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nodes: int, update: str
) -> None:
    folder = tmp_path / "run"
    with monkeypatch.context() as patch, spying(folder):
        poisoned(patch, "diverge", "0,1", 50, FOR_EVER)
        with pytest.raises(UserError, match="the loss became nan, 3 times in a row: training diverged") as caught:
            run(folder, DATA, nodes=nodes, epochs=100, update=update)
    assert "\n" not in str(caught.value)
    found = summary(folder)
    assert (found["outcome"], [node["refused"] for node in found["nodes"]]) == ("failed", [MOST_REFUSALS] * nodes)
    good(folder)
    done = read_checkpoint(folder / "last.safetensors").epoch
    assert done == found["epochs"] >= 1
    resumed = run(folder, DATA, nodes=nodes, epochs=done + 1, update=update, resume=True)
    check_counts(folder, SAMPLES, done + 1)
    assert resumed.summary.nodes[0].refused == 0, "its checkpoint is from before"
