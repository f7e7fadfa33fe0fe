"""What training on several nodes, or by faster algorithms, costs in accuracy, and how long it takes to an accuracy.

    python benchmarks/accuracy.py equal [--nodes "2;4;8"] [--seeds 5] [--epochs 20] [--lr RATE] [--results FILE.jsonl]
    python benchmarks/accuracy.py algorithms [--seeds 3] [--epochs 4] [--threads 2] [--results FILE.jsonl]
    python benchmarks/accuracy.py time --peer-python TORCH/bin/python [--threads 2] [--rounds 3]
    python benchmarks/accuracy.py ddp --peer-python TORCH/bin/python [--nodes 1.0,0.5,0.25,0.25] [--rounds 3]

`equal`: test accuracy after as many epochs on one node and on several, means over seeds (bar: within 0.3 points); only
accuracy counts, so the machine need not be quiet. Without `--lr` the learning rate is 0.05 times the square root of the
number of nodes, whose steps are averaged; it grows for a fifth of the epochs, then falls as a cosine. `algorithms`:
likewise with each algorithm of the inner layer forced on the convolutions of `--network`, and of one that has them all
(bar: 0.3 points below direct convolution, or the range of its seeds); see algorithms.py. `time`: seconds to `--target`
on one node, against PyTorch with as many threads (bar: 3 times shorter). `ddp`: the same on emulated nodes against
PyTorch's DistributedDataParallel, a rank for each node, whose CPU a control group limits alike (needs root; bar: 6
times shorter). Both sides in turn, medians of the rounds; batch 64 on each node, momentum 0.9, on both sides a learning
rate (`--lr`) of 0.05 times the square root of the number of nodes that falls by a fifth each epoch: at a constant 0.05
cnn2 stays about 90.6 %, and chance decides when, and whether, it passes 91 %. Seconds are those of training, evaluation
left out.
`--results` keeps what was measured, so that a comparison can be made piece by piece.
"""

import argparse
import json
import math
import os
import socket
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from algorithms import compare_algorithms
from runs import Kept, node_name, train

import bptcnn as bpt
from bptcnn.networks import load_network
from bptcnn.profiling.benchmarking.flattening import flattened
from bptcnn.training.schedules import learning_rates
from bptcnn.training.settings import parse_nodes

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests" / "hosts"))
from cpu_groups import CpuGroup

_PEER = Path(__file__).with_name("torch_training.py")
_MOST_EPOCHS = 20
_RATE = 0.05


def scaled_rate(nodes: int, epochs: int) -> str:
    """Return the learning rate of `equal` for so many nodes."""
    return f"warmup(cosine({_RATE * math.sqrt(nodes):.3f}), {max(1, epochs // 5)})"


def falling_rate(nodes: int) -> str:
    """Return the learning rate of `time` and `ddp`."""
    return f"{_RATE * math.sqrt(nodes):.3f} * 0.8 ** (epoch - 1)"


def compare_equal(told: argparse.Namespace) -> None:
    """Print the accuracies after equal epochs."""
    kept = Kept(told.results)
    teams = [(1.0,), *(parse_nodes(spec) for spec in told.nodes.split(";"))]
    found: dict[tuple[float, ...], list[float]] = {team: [] for team in teams}
    for seed in range(told.seeds):
        for team in teams:
            options = ["--network", told.network, "--threads", "1", "--nodes", ",".join(map(str, team))]
            rate = told.lr or scaled_rate(len(team), told.epochs)
            options += ["--epochs", str(told.epochs), "--seed", str(seed), "--lr", rate, "--no-measure"]
            options += told.options
            key = " ".join([told.data, *options])
            if key not in kept:
                kept[key] = train(told.data, *options)["test_accuracy"]
            found[team].append(100.0 * kept[key])
            print(f"seed {seed}, {node_name(team)}: {found[team][-1]:.2f} %", flush=True)
    print("\n| nodes | test accuracy, %, mean (range) | against one node | bar 0.3 |\n|---|---|---|---|")
    alone = statistics.mean(found[teams[0]])
    for team, values in found.items():
        mean = statistics.mean(values)
        row = f"{mean:.2f} ({min(values):.2f} to {max(values):.2f}) | {mean - alone:+.2f}"
        print(f"| {node_name(team)} | {row} | {'met' if mean >= alone - 0.3 else 'missed'} |")


def own_time(told: argparse.Namespace, seed: int, *options: str) -> list[float]:
    """Return the seconds of a run of bptcnn until the target or its last epoch, the accuracy there, and the epochs."""
    run = ["--network", told.network, "--epochs", str(_MOST_EPOCHS), "--lr", told.lr, "--seed", str(seed)]
    run += ["--target-accuracy", str(told.target), "--no-measure", *options, *told.options]
    summary = train(told.data, *run, shown=True)
    return [summary["train_seconds"], summary["test_accuracy"], summary["epochs"]]


