"""Coordinators in processes of their own, to be killed or interrupted, and what must be possible after it."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nodes.agents import READY_SECONDS
from training.faults import spying
from training.runs import data, metrics, run, summary

from bptcnn.training.checkpoint import read_checkpoint

SCRIPT = Path(__file__).with_name("driving.py")
SAMPLES = 300


@contextmanager
def driving(folder: Path, update: str = "agwu", epochs: int = 2, nodes: int = 2) -> Iterator[subprocess.Popen[str]]:
    """A run in a process of its own, once it has trained some epochs."""
    command = [sys.executable, str(SCRIPT), str(folder), update, str(nodes)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            deadline = time.monotonic() + READY_SECONDS
            while not (folder / "metrics.csv").exists() or len(metrics(folder)) < epochs:
                assert process.poll() is None, process.stderr.read() if process.stderr else ""
                assert time.monotonic() < deadline
                time.sleep(0.01)
            yield process
        finally:
            process.kill()
            process.wait()


def resumed(folder: Path, update: str) -> None:
    """Go on for two epochs from the checkpoint that is there."""
    done = read_checkpoint(folder / "last.safetensors").epoch
    with spying(folder) as spy:
        run(folder, data(SAMPLES, 50), nodes=2, epochs=done + 2, update=update, resume=True)
    assert spy.books is not None
    assert spy.books.ended == done + 2
    found = summary(folder)
    assert found["images_trained"] == SAMPLES * (done + 2)
    assert sum(node["images"] for node in found["nodes"]) == SAMPLES * (done + 2)
    epochs = [int(row["epoch"]) for row in metrics(folder)]
    assert epochs == sorted(set(epochs))
    assert epochs[-2:] == [done + 1, done + 2]
