"""The system's OpenSSH client: its command lines, and what its failures mean.

`BPTCNN_SSH` replaces `ssh`, as GIT_SSH_COMMAND does for git: a command line, whose options win over ours. The user's
configuration, keys, agents and known hosts count as always; how host keys are checked is never changed.
"""

import math
import os
import re
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from bptcnn.errors import UserError
from bptcnn.nodes.hosts import Host
from bptcnn.nodes.ssh_options import session_options
from bptcnn.nodes.ssh_words import last_words, own_words, short_lines
from bptcnn.untrusted import printable

CONFIGURATION_SECONDS = 2.0  # to read its configuration ssh asks nobody

ONE_THREAD = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
"""Variables that hold libraries to one thread: a node's threads are its own scheduler's. As local agents have it."""

_SOCKET_PATH = re.compile(r"/[A-Za-z0-9._/@+,-]+")  # ssh gives : \ % and $ a meaning, wrappers may split at blanks
_SUITING = re.compile(r"Ciphers=[A-Za-z0-9@.,+-]{1,2000}")  # what `aes_first` gives; other options run programs
_FORGET = re.compile(
    r"""^\s*(ssh-keygen -f ['"]?[\w/.@~+-]+['"]? -R ['"]?[\w.:@[\]-]+['"]?)\s*$""", re.MULTILINE | re.ASCII
)
_MOST_SHOWN = 200  # characters of an option that is not ours


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
    host: Host,
    arguments: Sequence[str],
    forwards: Sequence[tuple[str, str]] = (),
    options: Sequence[str] = (),
    master: str | None = None,
) -> list[str]:
    """Return the command line that runs the host's Python with `arguments`, standard input and output connected.

    `forwards` are pairs (socket there, socket here): who connects to the one reaches the other. With `master`, the
    path of a socket, ssh listens there for `forward_command`. `options` are further ones of ssh, checked. Raise
    UserError where BPTCNN_SSH, an option or a socket's path is not usable.
    """
    client = _client()
    command = [*client]
    ours = [f"ConnectTimeout={math.ceil(host.timeout)}"]
    if master is not None:
        ours += ["ControlMaster=yes", f"ControlPath={_checked_path(master)}"]  # the first values count
    if not forwards:
        ours.append("ClearAllForwardings=yes")  # the user's own would clash where there are two connections
    for option in (*ours, *session_options(client), *checked_options(options)):
        command += ["-o", option]
    return [*command, *_port(host), *_forwards(forwards), "--", host.address, remote_command(host, arguments)]


def forward_command(host: Host, master: str, forwards: Sequence[tuple[str, str]]) -> list[str]:
    """Return the command line that has the connection that listens at `master` forward sockets.

    ClearAllForwardings clears what the same command line asks for, too. So where the user's configuration has forwards,
    ours are asked for by a second command, which reads no configuration and connects to nothing but `master`.
    """
    words = [word for word in _client() if os.path.basename(word) == "ssh"]  # a wrapper is for connections
    plain = [*(words[:1] or ["ssh"]), "-F", "none", "-S", _checked_path(master), "-O", "forward"]
    return [*plain, *_forwards(forwards), "--", host.address]


def _forwards(forwards: Sequence[tuple[str, str]]) -> list[str]:
    return [word for pair in forwards for word in ("-R", ":".join(map(_checked_path, pair)))]


def _checked_path(path: str) -> str:
    if not can_forward(path):
        raise UserError(f"ssh cannot forward {path!r}: set TMPDIR to a folder whose path has letters, digits, - _")
    return path


def ssh_environment() -> dict[str, str]:
    """Return the environment that ssh is started in: that of a jump host asks nobody either."""
    return {**os.environ, "SSH_ASKPASS_REQUIRE": "never"}


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


@dataclass(frozen=True)
class Resolved:
    """What the user's configuration says of a host: which machine ssh connects to first, whether it forwards anything,
    and which ciphers it allows, the first one preferred.
    """

    door: str = ""
    forwards: bool = False
    ciphers: tuple[str, ...] = ()


