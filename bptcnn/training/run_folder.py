"""The run folder: what a run leaves behind, and what watches it while it runs."""

import contextlib
import json
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
from bptcnn.files import make_folder, remove_drafts, sync, write_atomically
from bptcnn.names import file_name
from bptcnn.outer import Reallocation
from bptcnn.training.folder_lock import LOCK, is_locked, locked
from bptcnn.training.progress import EpochRow
from bptcnn.training.settings import read_config
from bptcnn.training.summary import Summary


def default_run_dir(network: str) -> Path:
    """Return `runs/<time>-<network>`, with a number behind it where that exists.

    A network's name may come from somebody else: what is no letter, digit, - or . of it is no part of a path.
    """
    name = re.sub(r"[^\w.-]", "_", network[:100])
    stem = f"{time.strftime('%Y%m%d-%H%M%S')}-{name}"
    path, number = Path("runs") / stem, 1
    while path.exists():
        number += 1
        path = Path("runs") / f"{stem}-{number}"
    return path


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
        self.socket = path / "join.sock"
        self.logs = path / "logs"

    def log(self, node: str) -> Path:
        """Where the output of a node goes."""
        return self.logs / file_name(f"{node}.log")

    @staticmethod
    def refuse_taken(path: Path) -> None:
        """Raise UserError where a new run cannot have this folder because something is there."""
        try:
            taken = path.exists() and (not path.is_dir() or any(path.iterdir()))
        except OSError as error:
            raise UserError(f"cannot read the run folder {path}: {error.strerror}") from None
        if taken:
            raise UserError(f"{path} exists: name another run folder, or continue that run with --resume")

    @classmethod
    def create(cls, path: Path) -> "RunFolder":
        """Make a new folder; raise UserError where it exists or cannot be written."""
        cls.refuse_taken(path)
        folder = cls(path)
        try:
            make_folder(folder.logs)
        except OSError as error:
            raise UserError(f"cannot make the run folder {path}: {error.strerror}") from None
        return folder

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """Open the folder of an earlier run to read; raise UserError where there is none."""
        folder = cls(path)
        if not folder.config.is_file():
            raise UserError(f"no run at {path}: a run folder holds config.toml")
        return folder

    @classmethod
    def reopen(cls, path: Path) -> "RunFolder":
        """Open the folder of an earlier run to go on in it; raise UserError where that cannot be."""
        folder = cls.open(path)
        try:
            folder.logs.mkdir(exist_ok=True)
            appended = [folder.logs, folder.allocation, *folder.logs.iterdir()]
            strange = [file for file in appended if not _is_plain(file, is_folder=file == folder.logs)]
        except OSError as error:
            raise UserError(f"cannot write into {path}: {error.strerror}") from None
        if strange:  # the folder may be somebody else's: what is appended would go where a link leads
            raise UserError(f"{strange[0]} is a link or no file: remove it")
        return folder

    @classmethod
    @contextlib.contextmanager
    def made(cls, path: Path) -> "Iterator[RunFolder]":
        """Make a new folder and hold it; raise UserError where it exists, or another run makes it at the same time."""
        folder = cls.create(path)
        with folder.held():
            if any(entry.name not in (LOCK, folder.logs.name) for entry in path.iterdir()):
                raise UserError(f"{path} is another run's: name another run folder")
            yield folder

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
        concluded = [self.path / name for name in ("summary.json", "report.html")]
        for path in concluded:
            path.unlink(missing_ok=True)
        for path in (
            *concluded,
            self.last,
            self.best,
            self.config,
            self.metrics,
            self.tuning,
            self.path / "nodes.json",
        ):
            remove_drafts(path)

    def write_config(self, values: dict[str, Any]) -> None:
        """Write config.toml: the resolved settings."""
        write_atomically(self.config, tomli_w.dumps(values))

    def read_config(self) -> dict[str, Any]:
        """Read config.toml back."""
        return read_config(self.config)

    def write_nodes(self, nodes: list[dict[str, Any]]) -> None:
        """Write nodes.json: name, pid, host and, where it keeps to some, cores of each running node."""
        write_atomically(self.path / "nodes.json", json.dumps(nodes, indent=1))

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
        with contextlib.suppress(FileNotFoundError):  # nothing was given out yet
            sync(self.allocation)

    def write_summary(self, summary: Summary) -> None:
        """Write summary.json."""
        write_atomically(self.path / "summary.json", json.dumps(summary.to_dict(), indent=1))


def _is_plain(path: Path, is_folder: bool) -> bool:
    """Whether a path is not there, or a file (a folder) and no link to one."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return True
    return stat.S_ISDIR(mode) if is_folder else stat.S_ISREG(mode)
