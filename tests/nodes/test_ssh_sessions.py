"""Hosts behind a real sshd, whatever the user's ssh configuration and the hosts' start-up files do."""

import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from nodes.agents import agent, ready, submissions
from nodes.loopback import Loopback, loopback

from bptcnn.nodes.hosts import Host
from bptcnn.nodes.preflight import preflight
from bptcnn.nodes.ssh import Problem, ssh_command
from bptcnn.nodes.ssh_options import _OPTIONS, _version

ROOT = Path(__file__).parent.parent.parent
SECONDS = 60.0
HIJACKING = (  # each of which makes a host unusable, or opens or asks something, where it counts
    "RemoteCommand tmux",
    "RequestTTY force",
    "SessionType none",
    "SessionType subsystem",
    "StdinNull yes",
    "ForkAfterAuthentication yes",
    "Tunnel yes",
    "LogLevel DEBUG3",
    "LogVerbose *:*",
    "VisualHostKey yes",
    "PermitLocalCommand yes\nLocalCommand touch {folder}/ran",
    "ControlMaster auto\nControlPath {folder}/master\nControlPersist yes",
    "ConnectionAttempts 100",
    "UpdateHostKeys ask",
    "AddKeysToAgent ask",
    "BatchMode no",
    "LocalForward {taken} localhost:1",
    "DynamicForward {taken}",
    "RemoteForward {taken} localhost:1",
)


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loopback]:
    with loopback(tmp_path_factory.mktemp("sshd")) as running:
        yield running


@pytest.fixture(scope="module")
def taken() -> Iterator[int]:
    """A port that somebody listens on, by either protocol: ssh is content with one of them."""
    with ExitStack() as stack:
        port = int(stack.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1])
        with suppress(OSError):  # a machine without IPv6
            stack.enter_context(socket.create_server(("::1", port), family=socket.AF_INET6))
        yield port


def at(alias: str, **env: str) -> Host:
    return Host(alias, alias, sys.executable, env=tuple({"PYTHONPATH": str(ROOT), **env}.items()), timeout=SECONDS)


def configured(sshd: Loopback, folder: Path, *lines: str) -> str:
    """Return the value for BPTCNN_SSH, of a configuration that has these lines for every host."""
    config = folder / "config"
    config.write_text(f"Include {sshd.folder / 'config'}\nHost *\n" + "\n".join(lines) + "\n")
    return shlex.join(["ssh", "-F", str(config)])


def known(line: str) -> bool:
    """Whether this machine's ssh knows the option."""
    command = [
        "ssh",
        "-F",
        "none",
        "-G",
        *(f"-o{part.replace(' ', '=', 1)}" for part in line.splitlines()),
        "x",
        "true",
    ]
    return subprocess.run(command, capture_output=True).returncode == 0


def of_one(host: Host) -> Problem | None:
    """Look at a host; return what keeps it from training."""
    (report,) = preflight([host])
    return next((problem for problem in report.problems if problem.hard), None)


@pytest.mark.parametrize("line", HIJACKING)
def test_a_users_configuration_does_not_hijack_a_session(
    line: str, sshd: Loopback, taken: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = line.format(folder=tmp_path, taken=taken)
    if not known(line):
        pytest.skip("this ssh does not know the option")
    monkeypatch.setenv("BPTCNN_SSH", configured(sshd, tmp_path, line))
    assert of_one(at("good")) is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config"], "something else ran, or stays"


def everything(folder: Path, taken: int) -> list[str]:
    """Return all of it that goes together; of options that are given twice the first counts."""
    lines = [line.format(folder=folder, taken=taken) for line in HIJACKING]
    return [line for line in lines if known(line)]


def test_an_agent_trains_whatever_the_configuration_says(
    sshd: Loopback, taken: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BPTCNN_SSH", configured(sshd, tmp_path, *everything(tmp_path, taken)))
    with agent(tmp_path, address="good") as bench:
        ready(bench.node)
        bench.node.send(bench.work(count=32))
        submissions(bench.node, 32)
        log = bench.log.read_text()
    assert "debug1" not in log
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "master").exists()


def test_many_connections_do_not_fight_for_the_users_forwards(
    sshd: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The port is free, and stays so: it is there for the user's own session."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = int(listener.getsockname()[1])
    monkeypatch.setenv("BPTCNN_SSH", configured(sshd, tmp_path, f"LocalForward {port} localhost:1"))
    reports = preflight([replace(at("good"), name=f"h{number}") for number in range(8)])
    assert [report.usable for report in reports] == [True] * 8
    with agent(tmp_path, address="good") as bench:
        ready(bench.node)
        with socket.socket() as tried:
            assert tried.connect_ex(("127.0.0.1", port)) != 0, "our connection took the user's port"


def test_a_host_that_refuses_sockets_is_told_where_the_user_has_forwards(
    sshd: Loopback, taken: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BPTCNN_SSH", configured(sshd, tmp_path, f"LocalForward {taken} localhost:1"))
    problem = of_one(at("narrow"))
    assert problem is not None
    assert problem.what == "it refuses to forward sockets"


@pytest.mark.parametrize(
    ("told", "version"),
    [
        ("OpenSSH_9.2p1 Debian-2+deb12u10, OpenSSL 3.0.19 27 Jan 2026", (9, 2)),
        ("OpenSSH_10.0p2, LibreSSL 4.1", (10, 0)),
        ("OpenSSH_7.4p1, OpenSSL 1.0.2k-fips", (7, 4)),
        ("OpenSSH_for_Windows_8.6p1", (8, 6)),
        ("another ssh", (0, 0)),
    ],
)
def test_no_client_is_given_what_it_does_not_know(
    told: str, version: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = tmp_path / "ssh"
    client.write_text(f"#!/bin/sh\necho '{told}' >&2\n")
    client.chmod(0o755)
    monkeypatch.setenv("BPTCNN_SSH", str(client))
    assert _version((str(client),)) == version
    given = ssh_command(Host("a", "a", "/p"), [])
    for option, since, _ in _OPTIONS:
        assert (option in given) == (since <= version), option
    assert not any("IgnoreUnknown" in word for word in given), "it would replace the user's own"


@pytest.mark.parametrize(
    ("file", "text", "what"),
    [
        (".bashrc", "echo Welcome\necho 'disk is 90 % full' >&2\n", None),
        (".bashrc", "export LC_ALL=xx_YY.UTF-8\nbash -c true\n", None),
        (
            ".bashrc",
            "export LC_ALL=xx_YY.UTF-8\nbash -c 'echo the vault is sealed >&2'\nexit 3\n",
            "the vault is sealed",
        ),
        (".bashrc", "exec tmux\n", "not a terminal: keep its shell's start-up files"),
        (".bashrc", "exit 0\n", "start-up files"),
    ],
)
def test_what_start_up_files_do(
    file: str, text: str, what: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with loopback(tmp_path) as here:
        (here.folder / "home" / file).write_text(text)
        monkeypatch.setenv("BPTCNN_SSH", here.ssh)
        probe = subprocess.run([*shlex.split(here.ssh), "good", "true"], capture_output=True, stdin=subprocess.DEVNULL)
        if what is not None and probe.returncode == 0 and "exit 0" not in text:
            pytest.skip("this login shell does not read .bashrc")
        problem = of_one(at("good"))
    if what is None:
        assert problem is None
    else:
        assert problem is not None
        assert what in f"{problem.what}: {problem.remedy}"
        assert "setlocale" not in problem.what
