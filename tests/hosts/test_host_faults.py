"""Faults in runs over hosts: each is noticed in time, nothing hangs, every sample is trained once per epoch."""

import contextlib
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from host_run import LIMIT_SECONDS, NOTICED_SECONDS, Run, nothing_left, wait_until, write_data
from network import Hosts, HostSpec, needs_hosts

pytestmark = needs_hosts
SPECS = [HostSpec("h1", quota=1.0), HostSpec("h2", quota=0.5)]
NAMES = ("h1", "h2")
POLLING_SECONDS = 1.0  # of a busy machine, on top of what the design allows
MANY = "100000"  # epochs: the run is ended otherwise


def is_noticed(run: Run, name: str, fault: Callable[[], None]) -> None:
    """Cause a fault; it must be noticed in time."""
    before = run.output().count(f"lost {name}")
    fault()
    wait_until(lambda: run.output().count(f"lost {name}") > before, NOTICED_SECONDS + POLLING_SECONDS, run.output)


def is_taken_in_again(run: Run, name: str) -> None:
    """Wait until a host trains again, for the latest time that it was lost."""

    def back() -> bool:
        return run.output().count(f"{name} is back") >= run.output().count(f"lost {name}")

    wait_until(back, LIMIT_SECONDS, run.output)


def finish(run: Run) -> None:
    """End a run that would go on for ever; every complete epoch trained every sample once."""
    epochs = run.output().count("epoch ")
    wait_until(lambda: run.output().count("epoch ") > epochs + 1, LIMIT_SECONDS, run.output)
    run.signal(signal.SIGTERM)
    run.ends(code=130)
    ended = len((run.folder / "metrics.csv").read_text().splitlines()) - 1
    hosts = run.command[run.command.index("--hosts") + 1]
    options = ("--resume", "--run-dir", str(run.folder), "--hosts", str(hosts), "--epochs", str(ended + 1))
    again = run.hosts.run(
        [*map(str, run.command[:4]), *options], capture_output=True, text=True, timeout=LIMIT_SECONDS, check=False
    )
    assert again.returncode == 0, again.stdout + again.stderr
    run.trained(ended + 1)


def test_hosts_are_lost_and_taken_in_again(tmp_path: Path) -> None:
    """One run: an agent killed or stopped, a connection cut, a partition, a power cut, both hosts; a resumption."""
    with Hosts(tmp_path / "net", SPECS) as hosts:
        run = Run(hosts, write_data(tmp_path), tmp_path / "run", "--epochs", MANY)
        run.says("epoch 1/")
        agent = run.agent("h2")
        is_noticed(run, "h2", agent.kill)
        is_taken_in_again(run, "h2")
        is_noticed(run, "h1", hosts["h1"].kill_connections)
        is_taken_in_again(run, "h1")
        agent = run.agent("h2")
        is_noticed(run, "h2", hosts["h2"].partition)
        wait_until(lambda: not agent.is_running(), NOTICED_SECONDS + POLLING_SECONDS, lambda: "the agent goes on")
        hosts["h2"].heal()
        is_taken_in_again(run, "h2")
        is_noticed(run, "h1", hosts["h1"].power_off)
        hosts["h1"].power_on()
        is_taken_in_again(run, "h1")
        agent = run.agent("h2")
        is_noticed(run, "h2", agent.suspend)
        wait_until(
            lambda: not agent.is_running(), NOTICED_SECONDS + POLLING_SECONDS, lambda: "the agent is still there"
        )
        is_taken_in_again(run, "h2")
        for name in NAMES:
            hosts[name].kill_connections()
        wait_until(lambda: run.output().count("is back") >= 7, LIMIT_SECONDS, run.output)
        finish(run)
        nothing_left(hosts, NAMES)


