"""The program that runs on a host before it trains: it echoes bytes for `preflight` to time, and tells about itself.

Its source travels over standard input to a short command, `BOOTSTRAP`, so nothing of ours need be installed there. It
uses the standard library alone and the syntax of Python 3.6, to be able to say that a Python is too old; what the
package knows better is asked of the package where that is installed.

    here                                        there
    BOOTSTRAP on the command line, MARK, SIZE   login shell: noise... then Python
    SIZE bytes: this file's source           -> MARK {"python": [3, 11, 7]}
    p                                        -> p                          round trip
    u, 4 bytes: n, n bytes                   -> u                          upload
    d, 4 bytes: n                            -> n bytes                    download
    r, 4 bytes: n, n bytes: question as JSON -> 4 bytes: n, n bytes: facts as JSON

Numbers are big-endian. It ends when its input does, or by SIGALRM after LIFETIME_SECONDS.
"""

import json
import os
import shutil
import signal
import struct
import sys
from importlib import import_module
from typing import Any, BinaryIO, Callable, Sequence, TypeVar  # noqa: UP035 (Python 3.6)

LIFETIME_SECONDS = 120  # longer than any preflight waits
PACKAGES = ("bptcnn", "numpy", "numba", "llvmlite", "cloudpickle")
OLDEST_SYNTAX = (3, 6)
_CHUNK = 1 << 16  # bytes
_LITTLE = 1 << 16  # bytes

# One line without ! and \ (csh and fish read them even in quotes), which every Python understands: one that is too old
# for this file says so and ends. The current folder must not offer modules.
BOOTSTRAP = (
    "import sys; sys.path[:] = [p for p in sys.path if p]; mark, size = sys.argv[1], int(sys.argv[2]); "
    "text = getattr(sys.stdin, 'buffer', sys.stdin).read(size); "
    f"new = sys.version_info[:2] >= {OLDEST_SYNTAX}; "
    "say = sys.stdout.write(mark + str(list(sys.version_info[:3])) + chr(10)); sys.stdout.flush(); "
    "space = {'__name__': 'bptcnn_probe'}; "
    "exec(text if new else '', space); "
    "space['serve']() if new else None"
)

T = TypeVar("T")


