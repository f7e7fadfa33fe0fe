"""Many connections through one machine that has room for few, and logins that take their time."""

import shlex
import sys
import threading
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from nodes.agents import agent, ready
from nodes.loopback import Loopback, loopback

from bptcnn.nodes import doors
from bptcnn.nodes.doors import Door, pauses, reaching_seconds
from bptcnn.nodes.hosts import Host
from bptcnn.nodes.preflight import preflight
from bptcnn.nodes.ssh import resolve

ROOT = Path(__file__).parent.parent.parent
LONG = 300.0  # seconds, of a busy machine
MORE = 12  # aliases behind the jump host


def at(alias: str, timeout: float = LONG) -> Host:
    return Host(alias, alias, sys.executable, env=(("PYTHONPATH", str(ROOT)),), timeout=timeout)


def behind(jump: Loopback, there: Loopback, folder: Path, aliases: int) -> str:
    """Return the value for BPTCNN_SSH, of a configuration with aliases of one host behind a jump host."""
    common = (there.folder / "config").read_text().partition("Host good\n")[2].partition("Host ")[0]
    lines = [f"Host far{number}\n    ProxyJump jump\n{common}" for number in range(aliases)]
    door = (jump.folder / "config").read_text().partition("Host good\n")[2].partition("Host ")[0]
    (folder / "config").write_text("".join(lines) + f"Host jump\n{door}")
    return shlex.join(["ssh", "-F", str(folder / "config")])


@pytest.mark.parametrize(
    ("aliases", "startups"), [(MORE, "2:100:3"), pytest.param(40, "10:30:100", marks=pytest.mark.slow)]
)
def test_all_hosts_behind_a_crowded_jump_host_are_reached(
    aliases: int, startups: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "jump").mkdir()
    (tmp_path / "there").mkdir()
    with loopback(tmp_path / "jump", MaxStartups=startups) as jump, loopback(tmp_path / "there") as there:
        monkeypatch.setenv("BPTCNN_SSH", behind(jump, there, tmp_path, aliases))
        hosts = [at(f"far{number}") for number in range(aliases)]
        assert len({resolve(host).door for host in hosts}) == 1
        reports = preflight(hosts)
        assert [report.usable for report in reports] == [True] * aliases, [report.problems for report in reports]
        if aliases == MORE:
            assert "MaxStartups" in (jump.folder / "sshd.log").read_text(), "nobody was turned away"


def test_agents_come_through_a_crowded_jump_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "jump").mkdir()
    (tmp_path / "there").mkdir()
    with (
        loopback(tmp_path / "jump", MaxStartups="1:100:1") as jump,
        loopback(tmp_path / "there") as there,
        ExitStack() as stack,
    ):
        monkeypatch.setenv("BPTCNN_SSH", behind(jump, there, tmp_path, 4))
        folders = [tmp_path / f"node{number}" for number in range(4)]
        for folder in folders:
            folder.mkdir()
        benches = [stack.enter_context(agent(folder, address=f"far{number}")) for number, folder in enumerate(folders)]
        for bench in benches:
            ready(bench.node)
        assert "MaxStartups" in (jump.folder / "sshd.log").read_text(), "nobody was turned away"


def test_a_machine_that_always_closes_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = "echo bash: warning: setlocale: LC_ALL: cannot change locale >&2"
    proxy = f"sh -c 'read banner; echo the vault is sealed >&2; {noise}'"
    (tmp_path / "config").write_text(f"Host far\n    ProxyCommand {proxy}\n")
    monkeypatch.setenv("BPTCNN_SSH", shlex.join(["ssh", "-F", str(tmp_path / "config")]))
    (report,) = preflight([at("far", timeout=2.0)])
    (problem,) = report.problems
    assert problem.what == "cannot be reached, it closed the connection: the vault is sealed"
    assert problem.passing


def test_a_slow_login_has_the_time_that_it_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with loopback(tmp_path) as here:
        (here.folder / "home" / ".bashrc").write_text("sleep 4\n")
        monkeypatch.setenv("BPTCNN_SSH", here.ssh)
        (report,) = preflight([at("good", timeout=1.0)])
        (problem,) = report.problems
        assert problem.what.startswith("did not answer (given up after 2.")
        assert "give it more than 1 s: --host-timeout, or timeout in the hosts file" in problem.remedy
        (report,) = preflight([at("good")])
        assert report.usable, report.problems


def test_a_login_of_14_s_passes_without_being_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with loopback(tmp_path) as here:
        (here.folder / "home" / ".bashrc").write_text("sleep 14; echo slept >> ~/slept\n")
        monkeypatch.setenv("BPTCNN_SSH", here.ssh)
        (report,) = preflight([Host("good", "good", sys.executable, env=(("PYTHONPATH", str(ROOT)),))])
        if not (here.folder / "home" / "slept").exists():
            pytest.skip("this login shell does not read .bashrc")
        assert report.usable, report.problems


def never() -> bool:
    return False


def test_a_door_lets_in_so_many_and_narrows_where_the_server_has_no_room() -> None:
    door = Door(4)
    turns = [door.enter(LONG, never) for _ in range(4)]
    looks = iter([False, True])
    assert door.enter(LONG, lambda: next(looks)) is None, "a fifth got in"
    first, second, third, fourth = turns
    assert first is not None
    assert second is not None
    assert third is not None
    assert fourth is not None
    first.leave(turned_away=True)  # 2
    first.leave()
    assert door.enter(LONG, lambda: next(iter([True]))) is None
    second.leave(turned_away=True)  # 1
    third.leave(turned_away=True)
    fourth.leave()  # 2
    again = [door.enter(LONG, never) for _ in range(2)]
    assert None not in again
    looks = iter([False, True])
    assert door.enter(LONG, lambda: next(looks)) is None


def test_who_does_not_leave_a_door_holds_it_up_for_its_time_only() -> None:
    door = Door(1)
    assert door.enter(0.0, never) is not None
    assert door.enter(LONG, never) is not None


def test_who_waits_at_a_door_gets_in_when_another_leaves() -> None:
    door, entered = Door(1), threading.Event()
    turn = door.enter(LONG, never)
    assert turn is not None

    def wait() -> None:
        found = door.enter(LONG, never)
        assert found is not None
        entered.set()

    thread = threading.Thread(target=wait)
    thread.start()
    assert not entered.is_set()
    turn.leave()
    thread.join()
    assert entered.is_set()


def test_pauses_grow_to_a_bound_and_come_apart() -> None:
    first, second = pauses(), pauses()
    drawn = [next(first) for _ in range(20)]
    assert 0.0 < drawn[0] < 0.4
    assert min(drawn[-5:]) >= 2.0
    assert max(drawn) <= 6.0
    assert drawn[:5] != [next(second) for _ in range(5)]


def test_the_time_to_reach_hosts_counts_their_turns() -> None:
    assert reaching_seconds([]) == 30.0
    hosts = [replace(at("a", timeout=10.0), name=f"h{number}") for number in range(9)]
    assert reaching_seconds(hosts[:8]) == 10.0
    assert reaching_seconds(hosts) == 20.0
    assert doors.door_to("a") is doors.door_to("a") is not doors.door_to("b")
