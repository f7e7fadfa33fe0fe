"""A resumed run is the run: interrupted and resumed it ends in the same bits as one that was never interrupted."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from training import old_runs
from training.coordinators import driving
from training.runs import run, summary

import bptcnn as bpt
from bptcnn.data import Dataset, Samples
from bptcnn.networks import BatchNorm, Conv2D, Dense, Dropout, Flatten, MaxPool2D, Network
from bptcnn.nodes.optimizer_state import LIFE_STEPS
from bptcnn.training import EpochRow, Observer
from bptcnn.training.checkpoint import Checkpoint, read_checkpoint

HARD: dict[str, Any] = {"momentum": 0.9, "weight_decay": 0.01, "lr": "0.05 / epoch", "validation": 0.2}
SGWU: dict[str, Any] = {"update": "sgwu", "partition": "uniform"}


def small() -> Network:
    """All that remembers: momentum, dropout, running statistics."""
    layers = [Conv2D(4, 3), BatchNorm(), MaxPool2D(2), Dropout(0.25), Flatten(), Dense(8), Dropout(0.5), Dense(3)]
    return Network((8, 8, 1), layers, "small")


def images(samples: int = 203) -> Dataset:
    """Drawn images of three classes, their number no multiple of anything."""
    random = np.random.default_rng(4)

    def drawn(count: int) -> Samples:
        labels = random.integers(0, 3, count, np.int32)
        noise = random.integers(0, 100, (count, 8, 8, 1), np.uint8)
        return Samples(noise + (50 * labels).astype(np.uint8)[:, None, None, None], labels)

    return Dataset(drawn(samples), drawn(60), 3, "drawn", "embedded")


class Told(Observer):
    """Notes warnings, and ends the run as Ctrl-C does after an epoch."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.warnings: list[str] = []
        self._stop_after = stop_after

    def warning(self, message: str) -> None:
        self.warnings.append(message)

    def epoch_ended(self, row: EpochRow, best: bool) -> None:
        if row.epoch == self._stop_after:
            raise KeyboardInterrupt


def train(folder: Path, epochs: int, stop_after: int | None = None, **settings: Any) -> Checkpoint:
    """Train up to `epochs`, or until it is interrupted after one; return the last checkpoint."""
    told = Told(stop_after)
    try:
        run(folder, images(), small(), epochs=epochs, observer=told, **settings)
    except KeyboardInterrupt:
        assert stop_after is not None
    assert not told.warnings
    return read_checkpoint(folder / "last.safetensors")


def same(one: Checkpoint, other: Checkpoint) -> None:
    """All that training depends on has the same bits, and so have the figures that do not depend on time."""
    assert one.epoch == other.epoch
    assert one.weights.tobytes() == other.weights.tobytes()
    assert one.optimizer is not None
    assert other.optimizer is not None
    assert one.optimizer.keys() == other.optimizer.keys()
    for name, state in one.optimizer.items():
        there = other.optimizer[name]
        assert (state.step, state.usual_loss) == (there.step, there.usual_loss)
        assert (state.velocity is None) == (there.velocity is None)
        if state.velocity is not None and there.velocity is not None:
            assert state.velocity.tobytes() == there.velocity.tobytes()
    losses = [[(row.train_loss, row.train_accuracy) for row in found.rows] for found in (one, other)]
    assert losses[0] == losses[1]


CASES = {
    "agwu": {"nodes": 1, **HARD},
    "agwu without momentum": {"nodes": 1, **HARD, "momentum": 0.0},
    "agwu-published": {"nodes": 1, "update": "agwu-published", "local_steps": None, "measure": True},
    "sgwu": {"nodes": 1, **HARD, "update": "sgwu"},
    "sgwu on 2 nodes": {"nodes": 2, **HARD, **SGWU},
    "sgwu on 3 nodes": {"nodes": 3, **SGWU},
}


