"""`bptcnn checks --hosts FILE`."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from bptcnn_cli import host_checks
from nodes.loopback import Loopback, loopback
from nodes.test_preflight import FACTS
from programs import COMMAND, ROOT, TIMEOUT_SECONDS, bptcnn, environment, refused
from rich.console import Console

from bptcnn.nodes.hosts import Host
from bptcnn.nodes.preflight import HostReport
from bptcnn.nodes.ssh import Problem

GOOD = f"""
[[host]]
address = "good"
python = "{sys.executable}"
env = {{ PYTHONPATH = "{ROOT}" }}
[[host]]
local = true
"""
CLOSED = f"""
[[host]]
name = "gone"
address = "closed"
python = "{sys.executable}"
"""


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loopback]:
    with loopback(tmp_path_factory.mktemp("sshd")) as running:
        yield running


def hosts_file(folder: Path, text: str) -> Path:
    path = folder / "hosts.toml"
    path.write_text(text)
    return path


def test_sound_hosts(sshd: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BPTCNN_SSH", sshd.ssh)
    ended = bptcnn("checks", "--hosts", hosts_file(tmp_path, GOOD), folder=tmp_path)
    assert (ended.code, ended.err) == (0, ""), ended
    assert "\x1b" not in ended.out
    lines = ended.out.splitlines()
    assert lines[1].split() == [
        "host",
        "address",
        "Python",
        "bptcnn",
        "numba",
        "cores",
        "GB",
        "GB",
        "ms",
        "MB/s",
        "MB/s",
    ]
    python = ".".join(map(str, sys.version_info[:3]))
    assert re.match(rf"good +good +(ok|note) +{re.escape(python)} ", lines[2])
    assert re.match(rf"local +this machine +(ok|note) +{re.escape(python)} .* - +- +- *$", lines[3])


def test_a_broken_host_is_told_and_the_others_are_looked_at(
    sshd: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BPTCNN_SSH", sshd.ssh)
    ended = bptcnn("checks", "--hosts", hosts_file(tmp_path, CLOSED + GOOD), folder=tmp_path)
    assert (ended.code, ended.err) == (1, ""), ended
    lines = ended.out.splitlines()
    assert re.match(r"gone +closed +broken( +-){9}", lines[2])
    assert re.match(r"good +good +(ok|note) ", lines[3])
    (told,) = (line for line in lines if line.startswith("gone: "))
    assert told.startswith("gone: cannot be reached, nothing listens on its SSH port: see that it is on, and that ")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("", "names no host"), ("[[host]]\naddress = '-x'", "address is '-x'"), ("[[host", "is not TOML")],
)
def test_a_wrong_file_is_refused(text: str, wanted: str, tmp_path: Path) -> None:
    path = hosts_file(tmp_path, text)
    line = refused("checks", "--hosts", path, folder=tmp_path)
    assert str(path) in line
    assert wanted in line


SLOW = f"""
timeout = 60
[[host]]
name = "slow"
address = "good"
python = "{sys.executable}"
env = {{ PYTHONPATH = "{ROOT}" }}
"""


def test_a_login_that_takes_too_long_names_the_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with loopback(tmp_path) as here:
        (here.folder / "home" / ".bashrc").write_text("sleep 3.5\n")
        monkeypatch.setenv("BPTCNN_SSH", here.ssh)
        path = hosts_file(tmp_path, SLOW)
        ended = bptcnn("checks", "--hosts", path, "--host-timeout", "1", folder=tmp_path)
        assert ended.code == 1, ended
        (told,) = (line for line in ended.out.splitlines() if line.startswith("slow: "))
        assert "did not answer" in told
        assert "give it more than 1 s: --host-timeout, or timeout in the hosts file" in told
        ended = bptcnn("checks", "--hosts", path, folder=tmp_path)
        assert ended.code == 0, ended


def test_a_timeout_that_is_none_is_refused(tmp_path: Path) -> None:
    path = hosts_file(tmp_path, GOOD)
    wanted = "must be a number of seconds from 1 to 3600, not 0.0"
    assert refused("checks", "--hosts", path, "--host-timeout", "0", folder=tmp_path) == f"--host-timeout {wanted}"
    assert refused("train", "--hosts", path, "--host-timeout", "0", folder=tmp_path) == f"host timeout {wanted}"
    assert "--host-timeout goes with --hosts" in refused("checks", "--host-timeout", "5", folder=tmp_path)


def test_no_file_and_no_ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert refused("checks", "--hosts", "none.toml", folder=tmp_path) == "no hosts file at none.toml"
    monkeypatch.setenv("BPTCNN_SSH", "/no/such/ssh")
    line = refused("checks", "--hosts", hosts_file(tmp_path, GOOD), folder=tmp_path)
    assert line.startswith("cannot run /no/such/ssh: ")


def test_the_help_has_a_file_that_works(tmp_path: Path) -> None:
    ended = bptcnn("checks", "--help", folder=tmp_path)
    text = "\n".join(line.strip() for line in ended.out.splitlines())
    example = text[text.index("# hosts.toml") : text.index("\n\n", text.index("local = true"))]
    example = example.partition("\nA host may")[0]
    hosts = host_checks.read_hosts(hosts_file(tmp_path, example))
    assert [host.name for host in hosts] == ["fast.example.org", "attic", "local"]


def test_on_a_terminal_it_waits_visibly_and_in_colour(sshd: Loopback, tmp_path: Path) -> None:
    main, terminal = os.openpty()
    values = {**environment(), "BPTCNN_SSH": sshd.ssh, "TERM": "xterm-256color", "COLUMNS": "100"}
    command = [*COMMAND, "checks", "--hosts", str(hosts_file(tmp_path, CLOSED))]
    process = subprocess.Popen(command, cwd=tmp_path, env=values, stdin=terminal, stdout=terminal, stderr=terminal)
    os.close(terminal)
    shown = b""
    try:
        while True:
            try:
                shown += os.read(main, 4096)
            except OSError:  # EIO: nobody has the terminal open any more
                break
        assert process.wait(TIMEOUT_SECONDS) == 1
    finally:
        process.kill()
        process.wait()
        os.close(main)
    assert b"looking at 1 host" in shown
    assert b"\x1b[1;31mbroken" in shown


@pytest.mark.parametrize("width", [80, 100, 120])
def test_the_table_fits(width: int, capsys: pytest.CaptureFixture[str]) -> None:
    terminal = Console(width=width)
    reports = [
        HostReport(Host("workstation", "ann@workstation.example.org", "/p", 2222), FACTS, ()),
        HostReport(Host("local", local=True), FACTS, (Problem("x", "y", hard=False),)),
        HostReport(Host("c.example.org", "c.example.org", "/p"), None, (Problem("x", "y"),)),
    ]
    terminal.print(host_checks._table(reports, terminal.width >= 100))
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= width for line in lines)
    whole = "".join(line.replace(" ", "") for line in lines)
    for text in ("1.00", "8.0", "100", "broken", "note", "Python"):
        assert text in whole, lines
    assert "…" not in whole, "a number was cut"
