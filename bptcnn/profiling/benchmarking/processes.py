"""The sides of a benchmark, asked from outside: a process for each measurement, request and answer as JSON."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from bptcnn.errors import UserError
from bptcnn.profiling.benchmarking.cases import Case
from bptcnn.profiling.benchmarking.flattening import flattened
from bptcnn.untrusted import Between, Length, Malformed, build, parse_json, printable

_LONGEST_SECONDS = 1200.0  # beside the measurement itself: compiling a large network takes minutes
_MOST_SAID = 500  # characters of what a process says that are shown
_ROOT = Path(__file__).parent.parent.parent.parent  # where this very package is imported from
_SCRIPT = Path(__file__).parent / "torch_peer.py"

Answer = dict[str, Any]


@dataclass(frozen=True)
class _Version:
    version: Annotated[str, Length(1, 100)]


@dataclass(frozen=True)
class _Speed:
    images_per_second: Annotated[float, Between(1e-6, 1e12)]


@dataclass(frozen=True)
class _Memory:
    peak_mb: Annotated[float, Between(0.0, 1e12)]
    libraries_mb: Annotated[float, Between(0.0, 1e12)]


_PEER_ANSWERS: dict[str, type[Any]] = {"version": _Version, "speed": _Speed, "memory": _Memory}


class SideFailed(Exception):
    """A side gave no answer; the text says why, in one line."""


def ask_own_side(case: Case, threads: int, measure: str, **more: Any) -> Answer:
    """Measure our side. Raises UserError for what the user can mend, RuntimeError, with all it said, else."""
    request = {
        "measure": measure,
        "network": case.network.to_dict(),
        "batch_size": case.batch_size,
        "precision": case.precision,
        "threads": threads,
    }
    path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-P", "-m", f"{__package__}.own_side"]  # -P: not what lies in the current folder
    try:
        found = _ask(command, {**request, **more}, {**os.environ, "PYTHONPATH": path})
    except SideFailed as error:
        raise RuntimeError(f"measuring {case.network.name} failed: {error}") from None
    if "refused" in found:
        raise UserError(str(found["refused"]))
    return found


@dataclass(frozen=True)
class Variant:
    """A form of the peer's step: its memory format, eager or compiled."""

    channels_last: bool
    compiled: bool

    def __str__(self) -> str:
        return f"{'compiled' if self.compiled else 'eager'}, {'channels last' if self.channels_last else 'contiguous'}"


@dataclass(frozen=True)
class TorchPeer:
    """PyTorch of the Python at `python`; `compile`: try torch.compile, too."""

    python: str
    compile: bool = False

    @property
    def variants(self) -> list[Variant]:
        """The forms to measure."""
        kinds = (False, True) if self.compile else (False,)
        return [Variant(channels_last, compiled) for compiled in kinds for channels_last in (True, False)]

    def version(self) -> str:
        """Return PyTorch's version; raise UserError where there is none."""
        try:
            return str(self._ask({"measure": "version"})["version"])
        except SideFailed as error:
            raise UserError(
                f"no PyTorch in {self.python} ({error}): give --peer-python, a Python that has it installed"
            ) from None

    def measure(self, case: Case, threads: int, measure: str, variant: Variant, **more: Any) -> Answer:
        """Measure one form of the step; raise SideFailed where it does not run."""
        request = {
            "measure": measure,
            "network": flattened(case.network),
            "batch_size": case.batch_size,
            "precision": case.precision,
            "threads": threads,
            "channels_last": variant.channels_last,
            "compile": variant.compiled,
        }
        return self._ask({**request, **more})

    def _ask(self, request: dict[str, Any]) -> Answer:
        found = _ask([self.python, os.fspath(_SCRIPT)], request, os.environ)
        if "failed" in found:
            raise SideFailed(printable(str(found["failed"]), _MOST_SAID))
        try:
            answer: Answer = vars(build(_PEER_ANSWERS[request["measure"]], found, "its answer"))
        except Malformed as error:
            raise SideFailed(str(error)) from None
        return answer


def _ask(command: Sequence[str], request: dict[str, Any], environment: Any) -> Answer:
    """Start a process, hand it the request, and return its answer; raise SideFailed where there is none.

    Whatever ends the waiting (an interrupt, a deadline) ends the process.
    """
    limit = _LONGEST_SECONDS + request.get("seconds", 0.0)
    asked = json.dumps({**request, "parent": os.getpid()})
    try:
        run = subprocess.run(
            command,
            input=asked,
            env={**environment, "PYTHONIOENCODING": "utf-8"},
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=limit,
        )
    except subprocess.TimeoutExpired:
        raise SideFailed(f"no answer within {limit:.0f} s") from None
    except (OSError, ValueError) as error:
        raise SideFailed(getattr(error, "strerror", None) or str(error)) from None
    if run.returncode < 0:
        raise SideFailed(f"its process was killed by signal {-run.returncode}")
    try:
        found = parse_json((run.stdout.strip().splitlines() or [""])[-1])
    except Malformed:
        found = None
    if run.returncode or not isinstance(found, dict):
        said = printable((run.stderr.strip().splitlines() or ["nothing"])[-1], _MOST_SAID)
        raise SideFailed(f"its process ended with code {run.returncode} and said {said}")
    return found
