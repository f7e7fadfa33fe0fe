"""A campaign of faults: seeded schedules of them at random moments of short runs, each of which must end well.

    kill     SIGKILL                                stop   SIGSTOP: silent until it is killed for it
    doze     SIGSTOP, and SIGCONT before or after it is found silent
    slow     a duty cycle of SIGSTOP and SIGCONT    diverge, raise   in its own steps

Of every run: each sample is trained once in each epoch by books of the test's own (`books`), the coordinator's state is
valid after every event, nothing stands still for 5 s, and a stopped node is noticed within that; weights are numbers;
no process, descriptor or shared memory is left. Coordinators are killed, too: their nodes end within 5 s, also those
that are stopped, and the run can be resumed. Moments are reports, and a little later.
"""

import os
import random
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from nodes.agents import await_end
from training.coordinators import driving, resumed
from training.faults import Lost, Spy, poisoned, spying
from training.runs import check_counts, data, pids, run

from bptcnn.training.checkpoint import read_checkpoint

SAMPLES, EPOCHS = 600, 3
DATA = data(SAMPLES, 100)
REPORTS = SAMPLES * EPOCHS // 32  # about so many submissions, and more reports
DEADLY = ("kill", "kill", "kill", "stop", "doze")
POISONS = ("diverge", "raise")


def strike(spy: Spy, draw: random.Random, name: str, fault: str) -> None:
    """Let a fault happen to a node, now or a little later."""
    actions: dict[str, Callable[[], None]] = {
        "kill": partial(spy.signal, name),
        "stop": partial(spy.stop, name),
        "doze": partial(spy.slow, name, draw.uniform(0.1, 5.0), 0.0, 1e-3),
        "slow": partial(
            spy.slow, name, draw.choice([0.003, 0.03, 0.3]), draw.choice([0.003, 0.03]), draw.uniform(0.2, 2.0)
        ),
    }
    delay = draw.choice([0.0, draw.uniform(0.0, 0.004), draw.uniform(0.0, 0.1)])
    if fault == "kill" and not delay:
        actions[fault]()
    else:
        spy.later(delay, actions[fault])


def schedule(spy: Spy, draw: random.Random, nodes: int) -> set[str]:
    """Draw what happens to whom at which report; return the nodes that may be lost: all but one at most."""
    names = [f"node{node}" for node in range(nodes)]
    doomed = draw.sample(names, draw.randint(0, nodes - 1))
    faults = [(name, draw.choice(DEADLY)) for name in doomed]
    stopped = {name for name, fault in faults if fault == "stop"}  # and nobody may wake them
    faults += [(name, "slow") for name in names if name not in stopped and draw.random() < 0.3]
    for name, fault in faults:
        moment = draw.randrange(0 if fault == "kill" else nodes, REPORTS)
        before = spy.at.get(moment)

        def together(name: str = name, fault: str = fault, before: Callable[[], None] | None = before) -> None:
            if before:
                before()
            strike(spy, draw, name, fault)

        spy.at[moment] = together
    return set(doomed)


def campaign(folder: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One run under faults."""
    draw = random.Random(seed)
    nodes = draw.randint(2, 4)
    lost = Lost()
    with spying(folder) as spy:
        doomed = schedule(spy, draw, nodes)
        if doomed and draw.random() < 0.3:
            victim = draw.choice(sorted(doomed)).removeprefix("node")
            poisoned(monkeypatch, draw.choice(POISONS), victim, draw.randrange(20), draw.choice([1, 2, 10**9]))
        run(
            folder,
            DATA,
            nodes=nodes,
            epochs=EPOCHS,
            update=draw.choice(["agwu", "agwu-published", "sgwu"]),
            observer=lost,
            partition=draw.choice(["idpa", "static", "uniform"]),
            local_steps=draw.choice([1, 2, 8]),
            staleness=draw.choice([None, 0, 3]),
            seed=seed,
        )
    assert spy.books is not None
    assert spy.books.ended == EPOCHS
    found = check_counts(folder, SAMPLES, EPOCHS)
    assert found["outcome"] == "completed"
    assert set(lost.reasons) <= doomed
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


def coordinator_campaign(folder: Path, seed: int) -> None:
    """A coordinator is killed at a random moment, perhaps with one of its nodes stopped or killed before."""
    draw = random.Random(seed)
    update = draw.choice(["agwu", "sgwu"])
    with driving(folder, update, draw.randint(1, 3)) as process:
        nodes = list(pids(folder).values())
        time.sleep(draw.uniform(0.0, 0.3))  # into an epoch, a checkpoint, an evaluation
        before = draw.choice([None, None, signal.SIGSTOP, signal.SIGKILL])
        if before is not None:
            os.kill(draw.choice(nodes), before)
            time.sleep(draw.choice([0.0, 0.1]))
        process.kill()
        process.wait()
        assert not await_end(nodes)
    assert len(nodes) == 2
    assert np.isfinite(read_checkpoint(folder / "last.safetensors").weights).all()
    resumed(folder, update)


def test_a_coordinator_killed_at_random(tmp_path: Path) -> None:
    coordinator_campaign(tmp_path / "run", 0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1000, 1020))
def test_many_coordinators_killed_at_random(tmp_path: Path, seed: int) -> None:
    coordinator_campaign(tmp_path / "run", seed)
