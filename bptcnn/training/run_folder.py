"""The run folder: what a run leaves behind, and what watches it while it runs."""

import contextlib
import json
import os
import re
import stat
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, astuple, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import tomli_w

from bptcnn.errors import UserError
from bptcnn.files import is_file, make_folder, missing_folders, remove_drafts, sync, write_atomically
from bptcnn.names import file_name
from bptcnn.outer import Reallocation
from bptcnn.training.folder_lock import LOCK, InUse, is_locked, locked
from bptcnn.training.progress import EpochRow
from bptcnn.training.settings import read_config
from bptcnn.training.summary import Summary

_MOST_BYTES = 100  # of a network's name in a folder's, which has at most 255
_MOST_ATTEMPTS = 10_000


def default_run_dir(network: str, number: int = 1) -> Path:
    """Return `runs/<time>-<network>`, with a number from 2 on behind it.

    A network's name may come from somebody else: what is no letter, digit, - or . of it is no part of a path.
    """
    name = re.sub(r"[^\w.-]", "_", network).encode(errors="replace")[:_MOST_BYTES].decode(errors="ignore")
    stem = f"{time.strftime('%Y%m%d-%H%M%S')}-{name}"
    return Path("runs") / file_name(stem if number == 1 else f"{stem}-{number}")


