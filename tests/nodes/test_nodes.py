"""What every node promises its driver, whatever its transport: here, and behind a real sshd."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from nodes.agents import CLASSES, agent, kind, ready, submissions, wait_for
from nodes.loopback import Loopback, loopback

from bptcnn.networks import Conv2D, Dense, Dropout, Flatten, MaxPool2D, Network
from bptcnn.nodes import NodeGone
from bptcnn.nodes.loop import MOST_REFUSALS
from bptcnn.nodes.optimizer_state import OptimizerState
from bptcnn.outer import (
    Failed,
    Heartbeat,
    NodeEvent,
    Pause,
    Paused,
    Refused,
    Release,
    Resume,
    Stop,
    Submitted,
    Trial,
    Tried,
    Update,
)

TRANSPORTS = ("local", "ssh")


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loopback | None]:
    """An sshd, where there is one: nodes here need none."""
    with ExitStack() as stack:
        try:
            yield stack.enter_context(loopback(tmp_path_factory.mktemp("sshd")))
        except pytest.skip.Exception:
            yield None


@pytest.fixture(params=TRANSPORTS)
def address(request: pytest.FixtureRequest, here: Loopback | None, monkeypatch: pytest.MonkeyPatch) -> str | None:
    """What ssh is given, or None for a node here."""
    if request.param == "local":
        return None
    if here is None:
        pytest.skip("needs OpenSSH's server and client: apt-get install openssh-server openssh-client")
    monkeypatch.setenv("BPTCNN_SSH", here.ssh)
    return "good"


def trained(events: list[NodeEvent]) -> list[tuple[int, int]]:
    """(epoch, samples) of all submissions, those of one epoch added up."""
    found: dict[int, int] = {}
    for event in events:
        if isinstance(event, Submitted):
            found[event.epoch] = found.get(event.epoch, 0) + event.samples
    return list(found.items())


def test_a_node_from_ready_to_stop(tmp_path: Path, address: str | None) -> None:
    with agent(tmp_path, address=address) as bench:
        node, size = bench.node, bench.buffer.layout.parameters
        ready(node)
        before, after = np.empty(size, np.float32), np.empty(size, np.float32)
        bench.buffer.snapshot(before)
        node.send(bench.work(count=60))
        node.send(bench.work(epoch=2, count=8))
        reports = submissions(node, 68)
        assert trained(list(reports)) == [(1, 60), (2, 8)]
        assert [s.sequence for s in reports] == list(range(1, len(reports) + 1))
        assert all(s.bytes_sent > 0 and s.bytes_received > 0 for s in reports)
        bench.buffer.snapshot(after)
        assert np.isfinite(after).all()
        assert (after != before).any()
        record = bench.buffer.submission(0)
        assert (record.sequence, record.samples, record.merged) == (len(reports), 68, True)
        node.send(Pause())
        wait_for(node, kind(Paused))
        node.send(bench.work(epoch=2, count=8))
        node.send(Resume())
        assert [s.samples_committed for s in submissions(node, 76)] == [76]
        beat, _ = wait_for(node, lambda e: isinstance(e, Heartbeat) and e.samples_trained == 76)
        assert beat.node == 0
        node.send(Stop())
        with pytest.raises(NodeGone):
            wait_for(node, lambda _: False)


def test_learning_lowers_the_loss(tmp_path: Path, address: str | None) -> None:
    with agent(tmp_path, address=address) as bench:
        ready(bench.node)
        bench.node.send(bench.work(count=64 * 30, rate=0.02))
        losses = [s.loss_sum / s.samples for s in submissions(bench.node, 64 * 30)]
        assert losses[-1] < 0.5 * losses[0]


def test_sgwu_commits_and_waits(tmp_path: Path, address: str | None) -> None:
    with agent(tmp_path, update="sgwu", address=address) as bench:
        bench.node.send(bench.work(count=32))
        submissions(bench.node, 16)
        assert bench.buffer.pending(0)
        assert bench.buffer.merge_for(0, 1.0)
        bench.node.send(Release())
        submissions(bench.node, 32)


def test_nothing_is_committed_during_a_pause(tmp_path: Path, address: str | None) -> None:
    with agent(tmp_path, address=address) as bench:
        ready(bench.node)
        bench.node.send(bench.work(count=64 * 20))
        submissions(bench.node, 16)
        bench.node.send(Pause())
        wait_for(bench.node, kind(Paused))
        committed = bench.buffer.submission(0)
        beats = 0

        def third_beat(event: NodeEvent) -> bool:
            nonlocal beats
            assert not isinstance(event, Submitted), "committed in spite of the pause"
            beats += isinstance(event, Heartbeat)
            return beats >= 3

        for _ in range(3):  # reports that came with Paused are seen by then
            wait_for(bench.node, kind(Heartbeat))
        wait_for(bench.node, third_beat)
        assert bench.buffer.submission(0) == committed
        bench.node.send(Resume())
        assert submissions(bench.node, 64 * 20)[-1].samples_committed == 64 * 20


DROPPING = Network((8, 8, 1), [Conv2D(4, 3), MaxPool2D(2), Flatten(), Dropout(0.5), Dense(CLASSES)], "dropping")


def test_a_node_that_starts_from_what_another_handed_over_goes_on_as_it(tmp_path: Path, address: str | None) -> None:
    """A trial between leaves no trace. Behind a link weights are told in differences, so that they round elsewhere."""
    weights, went_on = (np.empty(DROPPING.size, np.float32) for _ in range(2))
    with agent(tmp_path, network=DROPPING, address=address) as bench:
        ready(bench.node)
        bench.node.send(bench.work(count=48))
        submissions(bench.node, 48)
        bench.node.send(Pause())
        wait_for(bench.node, kind(Paused))
        handed = bench.node.optimizer_state()
        assert handed is not None
        assert handed.velocity is not None
        assert handed.step == 48 // 8
        start = replace(handed, velocity=handed.velocity.copy())
        del handed
        bench.buffer.snapshot(weights)
        bench.node.send(Resume())
        assert bench.node.optimizer_state() is None
        bench.node.send(bench.work(epoch=2, count=48))
        submissions(bench.node, 96)
        bench.buffer.snapshot(went_on)

    def resumed(start: OptimizerState) -> npt.NDArray[np.float32]:
        found = np.empty(DROPPING.size, np.float32)
        with agent(tmp_path, network=DROPPING, address=address, start=start, weights=weights) as bench:
            ready(bench.node)
            bench.node.send(Trial(seconds=10.0, steps=2))
            wait_for(bench.node, kind(Tried))
            bench.node.send(bench.work(epoch=2, count=48))
            submissions(bench.node, 48)
            bench.buffer.snapshot(found)
        return found

    distance = np.abs(resumed(start) - went_on).max()
    assert distance == 0.0 if address is None else distance < 1e-6
    assert np.abs(resumed(replace(start, step=0)) - went_on).max() > 1e-4, "other masks"
    assert np.abs(resumed(replace(start, velocity=None)) - went_on).max() > 1e-4, "no momentum"


def test_a_label_that_is_no_class_fails_the_node(tmp_path: Path, address: str | None) -> None:
    labels = np.full(64, CLASSES, np.int32)
    with agent(tmp_path, labels=labels, address=address) as bench:
        bench.node.send(bench.work())
        failed, _ = wait_for(bench.node, kind(Failed))
        assert isinstance(failed, Failed)
        assert f"outside 0 to {CLASSES - 1}" in failed.reason
        assert bench.buffer.submission(0).samples == 0


@pytest.mark.parametrize("update", ["agwu", "sgwu"])
def test_a_node_that_diverges_again_and_again_says_so(tmp_path: Path, address: str | None, update: Update) -> None:
    with agent(tmp_path, address=address, update=update) as bench:
        before = np.empty(bench.buffer.layout.parameters, np.float32)
        bench.buffer.snapshot(before)
        bench.node.send(bench.work(count=6400, rate=1e30))
        failed, events = wait_for(bench.node, kind(Failed))
        assert isinstance(failed, Failed)
        assert "smaller learning rate" in failed.reason
        refused = [event for event in events if isinstance(event, Refused)]
        assert [event.reason in failed.reason for event in refused] == [True] * MOST_REFUSALS
        assert all(event.samples for event in refused)
        after = np.empty_like(before)
        bench.buffer.snapshot(after)
        assert np.array_equal(before, after), "what diverged was merged"
        bench.node.kill()  # which reads what it has printed to its end
        log = bench.log.read_text()
        assert log.count("is refused") == MOST_REFUSALS
        assert "Traceback" not in log, "no traceback for what the user can mend"


def test_what_was_killed_merges_nothing(tmp_path: Path, address: str | None) -> None:
    with agent(tmp_path, address=address) as bench:
        ready(bench.node)
        bench.node.send(bench.work(count=64 * 1000))
        submissions(bench.node, 64)
        bench.node.kill()
        bench.buffer.finish(0)
        committed, weights = bench.buffer.submission(0), np.empty(bench.buffer.layout.parameters, np.float32)
        bench.buffer.snapshot(weights)
        bench.buffer.validate()
        again = np.empty_like(weights)
        for _ in range(50):
            bench.buffer.snapshot(again)
            assert np.array_equal(weights, again)
        assert bench.buffer.submission(0) == committed
        bench.node.kill()
