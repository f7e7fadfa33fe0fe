"""One host: a machine with its own network, processes, name and share of the CPU, and an sshd as its first process.

Its files are this machine's, so that programs are at the same places on all hosts.
"""

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import namespaces
import psutil
from cpu_groups import CpuGroup
from link_process import LinkProcess
from ssh_files import SSHD_PORT, SshFiles

DEVICE = "eth0"
MTU_BYTES = 9000
BOOT_SECONDS = 60.0  # of a busy machine
ENDING_SECONDS = 20.0  # what has been killed is gone by then
POLL_SECONDS = 0.002
LISTENING = "0A"  # in /proc/net/tcp
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

BOOT = 'echo "$0" > /proc/sys/kernel/hostname && exec "$@"'


@dataclass(frozen=True)
class Place:
    """Where a host is: its namespace, its addresses, the coordinator's namespace and device for it."""

    namespace: str
    address: str
    silent_address: str  # a neighbour that does not exist
    near: tuple[str, str]


class Host:
    """Made by Hosts; on from then, until power_off()."""

    def __init__(
        self, name: str, place: Place, group: CpuGroup, files: SshFiles, log: Path, core: int | None = None
    ) -> None:
        self.name = name
        self.address = place.address
        self.port = SSHD_PORT
        self.log = log
        self._core = core
        self._place = place
        self._group = group
        self._files = files
        self._link: LinkProcess | None = None
        self._machine: subprocess.Popen[bytes] | None = None
        self._init: int | None = None  # the pid of its first process

    @property
    def link(self) -> LinkProcess:
        """The link to the coordinator."""
        assert self._link is not None
        return self._link

    def connect(self, seed: str, group: CpuGroup) -> LinkProcess:
        """Start the link, in the group; it answers once the devices are there."""
        self._link = LinkProcess(self._place.near, (self._place.namespace, DEVICE), seed, self.log, group)
        return self._link

    def shape(self, delay_seconds: float = 0.0, rate_mbit: float = 0.0, loss: float = 0.0) -> None:
        """Change the link: delay one way, rate each way (0: no limit), share of the packets lost."""
        for command in (f"delay {delay_seconds}", f"rate {rate_mbit}", f"loss {loss}"):
            self.link.tell(command)

    def partition(self) -> None:
        """From now on packets vanish on the link, and those on their way too; nobody is told."""
        self.link.tell("drop")

    def heal(self) -> None:
        """Packets come through again."""
        self.link.tell("restore")

    def start(self) -> None:
        """Configure the network and start sshd; return at once."""
        namespaces.ip(
            f"addr add {self.address}/24 dev {DEVICE}",
            f"link set {DEVICE} mtu {MTU_BYTES} up",
            namespace=self._place.namespace,
        )
        config = self._files.server_config(self.name)
        enter = ["nsenter", f"--net={namespaces.path(self._place.namespace)}"]
        machine = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "--uts"]
        first = ["sh", "-c", BOOT, self.name, "/usr/sbin/sshd", "-D", "-e", "-f", str(config)]
        with self.log.open("a") as log:
            self._machine = subprocess.Popen(
                self._joined([*enter, *machine, *first]),
                env={"PATH": SYSTEM_PATH},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a terminal's interrupt is not for the hosts
            )

    def await_start(self) -> None:
        """Wait until sshd listens."""
        machine = self._machine
        assert machine is not None

        def listening() -> bool:
            if machine.poll() is not None:
                raise RuntimeError(f"{self.name} has not started: {self.log.read_text()}")
            children = psutil.Process(machine.pid).children()
            self._init = children[0].pid if children else None
            return self._init is not None and _listens(self._init, self.port)

        _wait_until(listening, BOOT_SECONDS, f"sshd of {self.name} does not listen")

    def command(self, argv: Sequence[str | Path]) -> list[str]:
        """Return what runs a program on the host, in its root folder; killing that leaves the program running there."""
        assert self._init is not None
        enter = ["nsenter", "--target", str(self._init), "--net", "--pid", "--mount", "--uts", "--"]
        return self._joined([*enter, *map(str, argv)])

    def processes(self, pattern: str = "") -> list[psutil.Process]:
        """Return the processes on the host whose command line the regular expression finds."""
        found = []
        for pid in self._group.pids():
            try:
                process = psutil.Process(pid)
                if _is_inside(pid) and re.search(pattern, " ".join(process.cmdline())):
                    found.append(process)
            except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
                continue
        return found

    def kill_connections(self) -> None:
        """Kill the sshd processes that serve connections; the listener stays, and so does what was run through them."""
        sessions = [process for process in self.processes("^(/usr/sbin/)?sshd") if process.pid != self._init]
        for process in sessions:
            _kill(process.pid)
        _wait_until(lambda: not any(map(_alive, sessions)), ENDING_SECONDS, f"connections of {self.name} do not end")

    def power_off(self) -> None:
        """Everything on the host dies at once, and no packet tells of it; off already is well."""
        self.link.tell("drop")
        self.stop()
        self.link.tell("detach")  # its connections' ends, which would go on without their processes, go with the device
        namespaces.delete(self._place.namespace)

    def power_on(self) -> None:
        """The machine starts anew, knows of no connection, and answers once this returns."""
        assert self._machine is None, f"{self.name} is on"
        namespaces.create([self._place.namespace])
        self.link.tell("attach")
        self.start()
        self.await_start()
        self.link.tell("restore")

    def reboot(self, down_seconds: float = 0.0) -> None:
        """power_off(), and power_on() after a while."""
        self.power_off()
        time.sleep(down_seconds)
        self.power_on()

    def stop(self) -> None:
        """Kill all processes of the host and reap its first."""
        if self._machine is not None:
            if self._init is not None:
                _kill(self._init)  # the kernel kills the others of a process namespace with its first
            else:
                self._machine.kill()
            self._machine.wait()
        self._machine = self._init = None
        namespaces.kill_all(self._group.pids)

    def wrong_host_key(self) -> AbstractContextManager[None]:
        """The client's known_hosts has another key for the host."""
        return self._files.altered(self.name, host_key=self._files.stranger)

    def unauthorised_key(self) -> AbstractContextManager[None]:
        """The client has a key that the host does not know."""
        return self._files.altered(self.name, identity=self._files.stranger)

    def closed_port(self) -> AbstractContextManager[None]:
        """The client tries a port on which nobody listens."""
        return self._files.altered(self.name, port=self.port + 1)

    def silent_address(self) -> AbstractContextManager[None]:
        """The client tries an address that nobody has."""
        return self._files.altered(self.name, address=self._place.silent_address)

    def _joined(self, argv: list[str]) -> list[str]:
        pinned = [] if self._core is None else ["taskset", "--cpu-list", str(self._core)]
        return self._group.joined([*pinned, *argv])


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _is_inside(pid: int) -> bool:
    """Tell whether a process is in a process namespace below ours; what leads into it is not."""
    (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("NSpid:"))
    return len(line.split()) > 2


def _alive(process: psutil.Process) -> bool:
    return bool(process.is_running())


def _listens(pid: int, port: int) -> bool:
    """Tell whether someone listens on a port in the network of a process."""
    try:
        lines = Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]
    except OSError:  # it is about to start, or has ended
        return False
    return any(line.split()[1].endswith(f":{port:04X}") and line.split()[3] == LISTENING for line in lines)


def _wait_until(reached: Callable[[], bool], seconds: float, failing: str) -> None:
    deadline = time.monotonic() + seconds
    while not reached():
        if time.monotonic() > deadline:
            raise RuntimeError(failing)
        time.sleep(POLL_SECONDS)