@pytest.mark.parametrize("case", CASES)
def test_interrupted_and_resumed_is_uninterrupted(tmp_path: Path, case: str) -> None:
    settings = CASES[case]
    whole = train(tmp_path / "whole", 4, **settings)
    train(tmp_path / "parts", 4, stop_after=1, **settings)  # by Ctrl-C
    train(tmp_path / "parts", 3, resume=True, **settings)
    same(train(tmp_path / "parts", 4, resume=True, **settings), whole)
    state = whole.optimizer["node0"] if whole.optimizer else None
    assert state is not None
    assert (state.velocity is None) == (settings.get("momentum") == 0.0)
    assert state.step >= 4 * 203 * 0.8 / (16 * settings["nodes"])


def test_a_coordinator_that_is_killed_in_an_epoch(tmp_path: Path) -> None:
    """What was trained since the last checkpoint is trained again, as it was."""
    with driving(tmp_path / "killed", nodes=1) as process:
        process.kill()
        process.wait()
    done = read_checkpoint(tmp_path / "killed" / "last.safetensors").epoch
    found = []
    for name, resume in (("killed", True), ("whole", False)):
        bpt_run(tmp_path / name, done + 1, resume)
        found.append(read_checkpoint(tmp_path / name / "last.safetensors"))
    same(*found)


def bpt_run(folder: Path, epochs: int, resume: bool) -> None:
    from training.runs import data

    run(folder, data(300, 50), nodes=1, epochs=epochs, resume=resume)


def test_every_asynchronous_node_goes_on_from_its_own_state(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    before = train(folder, 2, nodes=2).optimizer
    assert before is not None
    assert sorted(before) == ["node0", "node1"]
    velocities = [state.velocity for state in before.values()]
    assert all(velocity is not None and velocity.any() for velocity in velocities)
    assert sum(state.step for state in before.values()) >= 2 * 203 / 16
    after = train(folder, 3, nodes=2, resume=True).optimizer
    assert after is not None
    for name, state in after.items():
        assert before[name].step < state.step < before[name].step + 203
        assert state.usual_loss == before[name].usual_loss


def test_other_nodes_take_what_is_theirs_and_the_rest_is_told(tmp_path: Path) -> None:
    folder, told = tmp_path / "run", Told()
    train(folder, 1, nodes=2)
    run(folder, images(), small(), epochs=2, nodes=3, resume=True, observer=told)
    assert told.warnings == ["node2 starts without momentum: the checkpoint has none of this node"]
    three = read_checkpoint(folder / "last.safetensors").optimizer
    one = train(folder, 3, nodes=1, resume=True).optimizer
    assert three is not None
    assert one is not None
    assert three["node2"].velocity is not None
    assert one["node0"].step > three["node0"].step
    for name in ("node1", "node2"):  # they were not there: if they come again, they draw what they never drew
        assert (one[name].step, one[name].velocity) == (LIFE_STEPS, None)


def test_a_checkpoint_of_a_version_without_optimizer_states(tmp_path: Path) -> None:
    folder, told = old_runs.copied(tmp_path / "run"), Told()
    bpt.train(old_runs.NETWORK, old_runs.dataset(), run_dir=folder, epochs=3, resume=True, observer=told)
    assert len(told.warnings) == 1
    assert "kept no optimizer states" in told.warnings[0]
    assert "\n" not in told.warnings[0]
    assert summary(folder)["images_trained"] == 3 * old_runs.SAMPLES
    assert sorted(read_checkpoint(folder / "last.safetensors").optimizer or {}) == ["node0", "node1"]


def test_two_seeds_and_two_nodes_draw_differently_and_a_seed_repeats(tmp_path: Path) -> None:
    """With one batch that is the whole data there is nothing else that a seed changes but weights, which are given."""
    start = train(tmp_path / "start", 1, nodes=1)
    found = []
    for number, seed in enumerate((0, 0, 1)):
        folder = tmp_path / str(number)
        settings = {"nodes": 1, "seed": seed, "init": tmp_path / "start", "batch_size": 512}
        found.append(train(folder, 1, **settings).weights.tobytes())
    assert found[0] == found[1]
    assert found[0] != start.weights.tobytes()
    assert found[0] != found[2]
