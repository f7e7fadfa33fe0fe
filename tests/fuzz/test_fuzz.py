"""The small version of the fuzz run, some hundred cases over all kinds; `python -m tests.fuzz` runs 10,000.

In a process of its own, which is told of all code that it runs, and whose memory is bounded.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fuzz.running import KINDS

ROOT = Path(__file__).resolve().parent.parent.parent
CASES = 400
SECONDS = 280.0  # of which kernels take some 60, where they are not compiled yet


def fuzz(*options: str, seconds: float = SECONDS) -> "subprocess.CompletedProcess[str]":
    """Run the command."""
    command = [sys.executable, "-m", "tests.fuzz", *options]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "cli")])}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=seconds)


@pytest.fixture(scope="module")
def tallies() -> dict[str, Any]:
    """What became of the cases of each kind."""
    done = fuzz("--cases", str(CASES), "--json")
    assert done.returncode in (0, 1), done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("kind", [kind.name for kind in KINDS])
def test_what_comes_from_outside_is_taken_or_refused_in_one_line(tallies: dict[str, Any], kind: str) -> None:
    tally = tallies[kind]
    assert tally["cases"] > 0
    told = [
        f"--kind {kind} --replay {f['seed']}: {f['what']} at {f['where']}, given {f['given']}"
        for f in tally["failures"]
    ]
    assert not told, "\n".join(told)
    assert tally["accepted"] + tally["refused"] == tally["cases"]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_ten_thousand_cases() -> None:
    done = fuzz("--seed", "1000000", seconds=3500.0)
    assert done.returncode == 0, done.stdout + done.stderr