def serve():  # type: () -> None
    """Answer commands on standard input until it ends. What else prints, prints on standard error."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(LIFETIME_SECONDS)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    commands = {b"p": _echo, b"u": _take, b"d": _give, b"r": _report}
    while True:
        command = sys.stdin.buffer.read(1)
        if not command:
            return
        commands[command](sys.stdin.buffer, answers)
        answers.flush()


def _echo(questions: BinaryIO, answers: BinaryIO) -> None:
    answers.write(b"p")


def _take(questions: BinaryIO, answers: BinaryIO) -> None:
    left = _number(questions)
    while left:
        taken = len(questions.read(min(left, _CHUNK)))
        if not taken:
            sys.exit(0)
        left -= taken
    answers.write(b"u")


def _give(questions: BinaryIO, answers: BinaryIO) -> None:
    answers.write(os.urandom(_number(questions)))  # random: ssh may compress


def _report(questions: BinaryIO, answers: BinaryIO) -> None:
    question = json.loads(questions.read(_number(questions)).decode())
    facts = json.dumps(gather(question)).encode()
    answers.write(struct.pack("!I", len(facts)) + facts)


def _number(questions: BinaryIO) -> int:
    packed = questions.read(4)
    if len(packed) < 4:
        sys.exit(0)
    return int(struct.unpack("!I", packed)[0])


def gather(question: "dict[str, Any] | None") -> "dict[str, Any]":
    """Return what `preflight.HostFacts` holds of this machine, as JSON has it; question: as `preflight.Question`.

    "troubles" are lines about what of the package does not work here.
    """
    troubles = {}  # type: dict[str, str]

    def ask(what: str, answer: "Callable[[], T]", otherwise: "T") -> "T":
        """Return the answer; what stands in its way is a trouble if the package is there at all."""
        try:
            return answer()
        except Exception as error:
            kind = "" if type(error).__name__ == "UserError" else type(error).__name__ + ": "  # it may not be there
            troubles[what] = " ".join((kind + str(error)).split())
            return otherwise

    versions = package_versions()
    able = versions["bptcnn"] is not None and sys.version_info >= (3, 11)
    facts = {
        "executable": sys.executable,
        "versions": versions,
        "hostname": os.uname().nodename,
        "uid": os.getuid(),
        "cpu": _cpu(),
        "aes": has_aes(),
        "cores": len(os.sched_getaffinity(0)),
        "memory": _memory(),
        "disk": ask("disk", lambda: shutil.disk_usage(_existing(_cache_root())).free, None),
        "cache": _cache_root(),
        "warm": None,
        "lacks_bf16": None,
        "speed": None,
    }  # type: dict[str, Any]
    if able:
        facts["cores"] = ask("cores", lambda: _of("bptcnn.profiling.cores", "usable_cores")(), facts["cores"])
        facts["memory"] = ask("memory", lambda: _of("bptcnn.available", "available_bytes")(), facts["memory"])
        is_warm = ask("kernels", lambda: _of("bptcnn.kernels.compilation", "is_warm"), lambda: None)
        facts["warm"] = ask("cache folder", is_warm, None)
        nothing = {}  # type: dict[str, Any]
        facts.update(ask("cache folder", lambda: _place(facts["warm"], troubles), nothing))
        facts["lacks_bf16"] = ask("CPU features", lambda: _of("bptcnn.kernels.unit", "lacking")("bf16") or "", None)
        facts["cpu"] = ask("CPU", lambda: _of("bptcnn.profiling.host", "cpu_name")(), facts["cpu"])
        if question is not None:
            asked = question
            facts["speed"] = ask("profile", lambda: _speed(asked), None)
    facts["troubles"] = troubles
    return facts


def _of(module: str, name: str) -> "Any":
    return getattr(import_module(module), name)


def _speed(question: "dict[str, Any]") -> "Sequence[float | None]":
    threads = question["threads"] or _of("bptcnn.profiling.cores", "usable_cores")()
    profile = _of("bptcnn.profiling.locate", "find_profile")()
    speed = _of("bptcnn.profiling.speed", "node_speed")(
        question["network"], question["batch_size"], threads, profile, tuple(question["input_shape"])
    )
    return [speed.images_per_second, speed.cores_times_clock]


def package_versions() -> "dict[str, str | None]":
    """Return the version of each of PACKAGES; None: missing."""
    return {name: _version(name) for name in PACKAGES}


def _version(package: str) -> "str | None":
    """Return a package's version. Ours says it itself: what pip has noted may be that of an earlier source folder."""

    def noted() -> str:
        return str(_of("importlib.metadata", "version")(package))

    def said() -> str:
        return str(import_module(package).__version__)

    for ask in (said, noted) if package == "bptcnn" else (noted, said):
        try:
            return ask()
        except Exception:  # not there, or whatever it is that keeps it from being imported
            continue
    return None


def _cpu() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return os.uname().machine


def has_aes() -> bool:
    """Return whether the CPU has instructions for AES, so that ssh is fastest with it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
            return any(line.startswith(("flags", "Features")) and "aes" in line.split() for line in lines)
    except OSError:
        return False


def _memory() -> "int | None":
    try:
        with open("/proc/meminfo", encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if line.startswith("MemAvailable:"):
                    return 1024 * int(line.split()[1])
    except (OSError, ValueError):
        pass
    return None


def _cache_root() -> str:
    """Return the folder that compiled kernels belong below: as `bptcnn.cache_layers` has it."""
    chosen = os.environ.get("BPTCNN_CACHE_DIR")
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return chosen or os.path.join(base, "bptcnn")


def _place(warm: bool, troubles: "dict[str, str]") -> "dict[str, Any]":
    """Return the folder that takes what is compiled, and what is free there; that it is not the user's is a trouble."""
    cache = _of("bptcnn.kernels.compilation", "kernel_cache")()
    folder = cache.reserve(_LITTLE if warm else _of("bptcnn.kernels.compilation", "KERNEL_BYTES"))
    if cache.trouble is not None:
        troubles["cache"] = cache.trouble.what
    return {"cache": str(folder), "disk": shutil.disk_usage(folder).free}


def _existing(folder: str) -> str:
    """Return the folder, or the nearest one above that exists."""
    folder = os.path.abspath(folder)
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    return folder