class RunFolder:
    """Paths and files of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.last = path / "last.safetensors"
        self.best = path / "best.safetensors"
        self.config = path / "config.toml"
        self.metrics = path / "metrics.csv"
        self.tuning = path / "tuning.toml"
        self.allocation = path / "allocation.jsonl"
        self.summary = path / "summary.json"
        self.report = path / "report.html"
        self.nodes = path / "nodes.json"
        self.data = path / "data.json"
        self._written = (
            *(self.summary, self.report, self.last, self.best, self.config, self.metrics),
            *(self.tuning, self.nodes, self.data),
        )
        self.socket = path / "join.sock"
        self.logs = path / "logs"

    def log(self, node: str) -> Path:
        """Where the output of a node goes."""
        return self.logs / file_name(f"{node}.log")

    @staticmethod
    def refuse_taken(path: Path) -> None:
        """Raise UserError where a new run cannot have this folder because something is there."""
        with _telling(f"read the run folder {path}"):
            taken = os.path.lexists(path) and (not stat.S_ISDIR(path.stat().st_mode) or any(path.iterdir()))
        if taken:
            raise InUse(f"{path} exists: name another run folder, or continue that run with --resume")

    @classmethod
    def create(cls, path: Path) -> "RunFolder":
        """Make a new folder; raise UserError where it exists or cannot be written."""
        cls.refuse_taken(path)
        folder = cls(path)
        with _telling(f"make the run folder {path}"):
            make_folder(folder.logs)
        return folder

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """Open the folder of an earlier run to read; raise UserError where there is none."""
        folder = cls(path)
        if not is_file(folder.config):
            raise UserError(f"no run at {path}: a run folder holds config.toml")
        return folder

    @classmethod
    def reopen(cls, path: Path) -> "RunFolder":
        """Open the folder of an earlier run to go on in it; raise UserError where that cannot be."""
        folder = cls.open(path)
        with _telling(f"write into {path}"):
            folder.logs.mkdir(exist_ok=True)
            appended = [folder.logs, folder.allocation, *folder.logs.iterdir()]
            strange = [file for file in appended if not _is_plain(file, is_folder=file == folder.logs)]
        if strange:  # the folder may be somebody else's: what is appended would go where a link leads
            raise UserError(f"{strange[0]} is a link or no file: remove it")
        return folder

    @classmethod
    @contextlib.contextmanager
    def made(cls, path: Path | None, network: str) -> "Iterator[RunFolder]":
        """Make a new folder and hold it; by default one that no other run has, even if many start at once.

        Where what follows fails before anything came of it, the folder is gone again. Raises UserError where the folder
        exists or cannot be written.
        """
        new = _drawn(network) if path is None else missing_folders(path)
        folder = cls(path or new[0])
        try:
            cls.create(folder.path)
            with folder.held():
                with _telling(f"read the run folder {folder.path}"):
                    names = {entry.name for entry in folder.path.iterdir()}
                if names - {LOCK, folder.logs.name}:
                    raise InUse(f"{folder.path} is another run's: name another run folder")
                yield folder
        except InUse:
            raise
        except BaseException:
            folder._remove_fruitless(new)
            raise

    def _remove_fruitless(self, new: Sequence[Path]) -> None:
        """Remove a run's files where nothing came of it: no checkpoint, no summary, no word of a node's; `new` too."""
        with contextlib.suppress(OSError):  # what cannot be removed stays
            logs = list(self.logs.iterdir())
            fruit = [*(log for log in logs if log.stat().st_size), *filter(os.path.lexists, (self.last, self.summary))]
            if fruit:
                return
            for file in (*logs, *self._written, self.allocation, self.path / LOCK):
                file.unlink(missing_ok=True)
            for folder in (self.logs, *new):
                folder.rmdir()

    def held(self) -> contextlib.AbstractContextManager[None]:
        """Hold the folder for one run; raise UserError where another one has it.

        Whoever goes on with a run reads it after that.
        """
        return locked(self.path)

    def is_held(self) -> bool:
        """Whether a run on this machine has the folder."""
        return is_locked(self.path)

    def clear(self) -> None:
        """Remove what an earlier part of the run concluded, and what it was writing when it was killed."""
        with _telling(f"write into {self.path}"):
            for path in (self.summary, self.report):
                path.unlink(missing_ok=True)
        for path in self._written:
            remove_drafts(path)

    def kept(self) -> str:
        """Say what a run that was cut short has left to go on from."""
        try:
            there = is_file(self.last)
        except UserError:
            return f"what {self.path} keeps cannot be read now: when it can, go on with --resume"
        return f"{self.path} keeps the last checkpoint; go on with --resume" if there else "there is no checkpoint"

    def write_config(self, values: dict[str, Any]) -> None:
        """Write config.toml: the resolved settings."""
        write_atomically(self.config, tomli_w.dumps(values))

    def read_config(self) -> dict[str, Any]:
        """Read config.toml back."""
        return read_config(self.config)

    def write_nodes(self, nodes: list[dict[str, Any]]) -> None:
        """Write nodes.json: name, pid, host and, where it keeps to some, cores of each running node."""
        write_atomically(self.nodes, json.dumps(nodes, indent=1))

    def append_allocation(self, epoch: int, entry: Reallocation) -> None:
        """Append a line to allocation.jsonl, for each time that samples were given out or moved: the newest is last.

        `moved` counts them, `speed` is what the shares went by: images/s, or by profile (ratios only) as long as no
        node was measured. A resumed run goes on in the file.
        """
        values = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "epoch": epoch, **asdict(entry)}
        with self.allocation.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")

    def write_metrics(self, rows: Sequence[EpochRow]) -> None:
        """Write metrics.csv: a header, and a row for every epoch that has ended."""
        lines = [",".join(field.name for field in fields(EpochRow))]
        for row in rows:
            lines.append(",".join(str(v) if isinstance(v, int) else f"{v:.6g}" for v in astuple(row)))
        write_atomically(self.metrics, "\n".join(lines) + "\n")
        # not there: nothing was given out yet
        with _telling(f"write {self.allocation}"), contextlib.suppress(FileNotFoundError):
            sync(self.allocation)

    def write_summary(self, summary: Summary) -> None:
        """Write summary.json."""
        write_atomically(self.summary, json.dumps(summary.to_dict(), indent=1))


def _drawn(network: str) -> list[Path]:
    """Make a folder that nobody else has, by making it; return it, and what is new above it."""
    above: list[Path] = []
    for number in range(1, _MOST_ATTEMPTS):
        path = default_run_dir(network, number)
        with _telling(f"make the run folder {path}"):
            above = make_folder(path.parent) or above
            with contextlib.suppress(
                FileExistsError, FileNotFoundError
            ):  # not there: one that failed has taken it away
                path.mkdir()
                sync(path.parent)
                return [path, *above]
    raise UserError(f"too many runs are called {default_run_dir(network)}: name the folder with --run-dir")


@contextlib.contextmanager
def _telling(what: str) -> Iterator[None]:
    """Turn what a file system refuses into one line: what cannot be done, and why."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot {what}: {error.strerror or error}") from None


def _is_plain(path: Path, is_folder: bool) -> bool:
    """Whether a path is not there, or a file (a folder) and no link to one."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return True
    return stat.S_ISDIR(mode) if is_folder else stat.S_ISREG(mode)