def resolve(host: Host) -> Resolved:
    """Ask ssh what the user's configuration says of a host; nothing where ssh does not tell."""
    command = [*_client(), "-G", *_port(host), "--", host.address]
    try:
        told = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=CONFIGURATION_SECONDS,
            env=ssh_environment(),
            start_new_session=True,
        )
    except (OSError, subprocess.TimeoutExpired):
        return Resolved()
    said = {key: value for key, _, value in (line.partition(" ") for line in told.stdout.splitlines())}
    jump = said.get("proxyjump", "none").split(",")[0]
    proxy = said.get("proxycommand", "none")  # of all hosts behind it the same, %h and %p are not filled in
    if jump != "none":
        door = jump.rpartition("@")[2]
    else:
        door = proxy if proxy != "none" else f"{said.get('hostname', '')}:{said.get('port', '')}"
    forwards = any(f"{kind}forward" in said for kind in ("local", "remote", "dynamic"))
    return Resolved(door, forwards, tuple(filter(None, said.get("ciphers", "").split(","))))


def aes_first(resolved: Resolved) -> tuple[str, ...]:
    """Return the options that put AES-GCM before the other ciphers that the user's configuration allows for the host.

    ssh itself begins with ChaCha20, which suits CPUs without instructions for AES and costs others twice the time.
    Nothing where the configuration has no AES-GCM, or is not known.
    """
    ordered = tuple(sorted(resolved.ciphers, key=lambda cipher: "-gcm@" not in cipher))
    return (f"Ciphers={','.join(ordered)}",) if ordered != resolved.ciphers else ()


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


def longer(host: Host) -> str:
    """Return what gives a host more time than it has."""
    return f"give it more than {host.timeout:g} s: --host-timeout, or timeout in the hosts file"


def _client() -> list[str]:
    line = os.environ.get("BPTCNN_SSH", "ssh")
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise UserError(f"BPTCNN_SSH is {line!r}: {error}: give a command line such as 'ssh -F FILE'") from None
    return words or ["ssh"]


_NO_ANSWER, _CLOSED = "it does not answer", "it closed the connection"
_UNREACHABLE = (  # what ssh says, what it means
    (r"Connection refused", "nothing listens on its SSH port"),
    (r"Could not resolve hostname.*", "its name is not known"),
    (r"(?:Connection|Operation) timed out.*|Timeout, server .* not responding", _NO_ANSWER),
    (r"No route to host|Network is (?:unreachable|down)|Host is (?:unreachable|down)", "there is no way to it"),
    (
        r"Connection (?:to .* )?closed by .*|Connection reset.*|Broken pipe|closed by remote host",
        _CLOSED,
    ),
)
_CHANGED = "REMOTE HOST IDENTIFICATION HAS CHANGED"


_NO_TERMINAL = re.compile(r"not a terminal|not a tty|[Mm]ust be connected to a terminal")  # tmux, ssh's, screen
QUIET_SHELL = "keep its shell's start-up files from printing, starting and ending anything where it is not interactive"


def explain(host: Host, exit_code: int, stderr: str) -> Problem:
    """Return what made ssh, or the Python behind it, end with `exit_code` (-N: by signal N) and say `stderr`."""
    stderr = "\n".join(short_lines(stderr))
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
    said = last_words(stderr) or "without a word"
    remedy = f"try {by_hand(host, host.python, '--version')}"
    if exit_code == 0 or _NO_TERMINAL.search(stderr):
        remedy = f"{QUIET_SHELL}; {remedy}"
    return Problem(f"ended with exit code {exit_code}: {said}", remedy)


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
            own = own_words(stderr) if meaning == _CLOSED else ""  # of a proxy, or of a wrapper
            what = f"cannot be reached, {meaning}" + (f": {own}" if own else "")
            remedy = f"see that it is on, and that `{by_hand(host)}` works"
            if meaning == _NO_ANSWER:
                remedy += f"; if it is slow, {longer(host)}"
            return Problem(what, remedy, passing=True)
    said = last_words(stderr)
    if not said:  # of a program there that is killed ssh says nothing but this
        return Problem(
            "ssh failed: it ended without a word", f"try {by_hand(host)}, and see whether its memory is full"
        )
    return Problem(f"ssh failed: {said}", f"try {by_hand(host)}")


def _make(host: Host) -> str:
    return by_hand(host, "mkdir", "-p", _folder(host.workdir or ""))
