"""Processes that merge, copy and die at once on one weight buffer: sums are exact and no copy is torn."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

CAMPAIGN = Path(__file__).with_name("weight_campaign.py")


def run(mode: str, seed: int, count: int) -> dict[str, int]:
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}  # BLAS threads would make forking unsafe
    command = [sys.executable, str(CAMPAIGN), mode, str(seed), str(count)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    seen: dict[str, int] = json.loads(done.stdout)
    return seen


def test_concurrent_writers_lose_nothing() -> None:
    seen = run("exact", 0, 3000)
    assert seen["updates"] == 9000
    assert seen["snapshots"] > 0


def test_killed_writers_lose_nothing() -> None:
    seen = run("kill", 1, 300)
    assert seen["killed"] >= 300
    assert seen["unmerged"] >= 15, "hardly any kill met a merge: the campaign proves little"
    assert seen["snapshots"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 6))
def test_thousands_of_killed_writers_lose_nothing(seed: int) -> None:
    seen = run("kill", seed, 2500)
    assert seen["unmerged"] >= 125


@pytest.mark.slow
def test_many_concurrent_submissions_lose_nothing() -> None:
    assert run("exact", 0, 60_000)["updates"] == 180_000
