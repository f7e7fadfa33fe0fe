"""Real agent processes: what they answer, and that none outlives what it works for."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from nodes.agents import (
    READY_SECONDS,
    agent,
    await_end,
    descriptors,
    gone,
    has_ended,
    kind,
    ready,
    submissions,
    wait_for,
)

from bptcnn.networks import lenet5
from bptcnn.nodes import NodeGone
from bptcnn.outer import Failed, Heartbeat, Pause, Paused, Resume, Stop, Trial, Tried


def snapshot(size: int) -> np.ndarray:
    return np.empty(size, np.float32)


def test_a_node_from_ready_to_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the package is found wherever the run is started
    with agent(tmp_path) as bench:
        node = bench.node
        ready(node)
        before, after = snapshot(bench.buffer.layout.parameters), snapshot(bench.buffer.layout.parameters)
        bench.buffer.snapshot(before)
        node.send(bench.work(count=60))
        node.send(bench.work(epoch=2, count=8))
        reports = submissions(node, 68)
        assert [(s.epoch, s.samples) for s in reports] == [(1, 16), (1, 16), (1, 16), (1, 12), (2, 8)]
        bench.buffer.snapshot(after)
        assert np.isfinite(after).all()
        assert (after != before).any()
        record = bench.buffer.submission(0)
        assert (record.sequence, record.samples, record.merged) == (5, 68, True)
        node.send(Pause())
        wait_for(node, kind(Paused))
        node.send(bench.work(epoch=2, count=8))
        node.send(Resume())
        assert [s.samples_committed for s in submissions(node, 76)] == [76]
        beat, _ = wait_for(node, lambda e: isinstance(e, Heartbeat) and e.samples_trained == 76)
        assert beat.node == 0
        node.send(Stop())
        assert gone(node) == "its process ended with code 0"
        node.end(time.monotonic() + 1.0)
        assert has_ended(node.pid)
        assert bench.log.read_text() == ""


def test_a_killed_node_is_gone_by_its_signal(tmp_path: Path) -> None:
    with agent(tmp_path) as bench:
        ready(bench.node)
        os.kill(bench.node.pid, signal.SIGKILL)
        assert gone(bench.node) == "its process was killed by signal 9"
        bench.node.kill()
        bench.node.kill()
        assert has_ended(bench.node.pid)


def test_sending_to_a_killed_node_is_harmless_and_receiving_names_the_signal(tmp_path: Path) -> None:
    with agent(tmp_path) as bench:
        ready(bench.node)
        os.kill(bench.node.pid, signal.SIGKILL)
        os.waitid(os.P_PID, bench.node.pid, os.WEXITED | os.WNOWAIT)
        bench.node.send(Pause())
        assert gone(bench.node) == "its process was killed by signal 9"


def test_events_that_came_before_the_end_are_not_lost(tmp_path: Path) -> None:
    with agent(tmp_path) as bench:
        bench.node.send(bench.work(count=16))
        deadline = time.monotonic() + READY_SECONDS
        while not bench.buffer.submission(0).sequence:
            assert time.monotonic() < deadline
        bench.node.send(Stop())
        os.waitid(os.P_PID, bench.node.pid, os.WEXITED | os.WNOWAIT)
        assert [s.samples for s in submissions(bench.node, 16)] == [16]
        assert gone(bench.node) == "its process ended with code 0"


def test_a_stopped_process_does_not_block_the_sender(tmp_path: Path) -> None:
    with agent(tmp_path) as bench:
        ready(bench.node)
        os.kill(bench.node.pid, signal.SIGSTOP)
        message = bench.work(count=20_000)

        def flood() -> None:
            for _ in range(1000):  # 80 kB each: no socket holds that much
                bench.node.send(message)

        with pytest.raises(NodeGone):
            flood()
        bench.node.kill()
        assert has_ended(bench.node.pid)


def test_a_process_that_does_not_stop_is_ended(tmp_path: Path) -> None:
    with agent(tmp_path) as bench:
        ready(bench.node)
        os.kill(bench.node.pid, signal.SIGSTOP)
        bench.node.send(Stop())
        bench.node.end(time.monotonic() + 1.0)
        assert has_ended(bench.node.pid)


def failure(bench_events: list[object]) -> Failed:
    found = [event for event in bench_events if isinstance(event, Failed)]
    assert len(found) == 1
    assert "\n" not in found[0].reason
    return found[0]


def test_the_end_of_the_connection_ends_the_node(tmp_path: Path) -> None:
    with agent(tmp_path) as bench:
        ready(bench.node)
        bench.node.send(bench.work(count=6400))
        with socket.socket(fileno=os.dup(bench.node.fileno())) as ours:
            ours.shutdown(socket.SHUT_RDWR)
        assert not await_end([bench.node.pid])


@pytest.mark.parametrize("stopped", [False, True])
@pytest.mark.parametrize("state", ["starting", "idle", "busy"])
def test_a_node_does_not_outlive_a_killed_coordinator(tmp_path: Path, state: str, stopped: bool) -> None:
    script = Path(__file__).with_name("orphaning.py")
    with subprocess.Popen(
        [sys.executable, str(script), str(tmp_path), state], stdout=subprocess.PIPE, text=True
    ) as coordinator:
        assert coordinator.stdout is not None
        pid = int(coordinator.stdout.readline())
        assert not has_ended(pid)
        if stopped:
            os.kill(pid, signal.SIGSTOP)
        coordinator.kill()
        coordinator.wait()
    assert not await_end([pid])


def test_a_node_holds_no_other_nodes_connection(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with agent(tmp_path / "a") as first, agent(tmp_path / "b") as second:
        ready(first.node)
        ready(second.node)
        sockets = [{d for d in descriptors(bench.node.pid) if d.startswith("socket:")} for bench in (first, second)]
        ours = {os.readlink(f"/proc/self/fd/{bench.node.fileno()}") for bench in (first, second)}
        assert [len(found) for found in sockets] == [2, 2], "its own end, its output, and no more"
        assert not sockets[0] & sockets[1]
        assert not (sockets[0] | sockets[1]) & ours


def test_a_very_slow_nodes_trial_tells_what_it_would_have_waited(tmp_path: Path) -> None:
    """A step of some milliseconds at a thousandth of full speed takes seconds: it need not be waited for."""
    found = []
    for speed in (1.0, 0.001):
        folder = tmp_path / str(speed)
        folder.mkdir()
        with agent(folder, network=lenet5(), samples=256, batch_size=64, speed=speed) as bench:
            ready(bench.node)
            bench.node.send(Trial(seconds=0.05, steps=4))
            began = time.monotonic()
            event, _ = wait_for(bench.node, kind(Tried))
            assert isinstance(event, Tried)
            found.append((event.images / event.seconds, event.seconds, time.monotonic() - began))
    (fast, _, _), (slow, seconds, took) = found
    assert 0.0003 * fast < slow < 0.003 * fast
    assert seconds > 2 * took


def test_a_trial_leaves_no_trace(tmp_path: Path) -> None:
    """The weights stay as they were, and training goes on from them as if there had been none."""
    found = []
    for trial in (None, Trial(seconds=10.0, steps=5)):
        folder = tmp_path / str(trial is None)
        folder.mkdir()
        with agent(folder) as bench:
            node, size = bench.node, bench.buffer.layout.parameters
            ready(node)
            before, after = snapshot(size), snapshot(size)
            bench.buffer.snapshot(before)
            if trial:
                node.send(trial)
                event, _ = wait_for(node, kind(Tried))
                assert isinstance(event, Tried)
                assert event.images == 5 * 8
                assert event.seconds > 0.0
                bench.buffer.snapshot(after)
                assert after.tobytes() == before.tobytes()
                assert bench.buffer.submission(0).sequence == 0
            node.send(bench.work(count=40))
            submissions(node, 40)
            bench.buffer.snapshot(after)
            assert (after != before).any()
            found.append(after.tobytes())
    assert found[0] == found[1]
