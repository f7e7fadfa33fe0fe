"""Coordinators killed at random moments: their nodes end within 5 s, stopped ones too, and the run can go on.

Its last checkpoint is that of the last epoch that ended: no more than the epoch that was under way is lost.
"""

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from nodes.agents import await_end
from training.coordinators import driving, resumed
from training.guests import Guest
from training.runs import metrics

from bptcnn.training.checkpoint import read_checkpoint
from bptcnn.training.visits import JoinRequest, Progress

STARTED_SECONDS = 60.0
AGENT = ["-P", "-m", "bptcnn.nodes.agent"]


def agents(process: "subprocess.Popen[str]") -> list[int]:
    """The coordinator's agents, those that are starting included."""
    return [child.pid for child in psutil.Process(process.pid).children() if child.cmdline()[1:4] == AGENT]


def joining(folder: Path, process: "subprocess.Popen[str]", trains: bool) -> Guest:
    """Let a node join; return while its agent starts, or when it trains."""
    before = len(agents(process))
    guest = Guest(folder, JoinRequest(speed=0.5, threads=1))
    deadline = time.monotonic() + STARTED_SECONDS
    while not (trains and any(isinstance(packet, Progress) for packet in guest.packets)):
        if not trains and len(agents(process)) > before:
            break
        assert time.monotonic() < deadline, guest.packets
        time.sleep(0.001)
    return guest


def campaign(folder: Path, seed: int) -> None:
    """Kill one coordinator, perhaps with a node that joins, perhaps with a node stopped or killed before."""
    draw = random.Random(seed)
    update = draw.choice(["agwu", "sgwu"])
    guest = None
    with driving(folder, update, draw.randint(1, 3)) as process:
        if draw.random() < 0.5:
            guest = joining(folder, process, trains=draw.random() < 0.5)
        time.sleep(draw.uniform(0.0, 0.3))  # into an epoch, a checkpoint, an evaluation
        nodes = agents(process)
        assert len(nodes) == (2 if guest is None else 3)
        before = draw.choice([None, signal.SIGSTOP, signal.SIGSTOP, signal.SIGKILL])
        if before is not None:
            os.kill(draw.choice(nodes), before)
            time.sleep(draw.choice([0.0, 0.1]))
        process.kill()
        process.wait()
        assert not await_end(nodes)
    if guest is not None:
        assert "Ended" not in guest.kinds()
    checkpoint, rows = read_checkpoint(folder / "last.safetensors"), len(metrics(folder))
    assert checkpoint.epoch in (rows, rows + 1)
    moved = [json.loads(line)["epoch"] for line in (folder / "allocation.jsonl").read_text().splitlines()]
    assert max(moved) <= checkpoint.epoch + 1
    assert np.isfinite(checkpoint.weights).all()
    resumed(folder, update)


def test_a_coordinator_killed_at_random(tmp_path: Path) -> None:
    campaign(tmp_path / "run", 0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1000, 1020))
def test_many_coordinators_killed_at_random(tmp_path: Path, seed: int) -> None:
    campaign(tmp_path / "run", seed)
