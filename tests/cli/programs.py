"""Running `bptcnn` as users do, and small data sets for it."""

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent.parent.parent
COMMAND = (sys.executable, "-m", "bptcnn_cli")
TIMEOUT_SECONDS = 200.0  # compilation of all kernels by a busy machine included


@dataclass(frozen=True)
class Ended:
    """A program that has ended."""

    code: int
    out: str
    err: str


def environment(home: Path | None = None) -> dict[str, str]:
    """The tests' environment without what changes output; `home` holds the user's own profile."""
    changing = ("COLUMNS", "NO_COLOR", "FORCE_COLOR", "TERMINAL_WIDTH", "CLICOLOR_FORCE", "PY_COLORS", "GITHUB_ACTIONS")
    values = {name: value for name, value in os.environ.items() if name not in changing}
    values["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "cli")])
    if home is not None:
        values["XDG_DATA_HOME"] = str(home)
    return values


def bptcnn(
    *arguments: str | Path,
    folder: Path,
    home: Path | None = None,
    width: int | None = None,
    variables: Mapping[str, str] | None = None,
) -> Ended:
    """Run `bptcnn` with these arguments in `folder`; `width`: the terminal's columns; `variables`: more of these."""
    columns = {} if width is None else {"COLUMNS": str(width)}
    run = subprocess.run(
        [*COMMAND, *map(str, arguments)],
        cwd=folder,
        env={**environment(home), **columns, **(variables or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
    )
    return Ended(run.returncode, run.stdout, run.stderr)


def refused(*arguments: str | Path, folder: Path, home: Path | None = None) -> str:
    """Run `bptcnn`, which must end as user errors do; return its line."""
    ended = bptcnn(*arguments, folder=folder, home=home)
    assert ended.code == 2, ended
    assert ended.err.startswith("bptcnn: "), ended
    assert ended.err.count("\n") == 1, ended
    assert ended.err.endswith("\n"), ended
    return ended.err.removeprefix("bptcnn: ").rstrip("\n")


def write_npz(path: Path, train: int = 400, test: int = 100) -> Path:
    """Write an easy data set: 8x8 images with a bright column that is their class, of four."""
    random = np.random.default_rng(0)
    arrays = {}
    for part, count in (("train", train), ("test", test)):
        labels = (np.arange(count) % 4).astype(np.uint8)
        images = random.integers(0, 100, (count, 8, 8, 1), np.uint8)
        images[np.arange(count), :, 2 * labels] += 150
        arrays |= {f"x_{part}": images, f"y_{part}": labels}
    np.savez(path, **arrays)
    return path
