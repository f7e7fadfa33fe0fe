"""What share of its nodes' summed speed a run on this machine reaches, and where the rest of their time goes.

    python benchmarks/outer.py [--rounds 3] [--networks cnn2,lenet5,resnet18] [--nodes "1.0,0.5,0.25,0.25;1.0,1.0"]
                               [--ways agwu/idpa,sgwu/uniform,sgwu/idpa] [--seconds 5] [--epochs 3]

Nodes are separated by `;`, each as of `train --nodes`, 1 thread a node: emulated ones leave no more work to the machine
than it has cores, so 1, 2, 4 and 8 nodes share the same two cores (the default). Rounds alternate: in each, every team
of nodes trains once in each way, an epoch of about `--seconds` (resnet18: 6 times that, for a step of an emulated node
takes a second). Before and after each run every node's speed is measured alone, on its cores, within its limit and on
as many images, and once a round all of them together, as independent processes without communication: the ceiling.
Efficiency is a run's images/s over the summed speeds. Medians of the rounds.

Shares are of the nodes' time: waiting (for samples, or under SGWU for the others), merging, imbalance (standing still
at epochs' ends), slower (what steps took beyond their time alone), other.

Foreign cores are those that other programs kept busy during a run: with any, its figures say little. A hypervisor may
keep some of the time from busy cores, more from two than from one, and more in one second than in the next: speeds are
taken per second that was not stolen, in runs and beside them; `stolen` is a run's share.

The bars, by AGWU with IDPA: 0.95 of the speeds alone on 1.0,0.5,0.25,0.25, 0.97 on 1.0,1.0, and waiting below 1 %.
"""

import argparse
import statistics
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Callable
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from runs import node_name, train
from speeds import Others, Probes, Stolen, listed, mean_speeds, probe_command

import bptcnn as bpt
from bptcnn.profiling import own_cores
from bptcnn.training.placement import place
from bptcnn.training.settings import parse_nodes

_NODES = "1.0;1.0,1.0;0.5,0.5,0.5,0.5;0.25,0.25,0.25,0.25,0.25,0.25,0.25,0.25;1.0,0.5,0.25,0.25"
_PATIENCE = {"resnet18": 6.0}  # times as long an epoch: its steps are long
_PROBE_SECONDS = 2.0
_FEWEST_STEPS = 4  # of a probe
_BATCH = 64
_TEST_IMAGES = 256


@dataclass(frozen=True)
class Found:
    """One run: images/s, efficiency by the speeds alone and together, shares of the nodes' time, `foreign`, `stolen`.

    Those are the cores that other programs kept busy meanwhile, and the share that the hypervisor took.
    """

    speed: float
    of_alone: float
    of_together: float
    waiting: float
    merging: float
    imbalance: float
    slower: float
    other: float
    foreign: float
    stolen: float


def write_data(path: Path, images: int) -> None:
    """Write a data set of so many training images, those of the embedded sample over and over."""
    found = bpt.data.load()
    rows = np.arange(images) % len(found.train)
    test = slice(_TEST_IMAGES)
    np.savez(
        path,
        x_train=found.train.images[rows],
        y_train=found.train.labels[rows],
        x_test=found.test.images[test],
        y_test=found.test.labels[test],
    )


def unhindered_speeds(measure: Callable[[float, int], list[float]], seconds: float, images: int) -> list[float]:
    """Measure, by the time that was not stolen meanwhile."""
    stolen = Stolen()
    speeds = measure(seconds, images)
    left = 1.0 - stolen.share()
    return [speed / left for speed in speeds]


def judge(summary: Any, alone: list[float], together: list[float], foreign: float, stolen: float) -> Found:
    """Compare a run with what was measured beside it."""
    parts, speed = summary["breakdown"], summary["images_per_second"] / (1.0 - stolen)
    total = parts["total"] - parts["evaluation"]
    unhindered = sum(node["images"] / own for node, own in zip(summary["nodes"], alone, strict=True))
    return Found(
        speed,
        speed / sum(alone),
        speed / sum(together),
        parts["waiting"] / total,
        parts["merging"] / total,
        parts["imbalance"] / total,
        (parts["compute"] - unhindered) / total,
        parts["other"] / total,
        foreign,
        stolen,
    )


