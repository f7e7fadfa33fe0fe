"""The hosts that tests of SSH use are what they say: far, slow, cut off, down; and gone at the end."""

import os
import select
import shlex
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cpu_groups
import namespaces
import psutil
import pytest
from capture import conversations
from cpu_groups import CpuGroup
from host import Host
from network import Hosts, HostSpec, needs_hosts

pytestmark = needs_hosts
ROOT = Path(__file__).parent.parent.parent
DELAY_SECONDS = 0.02
SILENCE_SECONDS = 0.5  # no assertion depends on it: it only gives what should not come a chance
ENDING_SECONDS = 60.0
SPECS = (HostSpec("h1", quota=1.0), HostSpec("h2", quota=0.5))
QUOTA = "from bptcnn.profiling import count_cores; cores = count_cores(); print(cores.usable, cores.quota)"
DATAGRAMS = """
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
    sender.connect((sys.argv[1], 9))
    try:
        for _ in range(20):
            sender.send(bytes(100))
            sender.settimeout(0.01)
            try:
                sender.recv(1)
            except TimeoutError:
                pass
        print("silence")
    except OSError as error:
        print(type(error).__name__)
"""
COUNTING = """
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
    receiver.bind(("0.0.0.0", 7000))
    print("bound", flush=True)
    count = 0
    while receiver.recv(10) != b"end":
        count += 1
    print(count)
"""
SENDING = """
import socket, sys, time
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
    sender.connect((sys.argv[1], 7000))
    for _ in range(200):
        sender.send(b"datagram")
        time.sleep(0.0005)
    while True:
        time.sleep(0.05)
        sender.send(b"end")
"""
KILLED = """
import sys
from pathlib import Path
from network import Hosts, HostSpec
with Hosts(Path(sys.argv[1]), [HostSpec("h1", quota=1.0)]) as hosts:
    print("up", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    with Hosts(tmp_path / "hosts", SPECS, delay_seconds=DELAY_SECONDS, rate_mbit=100) as hosts:
        yield hosts


class Echo:
    """An SSH session that says what it hears."""

    def __init__(self, hosts: Hosts, name: str) -> None:
        self.process = hosts.popen(
            [*hosts.ssh, name, "cat"], bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert self.exchange(b"first\n") == b"first\n"

    def say(self, line: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line)

    def hear(self, seconds: float = ENDING_SECONDS) -> bytes | None:
        """Return what comes, b"" at the end, None if nothing does."""
        assert self.process.stdout is not None
        readable, _, _ = select.select([self.process.stdout], [], [], seconds)
        return self.process.stdout.read(100) if readable else None

    def exchange(self, line: bytes) -> bytes | None:
        self.say(line)
        return self.hear()


def ssh(hosts: Hosts, name: str, *argv: str, **options: Any) -> subprocess.CompletedProcess[str]:
    command = shlex.join(argv)
    return hosts.run([*hosts.ssh, name, command], capture_output=True, text=True, stdin=subprocess.DEVNULL, **options)


def refusal(hosts: Hosts, name: str, *options: str) -> str:
    ended = hosts.run([*hosts.ssh, *options, name, "true"], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert ended.returncode == 255
    return str(ended.stderr)


def datagrams(hosts: Hosts, name: str) -> str:
    """Send datagrams to a port where nobody listens; return what the sender hears of it."""
    argv = [sys.executable, "-c", DATAGRAMS, hosts[name].address]
    return str(hosts.run(argv, capture_output=True, text=True, check=True).stdout.strip())


def left(owner: int) -> list[str]:
    """Return what is there of the hosts that a process has made."""
    prefix = f"{namespaces.PREFIX}-{owner}-"
    names = [*os.listdir(namespaces.NAMED), *cpu_groups.group_names()]
    return [name for name in names if name.startswith(prefix)]


def test_ssh_by_alias(hosts: Hosts) -> None:
    for name in ("h1", "h2"):
        assert ssh(hosts, name, "cat", "/proc/sys/kernel/hostname").stdout == f"{name}\n"
    assert shlex.split(hosts.environment()["BPTCNN_SSH"]) == list(hosts.ssh)


def test_a_host_sees_its_quota(hosts: Hosts) -> None:
    seen = {name: ssh(hosts, name, "env", f"PYTHONPATH={ROOT}", sys.executable, "-c", QUOTA) for name in ("h1", "h2")}
    assert {name: ended.stdout for name, ended in seen.items()} == {"h1": "1 1.0\n", "h2": "1 0.5\n"}


def test_latency(hosts: Hosts) -> None:
    echo = Echo(hosts, "h1")
    for _ in range(5):
        begin = time.monotonic()
        assert echo.exchange(b"x") == b"x"
        assert time.monotonic() - begin >= 2 * DELAY_SECONDS
    hosts["h1"].shape(delay_seconds=2 * DELAY_SECONDS)
    begin = time.monotonic()
    assert echo.exchange(b"x") == b"x"
    assert time.monotonic() - begin >= 4 * DELAY_SECONDS


def test_rate(hosts: Hosts) -> None:
    hosts["h1"].shape(rate_mbit=20)
    begin = time.monotonic()
    assert ssh(hosts, "h1", "head", "-c", "1000000", "/dev/zero").stdout == "\0" * 1_000_000
    assert time.monotonic() - begin >= 1_000_000 * 8 / 20e6


@pytest.mark.parametrize("loss", [0.0, 0.5])
def test_losses(tmp_path: Path, loss: float) -> None:
    with Hosts(tmp_path, SPECS[:1], loss=loss) as hosts:
        command = hosts["h1"].command([sys.executable, "-c", COUNTING])
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as receiver:
            assert receiver.stdout is not None
            assert receiver.stdout.readline() == "bound\n"
            hosts.popen([sys.executable, "-c", SENDING, hosts["h1"].address], stderr=subprocess.DEVNULL)
            arrived = int(receiver.stdout.readline())
        assert arrived == 200 if loss == 0 else 50 < arrived < 150
        hosts["h1"].shape(loss=loss / 10)
        assert ssh(hosts, "h1", "head", "-c", "300000", "/dev/zero").stdout == "\0" * 300_000


def test_a_partition_is_silent_and_heals(hosts: Hosts) -> None:
    one, other = Echo(hosts, "h1"), Echo(hosts, "h2")
    assert datagrams(hosts, "h1") == "ConnectionRefusedError"
    hosts["h1"].partition()
    one.say(b"through\n")
    assert one.hear(SILENCE_SECONDS) is None
    assert other.exchange(b"there\n") == b"there\n"
    assert datagrams(hosts, "h1") == "silence"
    hosts["h1"].heal()
    assert one.hear() == b"through\n"
    assert one.exchange(b"again\n") == b"again\n"


def test_a_power_cut(hosts: Hosts) -> None:
    echo = Echo(hosts, "h1")
    with hosts.capture(hosts.folder / "cut.pcap"):
        hosts["h1"].power_off()
        assert hosts["h1"].processes() == []
        echo.say(b"lost\n")
        assert echo.hear(SILENCE_SECONDS) is None
        assert echo.process.poll() is None
        assert datagrams(hosts, "h1") == "silence"
    sources = {source for _, source, *_ in conversations(hosts.folder / "cut.pcap")}
    assert sources == {"10.77.1.1"}
    hosts["h1"].power_on()
    assert echo.hear() == b""  # the machine that is back knows nothing of the session
    assert echo.process.wait(ENDING_SECONDS) == 255
    assert Echo(hosts, "h1").exchange(b"anew\n") == b"anew\n"


def test_reboot(hosts: Hosts) -> None:
    first = hosts["h1"].processes("sshd")
    hosts["h1"].reboot(down_seconds=0.1)
    assert not any(process.is_running() for process in first)
    assert ssh(hosts, "h1", "echo", "back").stdout == "back\n"
    hosts["h2"].power_off()
    hosts["h2"].power_off()
    hosts["h2"].power_on()
    assert ssh(hosts, "h2", "echo", "back").stdout == "back\n"


def test_cut_connections(hosts: Hosts) -> None:
    echo, other = Echo(hosts, "h1"), Echo(hosts, "h2")
    listener = [process.pid for process in hosts["h1"].processes(r"\[listener\]")]
    hosts["h1"].kill_connections()
    assert echo.hear() == b""
    assert echo.process.wait(ENDING_SECONDS) == 255
    assert [process.pid for process in hosts["h1"].processes(r"\[listener\]")] == listener
    assert ssh(hosts, "h1", "echo", "here").stdout == "here\n"
    assert other.exchange(b"there\n") == b"there\n"


def test_processes(hosts: Hosts) -> None:
    Echo(hosts, "h1")
    (cat,) = hosts["h1"].processes("^cat$")
    assert hosts["h2"].processes("^cat$") == []
    assert cat.pid not in [process.pid for process in psutil.Process().children()]
    command = hosts["h2"].command(["sh", "-c", "read line"])
    with subprocess.Popen(command, stdin=subprocess.PIPE) as reading:
        deadline = time.monotonic() + ENDING_SECONDS
        while not (found := hosts["h2"].processes("read line")):
            assert time.monotonic() < deadline
        assert len(found) == 1
        assert reading.poll() is None


def test_refusals(hosts: Hosts) -> None:
    host = hosts["h1"]
    with host.wrong_host_key():
        assert "Host key verification failed" in refusal(hosts, "h1")
    with host.unauthorised_key():
        assert "Permission denied (publickey)" in refusal(hosts, "h1")
    with host.closed_port():
        assert "Connection refused" in refusal(hosts, "h1")
    with host.silent_address():
        assert "Connection timed out" in refusal(hosts, "h1", "-o", "ConnectTimeout=1")
        assert ssh(hosts, "h2", "echo", "other").stdout == "other\n"
    assert ssh(hosts, "h1", "echo", "well").stdout == "well\n"


def test_a_recording_holds_all_that_passes(hosts: Hosts) -> None:
    with hosts.capture(hosts.folder / "ssh.pcap"):
        assert ssh(hosts, "h1", "echo", "here").stdout == "here\n"
    found = conversations(hosts.folder / "ssh.pcap")
    there = {key: count for key, count in found.items() if key[3:] == ("10.77.1.2", 22)}
    back = {key: count for key, count in found.items() if key[1:3] == ("10.77.1.2", 22)}
    assert len(there) == len(back) == 1
    assert there | back == found
    assert all(key[0] == "tcp" and count > 5 for key, count in found.items())
    with hosts.capture(hosts.folder / "other.pcap"):
        datagrams(hosts, "h2")
    found = conversations(hosts.folder / "other.pcap")
    assert {(key[0], key[1], key[3], key[4]) for key in found if hosts["h2"].address in key} == {
        ("udp", "10.77.2.1", "10.77.2.2", 9),
        ("icmp", "10.77.2.2", "10.77.2.1", 0),
    }


def test_host_file(hosts: Hosts) -> None:
    content = tomllib.loads(hosts.hosts_toml(python="/usr/bin/python3", threads=1).read_text())
    common = {"python": "/usr/bin/python3", "threads": 1}
    assert content == {"host": [{"name": name, "address": name, **common} for name in ("h1", "h2")]}


def test_nothing_is_left(tmp_path: Path) -> None:
    with Hosts(tmp_path, SPECS) as hosts, Hosts(tmp_path / "others", SPECS) as others:
        sessions = [Echo(hosts, "h1"), Echo(others, "h1")]
        outside = [process for found in (hosts, others) for process in found["h1"].processes()]
        hosts["h2"].power_off()
        others["h1"].partition()
    assert left(os.getpid()) == []
    assert not any(process.is_running() for process in outside)
    assert all(session.process.poll() is not None for session in sessions)


@pytest.mark.parametrize(
    ("step", "time"), [("connect", 1), ("connect", 2), ("shape", 1), ("start", 2), ("await_start", 1)]
)
def test_nothing_is_left_of_an_interrupted_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, time: int
) -> None:
    original, calls = getattr(Host, step), []

    def interrupted(host: Host, *arguments: Any) -> Any:
        calls.append(host)
        if len(calls) == time:
            raise KeyboardInterrupt
        return original(host, *arguments)

    monkeypatch.setattr(Host, step, interrupted)
    with pytest.raises(KeyboardInterrupt), Hosts(tmp_path, SPECS):
        pass
    assert left(os.getpid()) == []


def test_a_killed_run_is_swept(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, tmp_path / "killed"],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        descendants = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGKILL)
    assert left(process.pid)
    with Hosts(tmp_path / "next", SPECS):
        assert left(process.pid) == []
    _, alive = psutil.wait_procs(descendants, ENDING_SECONDS)
    assert alive == []


def test_names_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="h1, h1"):
        Hosts(tmp_path, [HostSpec("h1"), HostSpec("h1")])


def test_quotas_of_version_2(tmp_path: Path) -> None:
    assert cpu_groups.mounted(tmp_path) is None
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu io\n")
    CpuGroup("half", tmp_path).create(0.5)
    CpuGroup("free", tmp_path).create(None)
    assert (tmp_path / "cgroup.subtree_control").read_text() == "+cpu"
    assert (tmp_path / "half/cpu.max").read_text() == "50000 100000"
    assert list((tmp_path / "free").iterdir()) == []
