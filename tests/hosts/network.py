"""Several hosts on one machine, real as far as SSH, network and CPU go.

    with Hosts(folder, [HostSpec("h1", quota=1.0), HostSpec("h2", quota=0.5)], delay_seconds=0.010) as hosts:
        hosts.run([*hosts.ssh, "h1", "echo", "here"], check=True)

Each host and the coordinator have a network namespace and a share of the CPU of their own; a link of its own joins each
host to the coordinator:

    coordinator 10.77.1.1 --- link.py: delay, rate, loss, cuts --- 10.77.1.2 h1: sshd, a control group with a quota
                10.77.2.1 --- link.py ---------------------------- 10.77.2.2 h2

No packet leaves these namespaces. Everything has gone when the context has ended; what a killed run has left is swept
by the next. Needs root: tests that use hosts are marked `needs_hosts`.
"""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import namespaces
import pytest
import tomli_w
from capture import recording
from cpu_groups import CpuGroup, mounted
from host import MTU_BYTES, SYSTEM_PATH, Host, Place
from ssh_files import SshFiles

PROGRAMS = ("ip", "nsenter", "unshare", "taskset", "ssh", "ssh-keygen", "sshd", "tcpdump")
CAPABILITIES = {"NET_ADMIN": 12, "SYS_ADMIN": 21, "SYS_NICE": 23}
SEPARATION = Path("/run/sshd")  # sshd does not start without this folder
SSH_VARIABLE = "BPTCNN_SSH"


def lacking() -> list[str]:
    """Return what this machine lacks for hosts."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    held = int(status["CapEff"], 16)
    lacks = [] if os.geteuid() == 0 else ["root"]
    lacks += [name for name, bit in CAPABILITIES.items() if not held >> bit & 1]
    lacks += [program for program in PROGRAMS if shutil.which(program, path=SYSTEM_PATH) is None]
    lacks += [] if os.access("/dev/net/tun", os.R_OK | os.W_OK) else ["/dev/net/tun"]
    root = mounted()
    return lacks + ([] if root is not None and os.access(root, os.W_OK) else ["writable CPU control groups"])


needs_hosts = pytest.mark.skipif(bool(lacking()), reason=f"hosts need {', '.join(lacking())}")


@dataclass(frozen=True)
class HostSpec:
    """A host: its alias for ssh, how much CPU it may use, in cores (None: all), and on which core (None: any)."""

    name: str
    quota: float | None = None
    core: int | None = None


class Hosts:
    """The hosts, and the coordinator's place in their network.

    One-way delay, rate each way in Mbit/s (0: no limit) and the share of packets lost are those of every link;
    `Host.shape` changes them. Losses are drawn from the seed. Keys, configurations and logs are in `folder`.
    """

    def __init__(
        self,
        folder: Path,
        specs: Sequence[HostSpec],
        *,
        delay_seconds: float = 0.0,
        rate_mbit: float = 0.0,
        loss: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.folder = folder
        self.specs = tuple(specs)
        if len({spec.name for spec in specs}) < len(specs):
            raise ValueError(f"hosts with the same name: {', '.join(spec.name for spec in specs)}")
        self._shape = (delay_seconds, rate_mbit, loss)
        self._seed = seed
        self._name = namespaces.unique()
        self._coordinator = f"{self._name}-c"
        self._group = CpuGroup(self._coordinator)
        self._hosts: dict[str, Host] = {}
        self._programs: list[subprocess.Popen[Any]] = []
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        namespaces.sweep()
        SEPARATION.mkdir(mode=0o755, exist_ok=True)
        with ExitStack() as stack:
            self._build(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def __getitem__(self, name: str) -> Host:
        return self._hosts[name]

    @property
    def ssh(self) -> tuple[str, ...]:
        """The SSH client with the configuration that knows the hosts by their names."""
        return ("ssh", "-F", str(self.folder / "ssh_config"))

    def environment(self) -> dict[str, str]:
        """This process's environment, with the SSH client to use."""
        return {**os.environ, SSH_VARIABLE: shlex.join(self.ssh)}

    def command(self, argv: Sequence[str | Path]) -> list[str]:
        """Return what runs a program on the coordinator's machine; it takes that process's place."""
        enter = ["nsenter", f"--net={namespaces.path(self._coordinator)}", "--"]
        return self._group.joined([*enter, *map(str, argv)])

    def run(self, argv: Sequence[str | Path], **options: Any) -> subprocess.CompletedProcess[Any]:
        """Run a program in the coordinator's network as subprocess.run does; `env` defaults to environment()."""
        return subprocess.run(self.command(argv), **{"env": self.environment(), **options})

    def popen(self, argv: Sequence[str | Path], **options: Any) -> subprocess.Popen[Any]:
        """Start a program in the coordinator's network; it is killed and reaped with the hosts at the latest."""
        program = subprocess.Popen(self.command(argv), **{"env": self.environment(), **options})
        self._programs.append(program)
        return program

    def capture(self, path: Path) -> AbstractContextManager[None]:
        """Record what passes the coordinator's ends of all links to a pcap file, for `capture.conversations`."""
        return recording(namespaces.path(self._coordinator), path)

    def hosts_toml(self, python: str = sys.executable, **extra: object) -> Path:
        """Write a host file with all hosts, `extra` in each entry; return its path."""
        entries: list[Mapping[str, object]] = [
            {"name": spec.name, "address": spec.name, "python": python, **extra} for spec in self.specs
        ]
        path = self.folder / "hosts.toml"
        path.write_text(tomli_w.dumps({"host": entries}))
        return path

    def _build(self, stack: ExitStack) -> None:
        places = {
            spec.name: Place(
                namespace=f"{self._name}-{spec.name}",
                address=f"10.77.{number}.2",
                silent_address=f"10.77.{number}.3",
                near=(self._coordinator, f"link{number}"),
            )
            for number, spec in enumerate(self.specs, 1)
        }
        files = SshFiles(self.folder, {name: place.address for name, place in places.items()})
        namespace_names = [self._coordinator, *(place.namespace for place in places.values())]
        for name in namespace_names:
            stack.callback(namespaces.delete, name)
        namespaces.create(namespace_names)
        stack.callback(self._group.remove)
        self._group.create(quota=len(os.sched_getaffinity(0)))
        for spec in self.specs:
            group = CpuGroup(places[spec.name].namespace)
            stack.callback(group.remove)
            group.create(spec.quota)
            host = Host(spec.name, places[spec.name], group, files, self.folder / f"{spec.name}.log", spec.core)
            self._hosts[spec.name] = host
            stack.enter_context(host.connect(f"{self._seed} {spec.name}", self._group))
        for host in self._hosts.values():
            host.link.await_answer()
            host.shape(*self._shape)
        lines = []
        for number in range(1, len(self.specs) + 1):
            lines += [
                f"addr add 10.77.{number}.1/24 dev link{number}",
                f"link set link{number} mtu {MTU_BYTES} up",
            ]
        namespaces.ip(*lines, namespace=self._coordinator)
        for host in self._hosts.values():
            stack.callback(host.stop)
            host.start()
        for host in self._hosts.values():
            host.await_start()
        stack.callback(self._end_programs)

    def _end_programs(self) -> None:
        for program in self._programs:
            program.kill()
            program.wait()
            for pipe in (program.stdin, program.stdout, program.stderr):
                if pipe is not None:
                    pipe.close()
