"""Keys, known hosts and configuration of the SSH client, and the configurations of the servers."""

import os
import pwd
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from bptcnn.cache_layers import wanted_root

SSHD_PORT = 22


@dataclass(frozen=True)
class Entry:
    """What the client believes of a host."""

    address: str
    port: int
    identity: Path
    host_key: Path  # its public part stands in known_hosts


class SshFiles:
    """All files are in `folder`; keys found there are used again."""

    def __init__(self, folder: Path, addresses: dict[str, str]) -> None:
        self.folder = folder
        self.config = folder / "ssh_config"
        self.identity = folder / "identity"
        self.stranger = folder / "stranger"  # a key that no host knows
        folder.mkdir(parents=True, exist_ok=True)
        self._make_keys([self.identity, self.stranger, *map(self.host_key, addresses)])
        self._authorised = folder / "authorized_keys"
        self._authorised.write_text(_public(self.identity) + "\n")
        self._entries = {
            alias: Entry(address, SSHD_PORT, self.identity, self.host_key(alias))
            for alias, address in addresses.items()
        }
        self._write()

    def host_key(self, alias: str) -> Path:
        return self.folder / f"{alias}.host_key"

    def server_config(self, alias: str) -> Path:
        """Write the configuration of a host's sshd; return its place."""
        path = self.folder / f"{alias}.sshd_config"
        home = self.folder / "home"  # what the user's start-up files do is not what is tested
        home.mkdir(exist_ok=True)
        cache = wanted_root()
        path.write_text(
            f"Port {SSHD_PORT}\nListenAddress 0.0.0.0\nHostKey {self.host_key(alias)}\nPidFile none\n"
            f"AuthorizedKeysFile {self._authorised}\nAuthenticationMethods publickey\nPasswordAuthentication no\n"
            "KbdInteractiveAuthentication no\nUsePAM no\nStrictModes no\nPermitRootLogin yes\nUseDNS no\n"
            f"LogLevel VERBOSE\nSetEnv HOME={home} BPTCNN_CACHE_DIR={cache}\n"
        )
        return path

    @contextmanager
    def altered(self, alias: str, **changes: object) -> Iterator[None]:
        """Have the client believe something else of a host, for a while."""
        before = self._entries[alias]
        self._entries[alias] = replace(before, **changes)  # type: ignore[arg-type]
        self._write()
        try:
            yield
        finally:
            self._entries[alias] = before
            self._write()

    def _make_keys(self, paths: list[Path]) -> None:
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f"]
        makers = [subprocess.Popen([*command, path], stdin=subprocess.DEVNULL) for path in paths if not path.exists()]
        codes = [maker.wait() for maker in makers]
        if any(codes):
            raise RuntimeError("ssh-keygen failed")

    def _write(self) -> None:
        user = pwd.getpwuid(os.getuid()).pw_name
        known, config = [], []
        for alias, entry in self._entries.items():
            place = entry.address if entry.port == 22 else f"[{entry.address}]:{entry.port}"
            known.append(f"{place} {_public(entry.host_key)}\n")
            config.append(
                f"Host {alias}\n  HostName {entry.address}\n  Port {entry.port}\n  User {user}\n"
                f"  IdentityFile {entry.identity}\n  IdentitiesOnly yes\n"
                f"  UserKnownHostsFile {self.folder / 'known_hosts'}\n  GlobalKnownHostsFile /dev/null\n"
                "  StrictHostKeyChecking yes\n"
            )
        for path, lines in ((self.folder / "known_hosts", known), (self.config, config)):
            draft = path.with_suffix(".new")
            draft.write_text("".join(lines))
            draft.replace(path)


def _public(key: Path) -> str:
    kind, value, *_ = key.with_name(key.name + ".pub").read_text().split()
    return f"{kind} {value}"
