"""What a host tells about itself, and what of that keeps it from training or slows it down. No I/O."""

import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from bptcnn.nodes.hosts import Host
from bptcnn.nodes.ssh import Problem, by_hand
from bptcnn.precision import Precision
from bptcnn.profiling import NodeSpeed
from bptcnn.untrusted import Between, Length, build, printable

OLDEST_PYTHON = (3, 11)
_MB, _GB = 1e6, 1e9
_NO_MEMORY, _LITTLE_MEMORY = 0.5, 1.0  # GB; Python with its libraries, then a node on the sample
_NO_DISK, _LITTLE_DISK = 0.1, 1.0  # GB; compiled kernels are some 0.02
_SLOW_LINK = 4.0  # MB/s; cnn2's 1.7 MB of weights take half a second each way
_MOST_CHARACTERS = 300  # of a text that a host tells


@dataclass(frozen=True)
class Question:
    """What is to train there: the host's own `threads`, if any, go before these; None: its usable cores."""

    network: str
    batch_size: int
    input_shape: tuple[int, ...]
    threads: int | None = None
    precision: Precision = "float32"


@dataclass(frozen=True)
class Link:
    """Seconds there and back (the median of some), and bytes per second from here to there and back."""

    latency_seconds: float
    upload: float
    download: float


@dataclass(frozen=True)
class HostFacts:
    """A host as it is now. None stands for what it does not tell; packages that are missing have no version.

    `speed` answers the question, if one was asked. Local hosts have no link.
    """

    python: tuple[int, int, int]
    executable: str
    bptcnn: str | None
    numpy: str | None
    numba: str | None
    llvmlite: str | None
    cloudpickle: str | None
    cpu: str
    aes: bool  # whether the CPU has instructions for it
    cores: int  # usable ones
    memory_available: int | None  # bytes
    disk_free: int | None  # bytes, where compiled kernels are kept
    cache_folder: str
    hostname: str
    uid: int
    kernels_warm: bool | None
    lacks_bf16: str | None  # why it cannot train at that precision, "" where it can
    speed: NodeSpeed | None
    troubles: tuple[tuple[str, str], ...]  # what of the package does not work there, and how it fails
    link: Link | None

    @property
    def python_version(self) -> str:
        """As "3.11.7"."""
        return ".".join(map(str, self.python))

    @property
    def same_python(self) -> bool:
        """Whether that Python and this one can exchange functions: major and minor version are the same."""
        return self.python[:2] == sys.version_info[:2]


# What a host may tell: within these ranges the shares of the first round, and what is said of it, can be computed.
Cores = Annotated[int, Between(1, 4096)]  # the largest machines have a quarter of that
ImagesPerSecond = Annotated[float, Between(1e-6, 1e12)]  # from one in eleven days to what no machine reaches
CoresTimesClock = Annotated[float, Between(1e-3, 1e6)]  # in GHz: 4096 cores have some 2e4
_Memory = Annotated[int, Between(0, 1 << 60)]  # bytes: an exabyte
_Disk = Annotated[int, Between(0, 1 << 62)]
_Uid = Annotated[int, Between(0, (1 << 32) - 1)]


@dataclass(frozen=True)
class _Versions:
    bptcnn: str | None
    numpy: str | None
    numba: str | None
    llvmlite: str | None
    cloudpickle: str | None


@dataclass(frozen=True)
class _Told:
    """What `probe.gather` tells."""

    executable: str
    versions: _Versions
    hostname: str
    uid: _Uid
    cpu: str
    aes: bool
    cores: Cores
    memory: _Memory | None
    disk: _Disk | None
    cache: str
    warm: bool | None
    lacks_bf16: str | None
    speed: tuple[ImagesPerSecond | None, CoresTimesClock] | None
    troubles: Annotated[dict[str, str], Length(0, 100)]


def read_facts(told: object, python: tuple[int, int, int], link: Link | None) -> HostFacts:
    """Return the facts that `probe.gather` has told; raise Malformed where it is not that, or cannot be."""
    found = build(_Told, told, "its answer")
    versions = {name: None if version is None else _line(version) for name, version in vars(found.versions).items()}
    return HostFacts(
        python=python,
        executable=_line(found.executable),
        **versions,
        cpu=_line(found.cpu),
        aes=found.aes,
        cores=found.cores,
        memory_available=found.memory,
        disk_free=found.disk,
        cache_folder=_line(found.cache),
        hostname=_line(found.hostname),
        uid=found.uid,
        kernels_warm=found.warm,
        lacks_bf16=None if found.lacks_bf16 is None else _line(found.lacks_bf16),
        speed=None if found.speed is None else NodeSpeed(*found.speed),
        troubles=tuple((_line(what), _line(how)) for what, how in found.troubles.items()),
        link=link,
    )


def _line(text: str) -> str:
    """What a host tells is shown on terminals: one line, not too long."""
    return printable(text, _MOST_CHARACTERS)


