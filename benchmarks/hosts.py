"""Training over three hosts behind SSH: what share of their summed speed is reached, with and without a slow network.

    python benchmarks/hosts.py [--rounds 3] [--quotas 1.0,0.5,0.25] [--delay 20] [--rate 100] [--data fashion-mnist]

The hosts are network namespaces on this machine, an sshd in each, their CPU limited by a quota (see tests/hosts; needs
root). Each host has its core, alone or with others whose quotas fit; what the hosts leave is the coordinator's. In each
round runs train until the target accuracy: over a fast network, and over one of `--delay` milliseconds each way and
`--rate` Mbit/s for each host. Before and after each, every host's speed is measured alone, and together as independent
processes (the ceiling that the caches and the memory leave, which these hosts share and real ones do not). Efficiency
is a run's images/s over the summed speeds, the mean of before and after. Medians of the rounds.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests" / "hosts")]

from network import Hosts, HostSpec  # noqa: E402
from speeds import Probes, listed, mean_speeds, probe_command  # noqa: E402

_PROBE_SECONDS = 4.0
_RUN_SECONDS = 600


def train(hosts: Hosts, arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Train over the hosts; return the summary."""
    toml = hosts.hosts_toml()
    run = [sys.executable, "-m", "bptcnn_cli", "train", arguments.data, "--network", arguments.network]
    run += ["--hosts", str(toml), "--threads", "1", "--epochs", str(arguments.epochs), "--run-dir", str(folder)]
    run += ["--target-accuracy", str(arguments.target), *arguments.options]
    hosts.run(run, check=True, timeout=_RUN_SECONDS, stdout=subprocess.DEVNULL)
    found: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return found


def describe(found: dict[str, Any]) -> str:
    """Say where the time of a run's nodes went."""
    parts, total = found["breakdown"], found["breakdown"]["total"] - found["breakdown"]["evaluation"]
    return ", ".join(
        f"{name} {value / total:.1%}" for name, value in parts.items() if name not in ("total", "evaluation")
    )


def place(quotas: list[float]) -> list[HostSpec]:
    """Give each host the core with most room left; have this process, and what it starts, keep to the emptiest core."""
    room = dict.fromkeys(sorted(os.sched_getaffinity(0)), 1.0)
    specs = []
    for number, quota in enumerate(quotas, 1):
        core = max(room, key=lambda core: room[core])
        if room[core] < quota:
            raise SystemExit(f"host {number} with quota {quota:g} fits on no core beside the others")
        room[core] -= quota
        specs.append(HostSpec(f"h{number}", quota, core))
    os.sched_setaffinity(0, {max(room, key=lambda core: room[core])})
    return specs


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quotas", default="1.0,0.5,0.25")
    parser.add_argument("--delay", type=float, default=20.0, help="milliseconds each way")
    parser.add_argument("--rate", type=float, default=100.0, help="Mbit/s each way")
    parser.add_argument("--network", default="cnn2")
    parser.add_argument("--data", default="fashion-mnist")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--target", type=float, default=0.90)
    parser.add_argument("options", nargs="*", help="further options of bptcnn train, after --")
    arguments = parser.parse_args()
    specs = place([float(quota) for quota in arguments.quotas.split(",")])
    names = [spec.name for spec in specs]
    slow = f"{arguments.delay:g} ms, {arguments.rate:g} Mbit/s"
    links = {"fast": (0.0, 0.0), slow: (arguments.delay / 1000, arguments.rate)}
    efficiencies: dict[str, list[tuple[float, float]]] = {name: [] for name in links}
    with contextlib.ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory())
        hosts = stack.enter_context(Hosts(Path(scratch), specs))
        commands = [[*hosts.ssh, name, *probe_command(arguments.network)] for name in names]
        probes = stack.enter_context(Probes(commands, hosts.popen))
        before = probes.together(_PROBE_SECONDS), probes.alone(_PROBE_SECONDS)
        for number in range(1, arguments.rounds + 1):
            for link, (delay, rate) in links.items():
                for name in names:
                    hosts[name].shape(delay_seconds=delay, rate_mbit=rate)
                found = train(hosts, arguments, Path(scratch) / f"{number}-{rate:g}")
                for name in names:
                    hosts[name].shape()
                after = probes.together(_PROBE_SECONDS), probes.alone(_PROBE_SECONDS)
                together, alone = (mean_speeds(*measured) for measured in zip(before, after, strict=True))
                before, reached = after, found["images_per_second"]
                efficiencies[link].append((reached / sum(alone), reached / sum(together)))
                print(
                    f"round {number}, {link}: {reached:,.0f} images/s, "
                    f"{efficiencies[link][-1][0]:.3f} of {listed(alone)} alone, "
                    f"{efficiencies[link][-1][1]:.3f} of {listed(together)} together; {describe(found)}; "
                    f"test accuracy {found['test_accuracy']:.4f} after {found['epochs']} epochs, "
                    f"{found['train_seconds']:.1f} s; {found['bytes_per_merge'] / 1e6:.2f} MB a merge, "
                    f"{found['communication_share']:.1%} of the time on communication",
                    flush=True,
                )
    for link, found in efficiencies.items():
        of_alone, of_together = (statistics.median(values) for values in zip(*found, strict=True))
        print(f"{link}: efficiency {of_alone:.3f} of the speeds alone, {of_together:.3f} of those together")


if __name__ == "__main__":
    main()
