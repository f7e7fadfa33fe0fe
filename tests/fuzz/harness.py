"""What a case is, how it is run, and what is a failure.

A kind's target draws an input from a seed and hands it to the product as the product's own caller would. The input is
taken, or refused in one printable line by an exception that this caller catches. Anything else is a failure: another
exception, an assertion of the target, CPU_SECONDS or WALL_SECONDS, GROWTH_BYTES more memory, or code that was run.
"""

import contextlib
import faulthandler
import random
import resource
import signal
import sys
import threading
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

CPU_SECONDS = 5.0  # of one case, which takes some milliseconds
WALL_SECONDS = 60.0  # one that waits for longer hangs
GROWTH_BYTES = 300 << 20  # of resident memory: the largest input is a megabyte
_ADDRESS_BYTES = 2 << 30  # beyond what is mapped already: what asks for more gets MemoryError
_MOST_LINE = 10_000  # characters; what is longer is no line
_SHOWN = 600  # characters of an input
CANARY = "canary"
_FORBIDDEN = (
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.fork",
    "os.forkpty",
    "subprocess.Popen",
    "pty.spawn",
)


class Target(ABC):
    """One kind of input, and the way into the product that it takes."""

    runs_programs = False  # whether the product is to start processes of its own

    @abstractmethod
    def valid(self) -> Sequence[Any]:
        """Return inputs that the product itself has made: all are taken."""

    @abstractmethod
    def draw(self, draw: random.Random) -> Any:
        """Return an input that may be wrong in any way."""

    @abstractmethod
    def take(self, given: Any) -> str | None:
        """Hand it to the product; return the line with which it was refused, or None."""

    def describe(self, given: Any) -> str:
        """Return what to show of an input."""
        return repr(given)


@dataclass(frozen=True)
class Kind:
    """A name, how its target is set up in an empty folder, and how many of 1000 cases are its."""

    name: str
    share: int
    open: Callable[[Path], AbstractContextManager[Target]]


@dataclass(frozen=True)
class Failure:
    """A case that failed: `where` tells failures of one cause from others."""

    seed: int
    what: str
    where: str
    given: str
    trace: str


@dataclass
class Tally:
    """What became of a kind's cases."""

    cases: int = 0
    accepted: int = 0
    refused: int = 0
    failures: list[Failure] = field(default_factory=list)


class Overrun(BaseException):
    """A case takes too long; no `except Exception` is to swallow it."""


class CodeRun(BaseException):
    """What was read was run, or ran a program."""


def line(error: object) -> str:
    """Return an exception's text as the command line shows it; AssertionError where that is not one printable line."""
    text = " ".join(str(error).split())
    assert text, f"{type(error).__name__} without a word"
    assert text.isprintable(), f"not printable: {text[:200]!r}"
    assert len(text) <= _MOST_LINE, f"a line of {len(text)} characters: {text[:200]}..."
    return text


def drawn(kind: Kind, seed: int, target: Target) -> Any:
    """Return the input of a case: the same whenever and wherever it is drawn."""
    return target.draw(random.Random(f"{kind.name} {seed}"))


def run_case(kind: Kind, target: Target, seed: int, tally: Tally) -> None:
    """Draw one case's input, run it, and count what became of it."""
    tally.cases += 1
    given = drawn(kind, seed, target)
    try:
        with guarded(f"{kind.name} {seed}", target.runs_programs):
            refused = target.take(given)
            if refused is not None:
                line(refused)
    except (Exception, Overrun, CodeRun) as error:
        tally.failures.append(failure_of(seed, error, target.describe(given)))
    else:
        tally.accepted += refused is None
        tally.refused += refused is not None


def check_valid(kind: Kind, target: Target) -> None:
    """Have the product take what it has made; AssertionError where it refuses that: then nothing would be tested."""
    for given in target.valid():
        refused = target.take(given)
        assert refused is None, f"{kind.name}: what the product made is refused: {refused}"


def failure_of(seed: int, error: BaseException, given: str) -> Failure:
    """Return what is kept of a failure: `where` is the product's last line in it."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/fuzz/harness.py" not in frame.filename]
    last = frames[-1] if frames else None
    ours = [frame for frame in frames if "/bptcnn/" in frame.filename or "/bptcnn_cli/" in frame.filename]
    place = ours[-1] if ours else last
    where = f"{Path(place.filename).name}:{place.lineno}" if place else "?"
    what = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    shown = (
        given
        if len(given) <= _SHOWN
        else f"{given[: _SHOWN // 2]} ... {given[-_SHOWN // 2 :]} ({len(given)} characters)"
    )
    return Failure(seed, what, where, shown, "".join(traceback.format_exception(error))[-6000:])


# ---- limits ----------------------------------------------------------------------------------------------------------


@contextmanager
def guarded(name: str, runs_programs: bool = False) -> Iterator[None]:
    """Bound what the block may take, and forbid that it runs programs or touches the canary; in the main thread."""
    before = _peak()
    # programs have deadlines of their own
    wall = threading.TIMEOUT_MAX if runs_programs else WALL_SECONDS
    timer = threading.Timer(wall, signal.pthread_kill, (threading.main_thread().ident, signal.SIGPROF))
    timer.daemon = True
    old = signal.signal(signal.SIGPROF, _overrun)
    timer.start()
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    try:
        with contextlib.nullcontext() if runs_programs else _address_space(), _watching(runs_programs):
            yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        timer.cancel()
        timer.join()
        signal.signal(signal.SIGPROF, old)
    grown = _peak() - before
    assert runs_programs or grown <= GROWTH_BYTES, f"{name} took {grown >> 20} MB"


def _overrun(number: int, frame: FrameType | None) -> None:
    raise Overrun(f"more than {CPU_SECONDS:g} s of CPU time or {WALL_SECONDS:g} s")


@contextmanager
def _address_space() -> Iterator[None]:
    old = resource.getrlimit(resource.RLIMIT_AS)
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + _ADDRESS_BYTES, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, old)


def _peak() -> int:
    """Bytes of resident memory, at most, since this was last asked."""
    for text in Path("/proc/self/status").read_text().splitlines():
        if text.startswith("VmHWM:"):
            with contextlib.suppress(OSError):  # where it cannot be reset, growth shows once
                Path("/proc/self/clear_refs").write_text("5")
            return 1024 * int(text.split()[1])
    raise RuntimeError("no VmHWM in /proc/self/status")


# ---- what was run ----------------------------------------------------------------------------------------------------

_watched: list[str] | None = None
_hooked = False


def install_hook() -> None:
    """Have Python report what is run; it cannot be taken away again, so call this in processes of the harness only."""
    global _hooked
    if not _hooked:
        _hooked = True
        sys.addaudithook(_audit)
        faulthandler.enable()


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if _watched is None:
        return
    # "import": not of modules, whose names do not come from outside, but of what payloads name
    touches = event in ("open", "import", "compile", "exec") and CANARY in str(arguments[:2])[:500]
    if event in _FORBIDDEN or (touches and event != "compile"):
        _watched.append(f"{event} {str(arguments)[:200]}")
        raise CodeRun(_watched[-1])


@contextmanager
def _watching(runs_programs: bool) -> Iterator[None]:
    """Whatever swallows the exception that the hook raises: what it saw is a failure."""
    global _watched
    if runs_programs:
        yield
        return
    seen: list[str] = []
    _watched = seen
    try:
        yield
    finally:
        _watched = None
    if seen:
        raise CodeRun(seen[0])
