"""The campaign of faults with nodes that join: new ones, lost ones again, and some that are struck or leave."""

import random
from pathlib import Path

import numpy as np
import pytest
from training.faults import spying
from training.runs import check_counts, data, run, summary
from training.schedules import SAMPLES, poison, schedule
from training.visitors import Visitors

from bptcnn.training.checkpoint import read_checkpoint

DATA = data(SAMPLES, 100)
MANY = 100_000  # epochs: the run is interrupted


def campaign(folder: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One run under faults, until all nodes that join train, are lost or have left; sometimes it is resumed."""
    draw = random.Random(seed)
    nodes, steps = draw.randint(1, 3), draw.choice([None, 1, 2, 8])
    with monkeypatch.context() as patch, spying(folder) as spy:
        doomed = schedule(spy, draw, nodes)
        poison(patch, draw, doomed)
        visitors = Visitors(spy, draw, nodes, doomed)
        with pytest.raises(KeyboardInterrupt):
            run(
                folder,
                DATA,
                nodes=tuple(draw.choice([0.2, 0.4]) for _ in range(nodes)),  # they leave time to those that start
                epochs=MANY,
                update=draw.choice(["agwu", "agwu-published", "sgwu"]),
                observer=visitors,
                partition=draw.choice(["idpa", "static", "uniform"]),
                local_steps=steps,
                staleness=draw.choice([None, 0, 3]),
                seed=seed,
            )
    assert spy.books is not None
    found, checkpoint = summary(folder), read_checkpoint(folder / "last.safetensors")
    assert (found["outcome"], found["epochs"], checkpoint.epoch) == ("stopped", spy.books.ended, spy.books.ended)
    assert sum(node["images"] for node in found["nodes"]) == found["images_trained"]
    spy.books.close(found["images_trained"])
    assert np.isfinite(checkpoint.weights).all()
    may_be_lost = set(doomed) | {visit.name for visit in visitors.visits if visit.may_be_lost}
    assert {node["name"] for node in found["nodes"] if node["lost"]} <= may_be_lost
    assert set(visitors.reasons) <= may_be_lost
    for visit in visitors.visits:
        assert visit.guest is not None
        kinds = visit.guest.kinds()
        assert "Refused" not in kinds
        assert visit.left or kinds[-1] == "Ended" or (kinds[-1] == "Lost" and visit.name in may_be_lost)
    if draw.random() < 0.25:
        epochs = checkpoint.epoch + 1
        with spying(folder):
            run(folder, DATA, epochs=epochs, local_steps=steps, resume=True)
        check_counts(folder, SAMPLES, epochs)


@pytest.mark.parametrize("seed", range(2))
def test_random_joins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    campaign(tmp_path / "run", seed, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2000, 2100))
def test_many_random_joins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    campaign(tmp_path / "run", seed, monkeypatch)
