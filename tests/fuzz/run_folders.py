"""Run folders of somebody else: `bptcnn evaluate` and `bptcnn train --resume` on one whose files were changed.

In this process by the commands' own functions, over stubs of what compiles and what starts processes; and, much more
rarely, as commands. Whatever was refused has changed nothing in the folder.
"""

import contextlib
import io
import os
import random
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import typer
from bptcnn_cli.evaluate import evaluate
from bptcnn_cli.output import STDOUT
from bptcnn_cli.train import train as train_command
from fuzz.harness import CANARY, Kind, Target, line
from fuzz.hostile import NETWORK, tiny_data
from fuzz.mutation import mutated, scrambled
from fuzz.settings_files import PAYLOADS, tuning
from fuzz.stubs import StubEvaluator, stubbed
from fuzz.texts import encoded
from fuzz.writing import toml_text

import bptcnn.training as training_package
import bptcnn.training.model as model_module
from bptcnn.data import load
from bptcnn.errors import UserError
from bptcnn.profiling.files import write_tuning

ROOT = Path(__file__).resolve().parent.parent.parent
FILES = ("config.toml", "config.toml", "config.toml", "last.safetensors", "best.safetensors", "tuning.toml")
OTHERS = ("metrics.csv", "nodes.json", "summary.json", "allocation.jsonl")  # which nobody reads
SECONDS = 120.0  # of one command
CODE = f"open({CANARY!r}, 'w')\ndataset = network = None\n"


@dataclass(frozen=True)
class Change:
    """A command, and what one file of the folder holds before it is run (None: the file is gone)."""

    command: str
    file: str
    content: bytes | None


class StubModel:
    """A model that computes nothing."""

    def __init__(self, network: Any, batch_size: int = 64, threads: int | None = None, **others: Any) -> None:
        self.network = network
        self.weights = np.empty(network.size, np.float32)

    def evaluate(self, dataset: Any) -> float:
        return StubEvaluator().accuracy(self.weights, dataset.test)

    def __enter__(self) -> "StubModel":
        return self

    def __exit__(self, *_: object) -> None:
        pass


class Folders(Target):
    """A folder that a small run has left, over and over with another change."""

    def __init__(self, folder: Path) -> None:
        self.seed, self.place = folder / "seed", folder / "run"
        data = tiny_data(40)
        parts = {"x_train": data.train.images, "y_train": data.train.labels}
        np.savez(folder / "data.npz", **parts, x_test=data.test.images, y_test=data.test.labels)
        (folder / "code.py").write_text(CODE)
        dataset = load(folder / "data.npz")
        settings: dict[str, Any] = {"epochs": 2, "batch_size": 4, "threads": 1, "autotune": False, "measure": False}
        with stubbed(), _nothing_compiles():
            training_package.train(NETWORK, dataset, run_dir=self.seed, lr="step(0.1, 2)", **settings)
        write_tuning(self.seed / "tuning.toml", tuning())
        self._folder = folder

    def valid(self) -> Sequence[Change]:
        config = (self.seed / "config.toml").read_bytes()
        return [Change(command, "config.toml", config) for command in ("evaluate", "evaluate --last", "resume")]

    def draw(self, draw: random.Random) -> Change:
        command = draw.choice(("evaluate", "evaluate --last", "resume", "resume"))
        name = draw.choice(FILES if draw.random() < 0.95 else OTHERS)
        content = (self.seed / name).read_bytes()
        if draw.random() < 0.03:
            return Change(command, name, None)
        if name == "config.toml" and draw.random() < 0.8:
            values = tomllib.loads(content.decode())
            values["epochs"] = 3
            if draw.random() < 0.15:
                values[draw.choice(("data", "network"))] = str(self._folder / "code.py")
            elif draw.random() < 0.15:
                values["lr"] = draw.choice(PAYLOADS)
            else:
                values = mutated(values, draw)
            return Change(command, name, encoded(toml_text(values, draw)))
        return Change(command, name, scrambled(content, draw))

    def describe(self, given: Change) -> str:
        own = (self.seed / given.file).read_bytes()
        if given.content is None:
            return f"{given.command}: {given.file} is gone"
        same = next((i for i, pair in enumerate(zip(own, given.content, strict=False)) if pair[0] != pair[1]), len(own))
        return f"{given.command}: {given.file} from byte {same}: {given.content[max(0, same - 60) : same + 200]!r}"

    def take(self, given: Change) -> str | None:
        shutil.rmtree(self.place, ignore_errors=True)
        shutil.copytree(self.seed, self.place)
        if given.content is None:
            (self.place / given.file).unlink()
        else:
            (self.place / given.file).write_bytes(given.content)
        before = contents(self.place)
        refused = self.run(given.command)
        if refused is not None or given.command != "resume":
            now = contents(self.place)
            changed = sorted(name for name in {*before, *now} if before.get(name) != now.get(name))
            assert not changed, f"{given.command} has changed {', '.join(changed)}; it said: {refused}"
        return refused

    def run(self, command: str) -> str | None:
        """Run a command as its own function; return the line with which it was refused."""
        try:
            with stubbed(), _nothing_compiles(), contextlib.redirect_stderr(io.StringIO()):
                if command == "resume":
                    train_command(run_dir=self.place, resume=True, quiet=True)
                else:
                    evaluate(self.place, None, last=command.endswith("--last"), json=True)
        except UserError as error:
            return line(error)
        except typer.Exit as ended:
            code = ended.exit_code
        else:
            return None
        raise AssertionError(f"exit code {code}")


class Commands(Folders):
    """The same by real commands: exit code 2 and one line on standard error, or 0."""

    runs_programs = True

    def valid(self) -> Sequence[Change]:
        return super().valid()[:1]  # the others take seconds and are tested elsewhere

    def run(self, command: str) -> str | None:
        words = {
            "resume": ["train", "--resume", "--quiet", "--run-dir", str(self.place)],
            "evaluate": ["evaluate", str(self.place), "--json"],
            "evaluate --last": ["evaluate", str(self.place), "--json", "--last"],
        }[command]
        (self._folder / CANARY).unlink(missing_ok=True)
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'cli'}"}
        done = subprocess.run(
            [sys.executable, "-m", "bptcnn_cli", *words],
            cwd=self._folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
        assert not (self._folder / CANARY).exists(), "the folder's code was run"
        if done.returncode == 0:
            return None
        assert done.returncode == 2, f"exit code {done.returncode}: {done.stderr[-500:]}"
        lines = done.stderr.splitlines()
        assert len(lines) == 1, f"{len(lines)} lines: {done.stderr[-500:]}"
        return line(lines[0])


def contents(folder: Path) -> dict[str, bytes]:
    """Return what each file of a folder holds; its lock is nobody's result."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "lock"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@contextmanager
def _nothing_compiles() -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(training_package, "prepare_kernels"))
        stack.enter_context(mock.patch.object(model_module, "Model", StubModel))
        stack.enter_context(mock.patch.object(STDOUT, "_stream", io.StringIO()))
        yield


@contextmanager
def _open_folders(folder: Path) -> Iterator[Target]:
    yield Folders(folder)


@contextmanager
def _open_commands(folder: Path) -> Iterator[Target]:
    yield Commands(folder)


KINDS = (Kind("run-folder", 80, _open_folders), Kind("command", 2, _open_commands))