def find_problems(
    host: Host, facts: HostFacts, here: Mapping[str, str | None], precision: Precision = "float32"
) -> tuple[Problem, ...]:
    """Return what is wrong with a host that answered, hard problems first; `here`: this machine's package versions.

    `precision`: at which it is to train.
    """
    found = [*_software(host, facts, here)]
    if precision == "bf16" and facts.lacks_bf16:
        found.append(
            Problem(facts.lacks_bf16, "train with --precision float32, or take the host out of the hosts file")
        )
    if not any(problem.hard for problem in found):
        found += [*_resources(host, facts), *_pace(host, facts)]
    return tuple(sorted(found, key=lambda problem: not problem.hard))


def too_old(host: Host, version: str) -> Problem:
    """The problem of a Python that bptcnn does not run on."""
    oldest = ".".join(map(str, OLDEST_PYTHON))
    remedy = f"install Python {oldest} or later there and put its path into the hosts file"
    return Problem(f"Python {version} at {host.python} is too old", remedy)


def _software(host: Host, facts: HostFacts, here: Mapping[str, str | None]) -> list[Problem]:
    if facts.python < OLDEST_PYTHON:
        return [too_old(host, facts.python_version)]
    wanted = f"bptcnn=={here['bptcnn']}"
    if facts.bptcnn is None:
        return [Problem(f"bptcnn is missing in {facts.executable}", _install(host, wanted))]
    if facts.bptcnn != here["bptcnn"]:
        what = f"bptcnn {facts.bptcnn} is not this machine's {here['bptcnn']}"
        return [Problem(what, f"{_install(host, wanted)} (or upgrade here)")]
    there = {name: getattr(facts, name) for name in here}
    missing = [name for name, version in there.items() if version is None]
    if missing:
        return [Problem(f"{', '.join(missing)} missing in {facts.executable}", _install(host, *missing))]
    for what, how in facts.troubles:  # the first one, which the others may follow from
        if what == "cache folder":
            return [Problem(how, _elsewhere(host))]
        if what not in ("profile", "cache"):
            remedy = _install(host, "--force-reinstall", wanted)
            return [Problem(f"bptcnn is there, but its {what} failed: {how}", remedy)]
    troubles = dict(facts.troubles)
    found = []
    if "profile" in troubles:
        found.append(Problem(f"profile: {troubles['profile']}", "run bptcnn profile there", hard=False))
    if "cache" in troubles:
        found.append(Problem(troubles["cache"], _elsewhere(host), hard=False))
    for name in ("numpy", "numba"):
        if there[name] != here[name]:
            what = f"{name} {there[name]} is not this machine's {here[name]}: results may differ in the last digits"
            found.append(Problem(what, _install(host, f"{name}=={here[name]}"), hard=False))
    if not facts.same_python:
        ours = ".".join(map(str, sys.version_info[:2]))
        what = f"Python {facts.python_version} is not this machine's {ours}: networks defined in Python cannot be sent"
        found.append(Problem(what, f"give networks as names or TOML, or use Python {ours} there", hard=False))
    return found


def _resources(host: Host, facts: HostFacts) -> list[Problem]:
    found = []
    memory, disk = facts.memory_available, facts.disk_free
    if memory is not None and memory < _LITTLE_MEMORY * _GB:
        what = f"only {memory / _GB:.2f} GB of memory are available"
        found.append(Problem(what, "end other programs there", hard=memory < _NO_MEMORY * _GB))
    if disk is not None and disk < _LITTLE_DISK * _GB:
        what = f"only {disk / _GB:.2f} GB of disk are free at {facts.cache_folder}"
        found.append(Problem(what, _elsewhere(host), hard=disk < _NO_DISK * _GB))
    return found


def _elsewhere(host: Host) -> str:
    if host.local:
        return "make room, or set BPTCNN_CACHE_DIR"
    return 'make room, or give the host env = { BPTCNN_CACHE_DIR = "/FOLDER" } in the hosts file'


def _pace(host: Host, facts: HostFacts) -> list[Problem]:
    found = []
    if facts.kernels_warm is False:
        found.append(Problem("its kernels are not compiled yet", "its first run does that, in some 20 s", hard=False))
    if host.threads is not None and host.threads > facts.cores:
        what = f"threads is {host.threads}, but it has {facts.cores} usable cores"
        found.append(Problem(what, f"set threads = {facts.cores} in the hosts file, or leave it out", hard=False))
    if facts.link is not None:
        slowest = min(facts.link.upload, facts.link.download) / _MB
        if slowest < _SLOW_LINK:
            what = f"its link carries {slowest:.2g} MB/s: large networks will wait for it"
            found.append(Problem(what, "use a faster link, a smaller network or more local steps", hard=False))
    return found


def _install(host: Host, *packages: str) -> str:
    words = (host.python or sys.executable, "-m", "pip", "install", *packages)
    return f"run {shlex.join(words) if host.local else by_hand(host, *words)}"
