"""What a node costs that is throttled to a quarter in the middle of a run, beyond the speed that it has lost.

    python benchmarks/throttled.py [--network cnn2] [--nodes 1.0,1.0] [--epochs 8] [--rounds 3] [--data fashion-mnist]

Nodes are of this machine, 1 thread each; the last one's process is put into a control group with a quarter of its CPU
once half of the epochs are trained (needs root). What the run should take from there on follows from its speed before,
its first epoch left out, and from the nodes' speeds. Medians of the rounds (bar: 3 % more than that).
"""

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from runs import RUN_SECONDS, train_command

from bptcnn.training.settings import parse_nodes

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests" / "hosts"))
from cpu_groups import CpuGroup

_LEFT = 0.25  # of the last node's speed
_POLL_SECONDS = 0.02


def epochs_of(folder: Path) -> list[dict[str, str]]:
    """Return the rows of the epochs that have ended."""
    try:
        return list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))
    except FileNotFoundError:
        return []


def cost(told: argparse.Namespace, nodes: tuple[float, ...], folder: Path) -> float:
    """Train once; return the share of time that it took longer than it should have, from the throttling on."""
    group, half = CpuGroup(f"bptcnn-throttled-{os.getpid()}"), told.epochs // 2
    options = ["--network", told.network, "--threads", "1", "--nodes", ",".join(map(str, nodes)), "--no-measure"]
    command = train_command(told.data, folder, *options, "--epochs", str(told.epochs), "--quiet", *told.options)
    group.create(_LEFT * nodes[-1])
    run = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + RUN_SECONDS
        while len(epochs_of(folder)) < half:
            if run.poll() is not None or time.monotonic() > deadline:
                raise SystemExit("the run has not come to half of its epochs")
            time.sleep(_POLL_SECONDS)
        last = json.loads((folder / "nodes.json").read_text())[-1]
        group.procs.write_text(str(last["pid"]))
        if run.wait(RUN_SECONDS):
            raise SystemExit(f"the run failed with exit code {run.returncode}")
    finally:
        run.kill()
        run.wait()
        group.remove()
    rows = epochs_of(folder)
    speed = statistics.median(float(row["images_per_second"]) for row in rows[1:half])
    images = json.loads((folder / "summary.json").read_text())["images_trained"] * (told.epochs - half) / told.epochs
    expected = images / speed * sum(nodes) / (sum(nodes) - (1.0 - _LEFT) * nodes[-1])
    taken = sum(float(row["seconds"]) for row in rows[half:])
    slowed = images / taken
    print(f"{speed:,.0f} images/s, then {slowed:,.0f}: {taken / expected - 1.0:+.1%}", flush=True)
    return taken / expected - 1.0


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="fashion-mnist")
    parser.add_argument("--network", default="cnn2")
    parser.add_argument("--nodes", default="1.0,1.0", help="as of `train --nodes`")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("options", nargs="*", help="further options of bptcnn train, after --")
    told = parser.parse_args()
    nodes = parse_nodes(told.nodes)
    costs = []
    for _ in range(told.rounds):
        with tempfile.TemporaryDirectory() as scratch:
            costs.append(cost(told, nodes, Path(scratch) / "run"))
    found = statistics.median(costs)
    print(f"{found:+.1%} beyond the lost speed (bar 3 %: {'met' if found <= 0.03 else 'missed'})")


if __name__ == "__main__":
    main()
