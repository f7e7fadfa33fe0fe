"""A campaign of faults: seeded schedules of them (`schedules`) at random moments of short runs, all of which end well.

Of every run: each sample is trained once in each epoch by books of the test's own (`books`), the coordinator's state is
valid after every event, nothing stands still for 5 s, and a stopped node is noticed within that; weights are numbers;
no process, descriptor or shared memory is left. Moments are reports, and a little later.
"""

import random
from pathlib import Path

import numpy as np
import pytest
from training.faults import Lost, spying
from training.runs import check_counts, data, run
from training.schedules import EPOCHS, SAMPLES, poison, schedule

from bptcnn.training.checkpoint import read_checkpoint

DATA = data(SAMPLES, 100)


def campaign(folder: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One run under faults."""
    draw = random.Random(seed)
    nodes = draw.randint(2, 4)
    lost = Lost()
    with spying(folder) as spy:
        doomed = schedule(spy, draw, nodes)
        poison(monkeypatch, draw, doomed)
        run(
            folder,
            DATA,
            nodes=nodes,
            epochs=EPOCHS,
            update=draw.choice(["agwu", "agwu-published", "sgwu"]),
            observer=lost,
            partition=draw.choice(["idpa", "static", "uniform"]),
            local_steps=draw.choice([None, 1, 2, 8]),
            staleness=draw.choice([None, 0, 3]),
            seed=seed,
        )
    assert spy.books is not None
    assert spy.books.ended == EPOCHS
    found = check_counts(folder, SAMPLES, EPOCHS)
    assert found["outcome"] == "completed"
    assert set(lost.reasons) <= set(doomed)
    assert {node["name"]: node["lost"] for node in found["nodes"] if node["lost"]}.items() <= lost.reasons.items()
    checkpoint = read_checkpoint(folder / "last.safetensors")
    assert checkpoint.epoch == EPOCHS
    assert np.isfinite(checkpoint.weights).all()


@pytest.mark.parametrize("seed", range(4))
def test_random_faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    campaign(tmp_path / "run", seed, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1000, 1300))
def test_many_random_faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    campaign(tmp_path / "run", seed, monkeypatch)
