"""Runs of `bptcnn train --hosts` over the hosts of a test network: started, watched, checked when they have ended."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from network import Hosts

import bptcnn as bpt

SAMPLES = 3000
NOTICED_SECONDS = 5.0  # what the design allows from a fault to its being noticed
LIMIT_SECONDS = 120.0  # that a whole run may take before it counts as hung
_SMALL = ("--network", "lenet5", "--threads", "1", "--batch-size", "16", "--local-steps", "4", "--lr", "0.02")


def write_data(folder: Path, samples: int = SAMPLES) -> Path:
    """Write the first images of the embedded sample."""
    whole = bpt.data.load()
    path = folder / "data.npz"
    np.savez(
        path,
        x_train=whole.train.images[:samples],
        y_train=whole.train.labels[:samples],
        x_test=whole.test.images[:200],
        y_test=whole.test.labels[:200],
    )
    return path


_FOREIGN: set[str] = set()


def _sockets() -> set[str]:
    return {str(path) for path in Path("/tmp").glob("bptcnn-*") if path.is_socket()}


class Run:
    """One run, in the coordinator's network."""

    def __init__(self, hosts: Hosts, data: Path, folder: Path, *options: str, toml: Path | None = None) -> None:
        self.hosts, self.folder = hosts, folder
        self._out = folder.parent / f"{folder.name}.out"
        toml = toml or hosts.hosts_toml()
        command = [sys.executable, "-m", "bptcnn_cli", "train", str(data), "--hosts", str(toml), *_SMALL]
        self.command = command
        _FOREIGN.update(_sockets())  # of runs elsewhere on this machine
        with self._out.open("w") as out:
            self.process = hosts.popen(
                [*command, "--run-dir", str(folder), *options],
                stdout=out,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
            )

    def output(self) -> str:
        """What it has printed so far."""
        return self._out.read_text()

    def says(self, text: str, seconds: float = LIMIT_SECONDS) -> float:
        """Wait until it has printed `text`; return the seconds that took."""
        begin = time.monotonic()
        wait_until(lambda: text in self.output() or self.process.poll() is not None, seconds, self.output)
        assert text in self.output(), self.output()
        return time.monotonic() - begin

    def ends(self, code: int = 0, seconds: float = LIMIT_SECONDS) -> str:
        """Wait for its end; return what it printed."""
        wait_until(lambda: self.process.poll() is not None, seconds, self.output)
        found = self.output()
        assert self.process.returncode == code, found
        return found

    def signal(self, number: signal.Signals) -> None:
        """Send the coordinator's process a signal."""
        self.process.send_signal(number)

    def summary(self) -> dict[str, Any]:
        """Read summary.json."""
        found: dict[str, Any] = json.loads((self.folder / "summary.json").read_text())
        return found

    def trained(self, epochs: int, samples: int = SAMPLES) -> dict[str, Any]:
        """Check that every sample was trained once in every epoch, by nodes that account for all."""
        found = self.summary()
        assert found["images_trained"] == samples * epochs
        assert sum(node["images"] for node in found["nodes"]) == samples * epochs
        assert found["epochs"] == epochs
        return found

    def agent(self, name: str) -> psutil.Process:
        """The agent on a host, once there is one."""
        found: list[psutil.Process] = []

        def there() -> bool:
            found[:] = self.hosts[name].processes(r"bptcnn\.nodes\.agent")
            return bool(found)

        wait_until(there, LIMIT_SECONDS, self.output)
        return found[-1]


def nothing_left(hosts: Hosts, names: tuple[str, ...], seconds: float = NOTICED_SECONDS) -> None:
    """Check that within `seconds` no agent runs on any host and no socket of ours is left in /tmp."""

    def left() -> list[str]:
        agents = [f"{name}: {p}" for name in names for p in hosts[name].processes(r"bptcnn\.nodes\.agent")]
        return agents + sorted(_sockets() - _FOREIGN)

    wait_until(lambda: not left(), seconds, lambda: f"left behind: {left()}")


def wait_until(reached: Callable[[], bool], seconds: float, failing: Callable[[], str]) -> None:
    """Poll until `reached`."""
    deadline = time.monotonic() + seconds
    while not reached():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {failing()}")
        time.sleep(0.02)