def test_a_short_partition_is_survived(tmp_path: Path) -> None:
    with Hosts(tmp_path / "net", SPECS) as hosts:
        run = Run(hosts, write_data(tmp_path), tmp_path / "run", "--epochs", "12")
        run.says("epoch 1/")
        hosts["h2"].partition()
        time.sleep(1.0)  # the fault itself
        hosts["h2"].heal()
        run.ends()
        run.trained(12)


def test_a_coordinator_that_is_stopped(tmp_path: Path) -> None:
    """For a moment: nobody is lost. For longer than agents bear silence: they end, and are started again."""
    with Hosts(tmp_path / "net", SPECS) as hosts:
        run = Run(hosts, write_data(tmp_path), tmp_path / "run", "--epochs", MANY)
        run.says("epoch 1/")
        run.signal(signal.SIGSTOP)
        time.sleep(3.0)
        run.signal(signal.SIGCONT)
        epochs = run.output().count("epoch ")
        wait_until(lambda: run.output().count("epoch ") > epochs + 1, LIMIT_SECONDS, run.output)
        assert "lost" not in run.output()
        agents = [run.agent(name) for name in NAMES]
        run.signal(signal.SIGSTOP)
        wait_until(
            lambda: not any(agent.is_running() for agent in agents),
            NOTICED_SECONDS + POLLING_SECONDS,
            lambda: "an agent goes on",
        )
        run.signal(signal.SIGCONT)
        for name in NAMES:
            run.says(f"{name} is back")
        assert "which do not count; hosts that have given it up meanwhile are started again" in run.output()
        finish(run)
        nothing_left(hosts, NAMES)


def test_a_host_that_is_down_at_the_start_joins_later(tmp_path: Path) -> None:
    with Hosts(tmp_path / "net", SPECS) as hosts:
        hosts["h2"].power_off()
        run = Run(hosts, write_data(tmp_path), tmp_path / "run", "--epochs", MANY)
        run.says("h2 is left out for now")
        run.says("epoch 1/")
        hosts["h2"].power_on()
        run.says("h2 is back")
        finish(run)


