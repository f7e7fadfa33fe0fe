"""Hundreds of seeded random runs in virtual time: each ends, and `validate` and the simulator's own books hold."""

from dataclasses import replace

import numpy as np
import pytest

from bptcnn.outer.settings import NodeProfile, Partition, RunSettings, Update
from bptcnn.outer.simulated_node import Fate, SimulatedNode
from bptcnn.outer.simulator import Conditions, SimulatedRun, simulate

UPDATES: tuple[Update, ...] = ("agwu", "agwu-published", "sgwu")
PARTITIONS: tuple[Partition, ...] = ("idpa", "static", "uniform")
FATES: tuple[Fate, ...] = ("dies", "hangs", "fails")


RETURN_SECONDS = 15.0


def random_node(rng: np.random.Generator, horizon: float, fragile: bool) -> SimulatedNode:
    node = SimulatedNode(
        speed=float(rng.uniform(50.0, 400.0)),
        drift=float(rng.choice([1.0, 0.3, 2.0])),
        drift_at=float(rng.uniform(0.0, horizon)),
        fate=FATES[int(rng.integers(3))],
        late=float(rng.choice([0.0, 1.5])),
        travel=float(rng.choice([0.0, 0.0, 0.05, 1.0])),
    )
    match int(rng.integers(3 if fragile else 5)):
        case 0:
            node = replace(node, fate_at=float(rng.uniform(0.0, horizon)))
        case 1:
            node = replace(node, fate_after_commit=int(rng.integers(1, 12)))
        case 2:  # never reached
            node = replace(node, fate="dies", fate_at=0.0, late=1.5)
    return_after = None if rng.random() < 0.4 else float(rng.choice([0.0, 0.3, 4.0, 2 * RETURN_SECONDS]))
    abandon_after = None if rng.random() < 0.7 else float(rng.choice([0.0, 5.0]))
    diverges = float(rng.choice([0.0, 0.0, 0.1, 0.4]))
    return replace(
        node,
        return_after=return_after,
        abandon_after=abandon_after,
        diverges=diverges,
        deaths=int(rng.integers(1, 4)),
    )


def random_run(seed: int, update: Update, partition: Partition) -> tuple[RunSettings, SimulatedRun, Conditions]:
    """A run, and what was left of it resumed from one of its checkpoints, on nodes with the same fates."""
    rng = np.random.default_rng([seed, UPDATES.index(update), PARTITIONS.index(partition)])
    count = int(rng.integers(1, 6))
    epochs = int(rng.integers(1, 4))
    samples = int(rng.choice([1, 3, 40, 333, 900]))
    horizon = 3.0 * samples * epochs / (200.0 * count)
    fragile = bool(rng.random() < 0.4)  # all nodes are lost at some time
    nodes = tuple(random_node(rng, horizon, fragile) for _ in range(count))
    joining = tuple(
        replace(
            random_node(rng, horizon, fragile),
            join_at=float(rng.uniform(0.0, horizon)),
            join_again_after=None if rng.random() < 0.5 else float(rng.choice([0.0, 1.0, 10.0])),
        )
        for _ in range(int(rng.choice([0, 0, 1, 2])))
    )
    settings = RunSettings(
        nodes=tuple(NodeProfile(f"n{i}", node.speed * 4.0 ** rng.uniform(-1, 1)) for i, node in enumerate(nodes)),
        samples=samples,
        epochs=epochs,
        batch_size=int(rng.choice([1, 8, 32])) if samples < 500 else 16,
        local_steps=int(rng.integers(1, 6)),
        learning_rates=(0.1,) * epochs,
        update=update,
        partition=partition,
        rounds=None if rng.random() < 0.5 else int(rng.integers(1, 20)),
        seed=seed,
        return_seconds=RETURN_SECONDS,
        trial_seconds=float(rng.choice([0.0, 0.5])),
    )
    if rng.random() < 0.5:
        settings = replace(settings, fewest_local_steps=int(rng.integers(1, settings.local_steps + 1)))
    conditions = Conditions(
        delay=float(rng.choice([0.0, 0.002, 0.3])),
        merge_seconds=float(rng.choice([0.0, 0.005, 0.1])),
        notice_seconds=float(rng.choice([0.01, 1.0])),
        stop_at=float(rng.uniform(0.0, horizon)) if rng.random() < 0.1 else None,
        target_epoch=1 if rng.random() < 0.1 else None,
        hurdle=2000.0,
        seed=seed,
    )
    run = simulate(settings, (*nodes, *joining), conditions)
    if run.states:
        state = run.states[int(rng.integers(len(run.states)))]
        resumed = simulate(settings, (*nodes, *joining), replace(conditions, stop_at=None, target_epoch=None), state)
        assert resumed.outcome == "failed" or resumed.counters.images_trained == epochs * samples
    return settings, run, conditions


def check(seed: int, update: Update, partition: Partition) -> SimulatedRun:
    settings, run, conditions = random_run(seed, update, partition)
    if run.outcome == "completed":
        assert run.counters.images_trained == settings.epochs * settings.samples
        assert run.epochs_ended == settings.epochs
    elif run.outcome == "failed":
        assert not any(status.live or status.away for status in run.statuses)
    else:
        assert conditions.stop_at is not None or conditions.target_epoch is not None
    return run


@pytest.mark.parametrize("partition", PARTITIONS)
@pytest.mark.parametrize("update", UPDATES)
def test_random_schedules_end_and_train_each_sample_once(update: Update, partition: Partition) -> None:
    runs = [check(seed, update, partition) for seed in range(45)]
    outcomes = {run.outcome for run in runs}
    assert outcomes == {"completed", "failed", "stopped"}, "the schedules do not cover every outcome"
    completed = [run for run in runs if run.outcome == "completed"]
    assert any(run.returns > 1 for run in completed), "no completed run had nodes return"
    assert any(run.counters.images_redone and any(node.totals.refused for node in run.statuses) for run in completed)
    assert any(run.joins > 1 for run in completed), "no completed run had nodes join"


@pytest.mark.slow
@pytest.mark.parametrize("partition", PARTITIONS)
@pytest.mark.parametrize("update", UPDATES)
def test_long_campaign_of_random_schedules(update: Update, partition: Partition) -> None:
    for seed in range(1000, 1400):
        check(seed, update, partition)
