"""A run that is stopped and goes on: Ctrl-Z and `fg` in a shell, SIGSTOP, a frozen container."""

import json
import os
import shlex
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from control_groups import freezer
from programs import COMMAND, TIMEOUT_SECONDS, environment
from terminal import PROMPT, shell

STOPPED_SECONDS = 8.0
EPOCHS = 30
TRAIN = ("--epochs", str(EPOCHS), "--nodes", "0.2,0.2", "--threads", "1", "--batch-size", "16", "--run-dir", "a")


def agents(folder: Path) -> list[int]:
    return [node["pid"] for node in json.loads((folder / "a" / "nodes.json").read_text())]


def states(pids: list[int]) -> list[str]:
    """Of every thread: T is stopped."""
    found = []
    for pid in pids:
        for thread in os.listdir(f"/proc/{pid}/task"):
            content = Path(f"/proc/{pid}/task/{thread}/stat").read_text()
            found.append(content.rpartition(")")[2].split()[0])
    return found


def await_stop(pids: list[int]) -> None:
    """Each thread stops when it next runs, which a busy machine may put off."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while set(states(pids)) != {"T"}:
        assert time.monotonic() < deadline, states(pids)
        time.sleep(0.01)


def check(folder: Path) -> dict[str, Any]:
    """All was trained once, nobody was lost, and the time in which the run stood still is nowhere."""
    summary: dict[str, Any] = json.loads((folder / "a" / "summary.json").read_text())
    assert summary["outcome"] == "completed"
    assert summary["images_trained"] == EPOCHS * 400
    assert [node["lost"] for node in summary["nodes"]] == [None, None]
    assert summary["train_seconds"] < STOPPED_SECONDS
    for node in summary["nodes"]:
        spent = node["compute_seconds"] + node["wait_seconds"] + node["communication_seconds"]
        assert spent < STOPPED_SECONDS, node
    rows = (folder / "a" / "metrics.csv").read_text().splitlines()[1:]
    assert max(float(row.split(",")[1]) for row in rows) < STOPPED_SECONDS / 2
    assert summary["images_per_second"] == pytest.approx(EPOCHS * 400 / summary["train_seconds"], rel=0.01)
    return summary


def test_ctrl_z_and_fg(tmp_path: Path, data: Path) -> None:
    with shell(tmp_path) as user:
        user.type(f"{shlex.join([*COMMAND, 'train', str(data), *TRAIN])}\n")
        user.read_until("left")  # the picture moves: it trains
        nodes = agents(tmp_path)
        begin = user.type("\x1a")
        user.read_until(PROMPT, begin)
        assert "Stopped" in user.shown[begin:]
        assert user.cursor_is_shown
        assert "\x1b[?25l" in user.shown, "or it says nothing"
        await_stop(nodes)
        busy = [sum(psutil.Process(pid).cpu_times()[:2]) for pid in nodes]
        begin = user.type("stty -a\n")
        user.read_until(PROMPT, begin)
        assert " icanon" in user.shown[begin:]
        assert " echo " in user.shown[begin:]
        time.sleep(STOPPED_SECONDS)
        user.read(0.0)
        assert user.cursor_is_shown
        assert [sum(psutil.Process(pid).cpu_times()[:2]) for pid in nodes] == busy
        begin = user.type("fg\n")
        user.read_until("\x1b[?25l", begin)
        user.read_until("evaluate a", begin)
        user.read_until(PROMPT, begin + user.shown[begin:].index("evaluate a"))
        assert "Lost" not in user.shown
        assert "the run stood still for " in user.shown
        assert user.cursor_is_shown
    check(tmp_path)


def test_ctrl_z_and_then_hangup_ends_all(tmp_path: Path, data: Path) -> None:
    """The terminal's window is closed on a stopped run."""
    with shell(tmp_path) as user:
        user.type(f"{shlex.join([*COMMAND, 'train', str(data), *TRAIN])}\n")
        user.read_until("left")
        nodes = agents(tmp_path)
        begin = user.type("\x1a")
        user.read_until(PROMPT, begin)
        await_stop(nodes)
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while any(psutil.pid_exists(pid) for pid in nodes):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def started(folder: Path, data: Path) -> "subprocess.Popen[str]":
    """A run that trains."""
    process = subprocess.Popen(
        [*COMMAND, "train", str(data), *TRAIN],
        cwd=folder,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("epoch 1/"):
            return process
    raise AssertionError("it trained nothing")


def test_a_coordinator_that_is_stopped(tmp_path: Path, data: Path) -> None:
    process = started(tmp_path, data)
    process.send_signal(signal.SIGSTOP)
    time.sleep(STOPPED_SECONDS)
    process.send_signal(signal.SIGCONT)
    said, _ = process.communicate(timeout=TIMEOUT_SECONDS)
    assert process.returncode == 0
    assert "lost" not in said
    assert "the run stood still for " in said
    check(tmp_path)


def test_a_container_that_is_frozen(tmp_path: Path, data: Path) -> None:
    """All processes stop and go on at once: nodes may look at the clock before the coordinator does."""
    with freezer("bptcnn-test-frozen") as group:
        process = started(tmp_path, data)
        for pid in (process.pid, *agents(tmp_path)):
            group.freeze(pid)
        time.sleep(STOPPED_SECONDS)
        group.thaw()
        said, _ = process.communicate(timeout=TIMEOUT_SECONDS)
    assert process.returncode == 0
    assert "lost" not in said
    assert "the run stood still for " in said
    check(tmp_path)