def peer_time(
    told: argparse.Namespace, seed: int, threads: int, quotas: tuple[float, ...], scratch: Path
) -> list[float]:
    """The same of PyTorch: one rank for each of `quotas`, limited to so many cores, or one without a limit."""
    dataset = bpt.data.load(told.data)
    data = scratch / "data.npz"
    if not data.exists():
        train_part, test = dataset.train, dataset.test
        np.savez(data, x_train=train_part.images, y_train=train_part.labels, x_test=test.images, y_test=test.labels)
    request = {
        "network": flattened(load_network(told.network, dataset.train.input_shape, dataset.classes)),
        "data": str(data),
        "threads": threads,
        "batch_size": told.peer_batch,
        "rates": learning_rates(told.lr, _MOST_EPOCHS),
        "momentum": 0.9,
        "target": told.target,
        "seed": seed,
        "ranks": len(quotas) or 1,
        "port": _free_port(),
    }
    groups = [CpuGroup(f"bptcnn-peer-{os.getpid()}-{rank}") for rank in range(len(quotas))]
    processes: list[subprocess.Popen[str]] = []
    try:
        for group, quota in zip(groups, quotas, strict=True):
            group.create(quota)
        command = [told.peer_python, str(_PEER)]
        for rank in range(len(quotas) or 1):
            joined = groups[rank].joined(command) if groups else command
            process = subprocess.Popen(joined, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            processes.append(process)
            assert process.stdin is not None
            process.stdin.write(json.dumps({**request, "rank": rank}))
            process.stdin.close()
        assert processes[0].stdout is not None
        epochs: list[dict[str, Any]] = []
        for line in processes[0].stdout:
            epochs.append(json.loads(line))
            print(f"  PyTorch: {epochs[-1]}", flush=True)
        if max(abs(process.wait()) for process in processes):
            raise SystemExit("PyTorch failed")
    finally:
        for process in processes:
            process.kill()
            process.wait()
        for group in groups:
            group.remove()
    return [epochs[-1]["seconds"], epochs[-1]["accuracy"], len(epochs)]


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def compare_times(told: argparse.Namespace, nodes: tuple[float, ...], bar: float) -> None:
    """Print both sides' times; `nodes` empty: one node, and one process, of `--threads`."""
    kept = Kept(told.results)
    told.lr = told.lr or falling_rate(len(nodes) or 1)
    threads = 1 if nodes else told.threads
    own_options = ["--nodes", ",".join(map(str, nodes)) if nodes else "1", "--threads", str(threads)]
    common = f"{told.data} {told.network} {told.target} {own_options}"
    keys = {"bptcnn": f"{common} {told.lr} {told.options}", "PyTorch": f"{common} {told.peer_batch} {told.lr}"}
    times: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for seed in range(told.rounds):
            for side in told.sides.split(","):
                key = f"{side} {seed} {keys[side]}"
                if key not in kept and side == "bptcnn":
                    kept[key] = own_time(told, seed, *own_options)
                elif key not in kept:
                    kept[key] = peer_time(told, seed, threads, nodes, Path(scratch))
                seconds, accuracy, epochs = kept[key]
                print(f"round {seed + 1}: {side} {seconds:.1f} s, {accuracy:.4f} after {epochs} epochs", flush=True)
                times.setdefault(side, []).append(seconds if accuracy >= told.target else math.inf)
    medians = {side: statistics.median(found) for side, found in times.items()}
    print(f"to {told.target:.0%}:", ", ".join(f"{side} {seconds:.1f} s" for side, seconds in medians.items()))
    if len(medians) == 2 and math.isfinite(medians["bptcnn"]):
        ratio = medians["PyTorch"] / medians["bptcnn"]
        print(f"{ratio:.2f} times shorter (bar {bar:g}: {'met' if ratio >= bar else 'missed'})")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["equal", "algorithms", "time", "ddp"])
    parser.add_argument("--data", default="fashion-mnist")
    parser.add_argument("--network", default="cnn2")
    parser.add_argument("--nodes", help="as of `train --nodes`; of `equal`, with ; between")
    parser.add_argument("--seeds", type=int, help="5; of `algorithms` 3")
    parser.add_argument("--epochs", type=int, help="20; of `algorithms` 4")
    parser.add_argument("--lr", help="as of `train --lr`; see above")
    parser.add_argument("--target", type=float, default=0.91)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sides", default="bptcnn,PyTorch", help="to measure, or to take from --results")
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--peer-batch", type=int, default=64, help="of each rank")
    parser.add_argument("--results", type=Path)
    parser.add_argument("options", nargs="*", help="further options of bptcnn train, after --")
    told = parser.parse_args()
    if told.what == "equal":
        told.nodes, told.seeds, told.epochs = told.nodes or "2;4;8", told.seeds or 5, told.epochs or 20
        compare_equal(told)
    elif told.what == "algorithms":
        told.seeds, told.epochs, told.lr = told.seeds or 3, told.epochs or 4, told.lr or str(_RATE)
        compare_algorithms(told)
    elif told.what == "time":
        compare_times(told, (), 3.0)
    else:
        compare_times(told, parse_nodes(told.nodes or "1.0,0.5,0.25,0.25"), 6.0)


if __name__ == "__main__":
    main()
