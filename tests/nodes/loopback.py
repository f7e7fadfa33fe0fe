"""A real sshd on 127.0.0.1 that runs as the current user, and ssh aliases that lead to it in good and bad ways.

OpenSSH reads the configuration of the user's real home whatever HOME says, so tests set BPTCNN_SSH to `Loopback.ssh`.
"""

import getpass
import os
import shlex
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from bptcnn.cache_layers import wanted_root

START_SECONDS = 20.0
ATTEMPTS = 5  # somebody else may take the port that was free


@dataclass(frozen=True)
class Loopback:
    """A running sshd. Aliases of its ssh configuration:

    good; noisy: its login shell prints first; narrow: refuses to forward; strange: no key of ours is accepted; unknown:
    its host key is not known; changed: another host key is known; closed: nothing listens; mute: listens and never
    answers; flooding: its login shell prints without end.
    """

    folder: Path
    port: int
    mute_port: int

    @property
    def ssh(self) -> str:
        """The value for BPTCNN_SSH."""
        return shlex.join(["ssh", "-F", str(self.folder / "config")])


def require_sshd() -> str:
    """Return the path of sshd; skip the test where OpenSSH is not installed."""
    path = shutil.which("sshd", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"]))
    if path is None or shutil.which("ssh") is None or shutil.which("ssh-keygen") is None:
        pytest.skip("needs OpenSSH's server and client: apt-get install openssh-server openssh-client")
    return path


@contextmanager
def loopback(folder: Path, **settings: object) -> Iterator[Loopback]:
    """Run sshd with keys and configuration in `folder`, a socket that never answers beside it.

    `settings` are sshd's, before ours.
    """
    sshd = require_sshd()
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # privilege separation insists on it
    keys = {name: _key(folder / name) for name in ("host", "other", "plain", "noisy", "narrow", "flooding", "stranger")}
    prefixes = {
        "plain": "",
        "noisy": _forced("echo Welcome; printf 'no newline: p'; eval \"$SSH_ORIGINAL_COMMAND\""),
        "flooding": _forced("yes Welcome"),
        "narrow": "restrict ",
    }
    (folder / "authorized").write_text("".join(f"{prefix}{keys[name]}\n" for name, prefix in prefixes.items()))
    with socket.create_server(("127.0.0.1", 0)) as mute:
        process, port = _listening(sshd, folder, settings)
        try:
            here = Loopback(folder, port, int(mute.getsockname()[1]))
            _write_known_hosts(here, keys)
            _write_client_configuration(here, _free_port())
            yield here
        finally:
            process.terminate()
            process.wait()


def _forced(command: str) -> str:
    escaped = command.replace('"', '\\"')
    return f'command="{escaped}" '


def _key(path: Path) -> str:
    """Make a key pair; return its public half."""
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", path.name, "-f", str(path)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    return path.with_suffix(".pub").read_text().strip()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _listening(sshd: str, folder: Path, own: dict[str, object]) -> "tuple[subprocess.Popen[bytes], int]":
    """Start sshd on a free port and wait until it listens and has its final title: leak checks compare titles."""
    home = folder / "home"  # what the user's start-up files do is not what is tested
    home.mkdir()
    cache = wanted_root()
    for _ in range(ATTEMPTS):
        port = _free_port()
        settings = {
            "Port": port,
            "ListenAddress": "127.0.0.1",
            "HostKey": folder / "host",
            "AuthorizedKeysFile": folder / "authorized",
            "PidFile": "none",
            "StrictModes": "no",  # pytest's folders may lie below one that others can write to
            "UsePAM": "no",
            "PasswordAuthentication": "no",
            "KbdInteractiveAuthentication": "no",
            "MaxStartups": 200,
            "PrintMotd": "no",
            "SetEnv": f"HOME={home} BPTCNN_CACHE_DIR={cache}",
            **own,
        }
        (folder / "sshd_config").write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
        with (folder / "sshd.log").open("ab") as log:
            process = subprocess.Popen(
                [sshd, "-D", "-e", "-f", str(folder / "sshd_config")], stdin=subprocess.DEVNULL, stderr=log
            )
        deadline = time.monotonic() + START_SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            if "[listener] 0 of " in Path(f"/proc/{process.pid}/cmdline").read_text(errors="replace"):
                return process, port
            time.sleep(0.01)
        process.kill()
        process.wait()
    raise RuntimeError(f"sshd does not start: {(folder / 'sshd.log').read_text()[-500:]}")


def _write_known_hosts(here: Loopback, keys: dict[str, str]) -> None:
    for name, key in (("known", keys["host"]), ("known-other", keys["other"])):
        (here.folder / name).write_text(f"[127.0.0.1]:{here.port} {' '.join(key.split()[:2])}\n")
    (here.folder / "known-none").write_text("")


def _write_client_configuration(here: Loopback, closed_port: int) -> None:
    """One value per alias and option, the aliases' own first: in ssh the first counts."""
    own = {
        "good": {},
        "noisy": {"IdentityFile": here.folder / "noisy"},
        "narrow": {"IdentityFile": here.folder / "narrow"},
        "flooding": {"IdentityFile": here.folder / "flooding"},
        "strange": {"IdentityFile": here.folder / "stranger"},
        "unknown": {"UserKnownHostsFile": here.folder / "known-none"},
        "changed": {"UserKnownHostsFile": here.folder / "known-other"},
        "closed": {"Port": closed_port},
        "mute": {"Port": here.mute_port},
    }
    common = {
        "HostName": "127.0.0.1",
        "User": getpass.getuser(),
        "Port": here.port,
        "IdentityFile": here.folder / "plain",
        "IdentitiesOnly": "yes",
        "IdentityAgent": "none",
        "UserKnownHostsFile": here.folder / "known",
        "GlobalKnownHostsFile": "/dev/null",
    }
    lines = []
    for alias, options in own.items():
        lines.append(f"Host {alias}")
        lines += [f"    {name} {value}" for name, value in {**common, **options}.items()]
    (here.folder / "config").write_text("\n".join(lines) + "\n")
