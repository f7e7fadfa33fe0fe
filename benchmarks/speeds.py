"""How fast nodes train without a run: each alone, or all at once as independent processes, which is the ceiling.

    python benchmarks/speeds.py NETWORK [--speed 0.5] [--cores 0,1] [--threads 1]

is one such process, a probe: it says `ready`, and then for each line of seconds on standard input trains for so long,
as a node of that speed on those cores would, and says its images/s. Between measurements it is idle. It trains the
embedded images, or as many as a line tells behind the seconds, the same ones over and over: what does not fit into
caches takes longer to read.
"""

import argparse
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

ENOUGH_STEPS = 1_000_000  # a measurement ends by its seconds


class Probes:
    """Probes, one for each node, to be closed."""

    def __init__(self, commands: Sequence[list[str]], start: Callable[..., "subprocess.Popen[str]"]) -> None:
        """Start each command by `start`, which takes what Popen takes, and wait until all are ready."""
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self._processes = [start(command, **pipes) for command in commands]
        for process in self._processes:
            if self._hear(process) != "ready":
                raise RuntimeError(f"a probe does not start: {process.args!r}")

    @staticmethod
    def _hear(process: "subprocess.Popen[str]") -> str:
        assert process.stdout is not None
        return process.stdout.readline().strip()

    @staticmethod
    def _ask(process: "subprocess.Popen[str]", seconds: float, images: int) -> None:
        assert process.stdin is not None
        process.stdin.write(f"{seconds} {images}\n")
        process.stdin.flush()

    def alone(self, seconds: float, images: int = 0) -> list[float]:
        """Return the images/s of each, one after the other."""
        speeds = []
        for process in self._processes:
            self._ask(process, seconds, images)
            speeds.append(float(self._hear(process)))
        return speeds

    def together(self, seconds: float, images: int = 0) -> list[float]:
        """Return the images/s of each while all train."""
        for process in self._processes:
            self._ask(process, seconds, images)
        return [float(self._hear(process)) for process in self._processes]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes:
            process.communicate()


def probe_command(network: str, speed: float = 1.0, cores: Sequence[int] = (), threads: int = 1) -> list[str]:
    """Return the command of a probe."""
    command = [sys.executable, __file__, network, "--speed", str(speed), "--threads", str(threads)]
    return [*command, "--cores", ",".join(map(str, cores))] if cores else command


class Others:
    """How many cores other programs kept busy since this was made: what is measured is no better than that allows.

    The process's own use counts as its own, that of its children once they were waited for.
    """

    def __init__(self) -> None:
        self._began, self._busy = time.monotonic(), self._foreign_seconds()

    def cores(self) -> float:
        """Return the mean number of cores."""
        return (self._foreign_seconds() - self._busy) / (time.monotonic() - self._began)

    @staticmethod
    def _foreign_seconds() -> float:
        busy, _ = _ticks()
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        own = sum(usage.ru_utime + usage.ru_stime for usage in used)
        return busy / os.sysconf("SC_CLK_TCK") - own


class Stolen:
    """What share of the time in which cores were wanted the hypervisor kept from them since this was made."""

    def __init__(self) -> None:
        self._before = _ticks()

    def share(self) -> float:
        """Return the share, in [0, 1)."""
        busy, stolen = (now - then for now, then in zip(_ticks(), self._before, strict=True))
        return stolen / max(busy + stolen, 1)


def _ticks() -> tuple[int, int]:
    """Return the clock ticks in which cores were busy, and those that the hypervisor kept from them."""
    user, nice, system, _, _, irq, soft, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
    return user + nice + system + irq + soft, steal


def mean_speeds(before: Sequence[float], after: Sequence[float]) -> list[float]:
    """Return each node's mean of what was measured before and after a run."""
    return [(one + other) / 2 for one, other in zip(before, after, strict=True)]


def listed(speeds: Sequence[float]) -> str:
    """Return speeds as text."""
    return " + ".join(f"{speed:,.0f}" for speed in speeds)


def main() -> None:
    """Be a probe."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network")
    parser.add_argument("--speed", type=float, default=1.0)
    parser.add_argument("--cores", help="any if not given")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=64)
    told = parser.parse_args()
    if told.cores:
        os.sched_setaffinity(0, {int(core) for core in told.cores.split(",")})

    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # ssh passes no PYTHONPATH on
    import numpy as np

    import bptcnn as bpt
    from bptcnn.inner.executor import Executor
    from bptcnn.inner.subnetwork import Subnetwork
    from bptcnn.networks import load_network
    from bptcnn.nodes.configuration import AgentConfiguration
    from bptcnn.nodes.trial import run_trial
    from bptcnn.outer import Trial
    from bptcnn.profiling.tunings import tuning_of, tuning_record

    dataset = bpt.data.load()
    train = dataset.train
    network = load_network(told.network, train.input_shape, dataset.classes)
    tuning = tuning_of(tuning_record(network, told.batch_size, told.threads))
    subnetwork = Subnetwork(network, told.batch_size, Executor(told.threads), tuning=tuning)
    node = AgentConfiguration(
        node=0,
        name="probe",
        speed=told.speed,
        threads=told.threads,
        network=network,
        batch_size=told.batch_size,
        precision="float32",
        momentum=0.9,
        weight_decay=0.0,
        update="agwu",
        staleness=None,
    )

    images, labels = train.images, train.labels

    def measure(seconds: float) -> float:
        tried = run_trial(Trial(seconds, ENOUGH_STEPS), node, subnetwork, images, labels, time.monotonic)
        return tried.images / tried.seconds

    measure(0.5)
    print("ready", flush=True)
    for line in sys.stdin:
        seconds, *told_images = line.split()
        count = int(told_images[0]) if told_images else 0
        if count > len(images):
            rows = np.arange(count) % len(train)
            images, labels = train.images[rows], train.labels[rows]
        print(measure(float(seconds)), flush=True)


if __name__ == "__main__":
    main()
