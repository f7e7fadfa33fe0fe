"""The system's OpenSSH client: its command lines, and what its failures mean.

`BPTCNN_SSH` replaces `ssh`, as GIT_SSH_COMMAND does for git: a command line, whose options win over ours. The user's
configuration, keys, agents and known hosts count as always; how host keys are checked is never changed.
"""

import os
import re
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from bptcnn.errors import UserError
from bptcnn.nodes.hosts import Host
from bptcnn.untrusted import printable

CONNECT_SECONDS = 10  # a connection through a jump host over a slow link takes 2 or 3
_CONFIGURATION_SECONDS = 2  # to read its configuration ssh asks nobody
_ALIVE_SECONDS, _ALIVE_COUNT = 5, 3  # a link that is gone is noticed after their product
ONE_THREAD = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
"""Variables that hold libraries to one thread: a node's threads are its own scheduler's. As local agents have it."""

_OPTIONS = (
    "BatchMode=yes",  # nobody is there to type a password: fail instead of waiting
    f"ConnectTimeout={CONNECT_SECONDS}",
    f"ServerAliveInterval={_ALIVE_SECONDS}",
    f"ServerAliveCountMax={_ALIVE_COUNT}",
    "ControlMaster=no",  # with a shared connection, killing our ssh would leave its session alive
    "ControlPath=none",
    "ExitOnForwardFailure=yes",  # a node without its socket would wait for ever
    "ForwardAgent=no",  # hosts get nothing that they do not need
    "ForwardX11=no",
    "PermitLocalCommand=no",
    "RequestTTY=no",  # bytes arrive as they are sent
    "EscapeChar=none",
    "LogLevel=ERROR",  # banners and warnings would hide the line that matters
    "StreamLocalBindMask=0177",  # sockets are the user's alone
)
_CLEARED = "ClearAllForwardings=yes"  # the user's own forwards fail where a second connection asks for them
_SOCKET_PATH = re.compile(r"/[A-Za-z0-9._/@+,-]+")  # ssh gives : \ % and $ a meaning, wrappers may split at blanks
_SUITING = re.compile(r"Ciphers=[A-Za-z0-9@.,+-]{1,2000}")  # what `aes_first` gives; other options run programs
_FORGET = re.compile(
    r"""^\s*(ssh-keygen -f ['"]?[\w/.@~+-]+['"]? -R ['"]?[\w.:@[\]-]+['"]?)\s*$""", re.MULTILINE | re.ASCII
)
_MOST_SHOWN = 200  # characters of a line that is not ours


@dataclass(frozen=True)
class Problem:
    """What is wrong with a host and what to do about it, a line each.

    `passing`: it may go away by itself (a network, a reboot). `hard`: the host cannot train until it has gone.
    """

    what: str
    remedy: str
    passing: bool = False
    hard: bool = True


def ssh_command(
    host: Host, arguments: Sequence[str], forwards: Sequence[tuple[str, str]] = (), options: Sequence[str] = ()
) -> list[str]:
    """Return the command line that runs the host's Python with `arguments`, standard input and output connected.

    `forwards` are pairs (socket there, socket here): who connects to the one reaches the other. `options` are further
    ones of ssh, checked. Raise UserError where BPTCNN_SSH, an option or a socket's path is not usable.
    """
    command = [*_client()]
    for option in (*_OPTIONS, *(() if forwards else (_CLEARED,)), *checked_options(options)):
        command += ["-o", option]
    command += _port(host)
    for pair in forwards:
        for path in pair:
            if not can_forward(path):
                raise UserError(
                    f"ssh cannot forward {path!r}: set TMPDIR to a folder whose path has letters, digits, - _"
                )
        command += ["-R", ":".join(pair)]
    return [*command, "--", host.address, remote_command(host, arguments)]


def can_forward(path: str) -> bool:
    """Tell whether a socket of this path can be forwarded by every version of ssh, and through wrappers of it."""
    return _SOCKET_PATH.fullmatch(path) is not None


def checked_options(options: Sequence[str]) -> tuple[str, ...]:
    """Return options that may have come from elsewhere; raise UserError for others than `aes_first` gives."""
    for option in options:
        if not _SUITING.fullmatch(option):
            raise UserError(
                f"ssh is not given the option {printable(option, _MOST_SHOWN)!r}: only the order of ciphers"
            )
    return tuple(options)


def aes_first(host: Host) -> tuple[str, ...]:
    """Return the options that put AES-GCM before the other ciphers that the user's configuration allows for the host.

    ssh itself begins with ChaCha20, which suits CPUs without instructions for AES and costs others twice the time.
    Nothing where the configuration cannot be read or has no AES-GCM.
    """
    command = [*_client(), "-G", *_port(host), "--", host.address]
    try:
        resolved = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_CONFIGURATION_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired):
        return ()
    found = re.search(r"^ciphers (\S+)$", resolved.stdout, re.MULTILINE)
    allowed = found[1].split(",") if found else []
    ordered = sorted(allowed, key=lambda cipher: "-gcm@" not in cipher)
    return (f"Ciphers={','.join(ordered)}",) if ordered != allowed else ()


def _port(host: Host) -> list[str]:
    return [] if host.port is None else ["-p", str(host.port)]