@pytest.mark.parametrize("phase", ["starting", "training", "partitioned"])
def test_no_agent_outlives_its_coordinator(tmp_path: Path, phase: str) -> None:
    with Hosts(tmp_path / "net", SPECS) as hosts:
        run = Run(hosts, write_data(tmp_path), tmp_path / "run", "--epochs", MANY)
        if phase == "starting":
            for name in NAMES:
                run.agent(name)
        else:
            run.says("epoch 1/")
        if phase == "partitioned":
            hosts["h1"].partition()
        run.signal(signal.SIGKILL)
        nothing_left(hosts, NAMES, NOTICED_SECONDS + POLLING_SECONDS)

        def clients() -> list[str]:
            lines = [" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]
            return [line for line in lines if "BatchMode=yes" in line and str(tmp_path) in line]

        wait_until(lambda: not clients(), POLLING_SECONDS, lambda: f"ssh goes on: {clients()}")
        run.ends(code=-signal.SIGKILL)


def test_an_interrupted_run_leaves_nothing(tmp_path: Path) -> None:
    with Hosts(tmp_path / "net", SPECS) as hosts:
        run = Run(hosts, write_data(tmp_path), tmp_path / "run", "--epochs", MANY, "--update", "sgwu")
        run.says("epoch 1/")
        is_noticed(run, "h2", run.agent("h2").kill)
        is_taken_in_again(run, "h2")
        run.signal(signal.SIGINT)
        assert "keeps the last checkpoint" in run.ends(code=130)
        nothing_left(hosts, NAMES)


def poisoned(hosts: Hosts, nodes: str, first: int, count: int) -> Path:
    """Write a hosts file with which nodes diverge: see tests/training/poison/sitecustomize.py."""
    poison = Path(__file__).parent.parent / "training" / "poison"
    return hosts.hosts_toml(env={"PYTHONPATH": str(poison), "POISON": f"diverge {nodes} {first} {count}"})


@pytest.mark.parametrize("update", ["agwu", pytest.param("sgwu", marks=pytest.mark.slow)])
def test_what_diverged_on_a_host_is_trained_again(tmp_path: Path, update: str) -> None:
    """In the middle of a run, with submissions under way: on both hosts, twice in a row."""
    with Hosts(tmp_path / "net", SPECS, delay_seconds=0.02) as hosts:
        toml = poisoned(hosts, "0,1", 20, 2)
        run = Run(hosts, write_data(tmp_path), tmp_path / "run", "--epochs", "3", "--update", update, toml=toml)
        output = run.ends()
        assert output.count("refused a submission of h1: the loss became nan") == 2
        assert output.count("refused a submission of h2: the loss became nan") == 2
        assert "lost h" not in output
        assert [node["refused"] for node in run.trained(3)["nodes"]] == [2, 2]
        assert "is refused" in (run.folder / "logs" / "h1.log").read_text()


def test_a_run_whose_hosts_diverge_for_good_ends(tmp_path: Path) -> None:
    """Hosts that are lost for it are not taken in again."""
    with Hosts(tmp_path / "net", SPECS) as hosts:
        toml = poisoned(hosts, "0,1", 20, 10**9)
        run = Run(hosts, write_data(tmp_path), tmp_path / "run", "--epochs", MANY, toml=toml)
        output = run.ends(code=2)
        assert "training failed: every node is lost" in output.splitlines()[-1]
        assert "the loss became nan, 3 times in a row: training diverged" in output.splitlines()[-1]
        assert "is back" not in output
        assert [node["refused"] for node in run.summary()["nodes"]] == [3, 3]
        nothing_left(hosts, NAMES)


def random_faults(hosts: Hosts, run: Run, seed: int, count: int) -> None:
    """Let bad things happen to one host after the other, at random moments."""
    chosen = random.Random(seed)
    for _ in range(count):
        host = hosts[chosen.choice(NAMES)]
        match chosen.randrange(6):
            case 0:
                host.kill_connections()
            case 1:
                host.reboot(down_seconds=chosen.uniform(0.0, 3.0))
            case 2:
                host.partition()
                time.sleep(chosen.uniform(0.1, 6.0))
                host.heal()
            case 3:
                for process in host.processes(r"bptcnn\.nodes\.agent"):
                    process.kill()
            case 4:
                agents = host.processes(r"bptcnn\.nodes\.agent")
                for signal_number in (signal.SIGSTOP, signal.SIGCONT):  # before or after it is found silent
                    for process in agents:
                        with contextlib.suppress(psutil.NoSuchProcess):
                            process.send_signal(signal_number)
                    time.sleep(chosen.uniform(0.1, 6.0) if signal_number == signal.SIGSTOP else 0.0)
            case 5:
                host.shape(
                    delay_seconds=chosen.uniform(0.0, 0.05), rate_mbit=chosen.choice([0.0, 20.0, 100.0]), loss=0.01
                )
        time.sleep(chosen.uniform(0.0, 3.0))
        assert run.process.poll() is None, run.output()


def campaign(tmp_path: Path, seed: int, faults: int) -> None:
    with Hosts(tmp_path / "net", SPECS) as hosts:
        update = random.Random(seed).choice(["agwu", "agwu", "sgwu"])
        run = Run(hosts, write_data(tmp_path), tmp_path / "run", "--epochs", MANY, "--update", update)
        run.says("epoch 1/")
        random_faults(hosts, run, seed, faults)
        for name in NAMES:
            hosts[name].shape()
        finish(run)
        nothing_left(hosts, NAMES)


def test_a_random_schedule_of_faults(tmp_path: Path) -> None:
    campaign(tmp_path, 1, 4)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 12))
def test_long_schedules_of_faults(tmp_path: Path, seed: int) -> None:
    campaign(tmp_path, seed, 8)
