"""Runs as users start them, and results kept between calls, so that a long comparison can be made piece by piece."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RUN_SECONDS = 3600


def train_command(data: str | Path, folder: Path, *options: str) -> list[str]:
    """Return the command of a run with options of `bptcnn train`."""
    return [sys.executable, "-m", "bptcnn_cli", "train", str(data), *options, "--run-dir", str(folder)]


def train(data: str | Path, *options: str, shown: bool = False) -> dict[str, Any]:
    """Train in a process of its own by options of `bptcnn train`, its output `shown` or not; return the summary."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "run"
        command = train_command(data, folder, *options)
        if not shown:
            command.append("--quiet")
        subprocess.run(command, check=True, timeout=RUN_SECONDS, stdout=None if shown else subprocess.DEVNULL)
        found: dict[str, Any] = json.loads((folder / "summary.json").read_text())
        return found


def node_name(nodes: Sequence[float]) -> str:
    """Return the nodes' speeds as tables show them."""
    return f"{len(nodes)} x {nodes[0]:g}" if len(set(nodes)) == 1 else "/".join(f"{speed:g}" for speed in nodes)


class Kept:
    """Results by their keys, in a file of JSON lines; without a file, for this process alone."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._found: dict[str, Any] = {}
        if path and path.exists():
            for line in path.read_text().splitlines():
                row = json.loads(line)
                self._found[row["key"]] = row["value"]

    def __contains__(self, key: str) -> bool:
        return key in self._found

    def __getitem__(self, key: str) -> Any:
        return self._found[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self._found[key] = value
        if self._path:
            with self._path.open("a") as file:
                file.write(json.dumps({"key": key, "value": value}) + "\n")