def remote_command(host: Host, arguments: Sequence[str]) -> str:
    """Return the line for the user's login shell there, be it sh, bash, zsh, csh or fish."""
    variables = {**dict.fromkeys(ONE_THREAD, "1"), **dict(host.env)}
    words = [*(f"{name}={value}" for name, value in variables.items()), host.python, *arguments]
    line = f"exec env {shlex.join(words)}"
    if host.workdir is None:
        return line
    return f"cd {shlex.quote(_folder(host.workdir))} && {line}"


def _folder(workdir: str) -> str:
    """./ keeps cd from taking a folder for an option and from looking along CDPATH."""
    return workdir if workdir.startswith("/") else f"./{workdir}"


def by_hand(host: Host, *words: str) -> str:
    """Return what a user types to reach the host as we do, and to run `words` there."""
    return shlex.join([*_client(), *_port(host), host.address, *([shlex.join(words)] if words else [])])


def _client() -> list[str]:
    line = os.environ.get("BPTCNN_SSH", "ssh")
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise UserError(f"BPTCNN_SSH is {line!r}: {error}: give a command line such as 'ssh -F FILE'") from None
    return words or ["ssh"]


_UNREACHABLE = (  # what ssh says, what it means
    (r"Connection refused", "nothing listens on its SSH port"),
    (r"Could not resolve hostname.*", "its name is not known"),
    (r"(?:Connection|Operation) timed out.*|Timeout, server .* not responding", "it does not answer"),
    (r"No route to host|Network is (?:unreachable|down)|Host is (?:unreachable|down)", "there is no way to it"),
    (
        r"Connection (?:to .* )?closed by .*|Connection reset.*|Broken pipe|closed by remote host",
        "it closed the connection",
    ),
)
_CHANGED = "REMOTE HOST IDENTIFICATION HAS CHANGED"
_UNIMPORTANT = re.compile(
    r"\s*$|@|Warning: |Pseudo-terminal|Traceback|  "
)  # the beginnings of lines that explain nothing


def explain(host: Host, exit_code: int, stderr: str) -> Problem:
    """Return what made ssh, or the Python behind it, end with `exit_code` (-N: by signal N) and say `stderr`."""
    if exit_code == 255:  # ssh's own
        return _explain_ssh(host, stderr)
    missing = {127: "there is no such file", 126: "it cannot be executed"}
    if exit_code in missing:
        return Problem(
            f"no Python at {host.python}: {missing[exit_code]}",
            f"put its path into the hosts file ({by_hand(host, 'command', '-v', 'python3')})",
        )
    if host.workdir and _folder(host.workdir) in stderr and exit_code in (1, 2) and "Traceback" not in stderr:
        return Problem(f"cannot enter its workdir {host.workdir}", f"make it: {_make(host)}")
    if exit_code < 0:
        return Problem(f"ssh was ended by signal {-exit_code}", "run again", passing=True)
    said = _meaningful(stderr) or "without a word"
    return Problem(f"ended with exit code {exit_code}: {said}", f"try {by_hand(host, host.python, '--version')}")


def _explain_ssh(host: Host, stderr: str) -> Problem:
    machine = host.address.rpartition("@")[2]
    if _CHANGED in stderr:
        command = _FORGET.search(stderr)  # of exactly that form: a host may say this, too
        forget = command[1] if command else shlex.join(["ssh-keygen", "-R", machine])
        return Problem(
            "its host key has changed: another machine may pose as it",
            f"ask its administrator; only if the host was set up anew: {forget}",
        )
    if "Host key verification failed" in stderr or "host key is known for" in stderr:
        return Problem("its host key is not known", f"run `{by_hand(host)}` once, compare the key and accept it")
    if re.search(r"Permission denied \(|Too many authentication failures|agent refused operation", stderr):
        copy = shlex.join(["ssh-copy-id", *_port(host), host.address])
        return Problem("no key opens it without a password", f"give it yours: {copy} (or load it: ssh-add)")
    if re.search(r"remote port forwarding failed|forwarding.*(?:refused|prohibited|disabled)", stderr):
        return Problem(
            "it refuses to forward sockets", "set AllowStreamLocalForwarding yes in its sshd_config and reload sshd"
        )
    for pattern, meaning in _UNREACHABLE:
        if re.search(pattern, stderr):
            what = f"cannot be reached, {meaning}"
            return Problem(what, f"see that it is on, and that `{by_hand(host)}` works", passing=True)
    said = _meaningful(stderr)
    if not said:  # of a program there that is killed ssh says nothing but this
        return Problem(
            "ssh failed: it ended without a word", f"try {by_hand(host)}, and see whether its memory is full"
        )
    return Problem(f"ssh failed: {said}", f"try {by_hand(host)}")


def _make(host: Host) -> str:
    return by_hand(host, "mkdir", "-p", _folder(host.workdir or ""))


def _meaningful(stderr: str) -> str:
    """Return the line that says most: a traceback's last, else the first that is no decoration."""
    lines = [line for line in stderr.splitlines() if not _UNIMPORTANT.match(line)]
    if not lines:
        return ""
    line = lines[-1] if "Traceback" in stderr else lines[0]
    shown = printable(line).strip()
    return shown if len(shown) <= _MOST_SHOWN else shown[: _MOST_SHOWN - 3] + "..."