def try_team(
    network: str, nodes: tuple[float, ...], ways: list[str], told: argparse.Namespace, folder: Path
) -> dict[str, Found]:
    """One round of one team: each way once."""
    cores = place(own_cores(), 1, nodes) if len(nodes) > 1 else None
    commands = [
        probe_command(network, speed, own) for speed, own in zip(nodes, cores or [()] * len(nodes), strict=True)
    ]
    results: dict[str, Found] = {}
    with Probes(commands, subprocess.Popen) as probes:
        rough = probes.alone(0.5)
        seconds = max(_PROBE_SECONDS, _FEWEST_STEPS * _BATCH / min(rough))
        images = round(sum(rough) * told.seconds * _PATIENCE.get(network, 1.0))
        data = folder / "data.npz"
        write_data(data, images)
        together = unhindered_speeds(probes.together, seconds, images)
        before = unhindered_speeds(probes.alone, seconds, images)
        run = ["--network", network, "--threads", "1", "--nodes", ",".join(map(str, nodes))]
        run += ["--epochs", str(told.epochs), "--no-measure"]
        print(f"  {network} on {node_name(nodes)}: together {listed(together)} images/s", flush=True)
        for way in ways:
            update, partition = way.split("/")
            others, stolen = Others(), Stolen()
            summary = train(data, *run, "--update", update, "--partition", partition, *told.options)
            foreign, share = others.cores(), stolen.share()
            after = unhindered_speeds(probes.alone, seconds, images)
            alone, before = mean_speeds(before, after), after
            results[way] = found = judge(summary, alone, together, foreign, share)
            print(
                f"    {way}: {found.speed:,.0f} images/s, {found.of_alone:.3f} of {listed(alone)} alone, "
                f"{found.of_together:.3f} of together; waiting {found.waiting:.2%}, merging {found.merging:.2%}; "
                f"other programs used {foreign:.2f} cores, {share:.1%} was stolen",
                flush=True,
            )
    return results


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--networks", default="cnn2,lenet5,resnet18")
    parser.add_argument("--nodes", default=_NODES, help="as of `train --nodes`, with ; between")
    parser.add_argument("--ways", default="agwu/idpa,sgwu/uniform,sgwu/idpa", help="update/partition")
    parser.add_argument("--seconds", type=float, default=5.0, help="of an epoch")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("options", nargs="*", help="further options of bptcnn train, after --")
    told = parser.parse_args()
    teams = [parse_nodes(spec) for spec in told.nodes.split(";")]
    ways = told.ways.split(",")
    found: dict[tuple[str, tuple[float, ...], str], list[Found]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(1, told.rounds + 1):
            print(f"round {number}", flush=True)
            for network in told.networks.split(","):
                for nodes in teams:
                    # one node has nobody to wait for: all ways are the same
                    tried = ways if len(nodes) > 1 else ways[:1]
                    for way, result in try_team(network, nodes, tried, told, Path(scratch)).items():
                        found[network, nodes, way].append(result)
    print(
        "\n| network | nodes | update/partition | images/s | of alone | of together | waiting | merging | imbalance ",
        end="",
    )
    print("| slower | other | foreign cores | stolen |\n|" + "---|" * 13)
    for (network, nodes, way), results in found.items():
        speed, of_alone, of_together, *shares, foreign, stolen = (
            statistics.median(column) for column in zip(*map(astuple, results), strict=True)
        )
        cells = [network, node_name(nodes), way, f"{speed:,.0f}", f"{of_alone:.3f}", f"{of_together:.3f}"]
        print("|", " | ".join([*cells, *(f"{share:.1%}" for share in shares), f"{foreign:.2f}", f"{stolen:.1%}"]), "|")


if __name__ == "__main__":
    main()
