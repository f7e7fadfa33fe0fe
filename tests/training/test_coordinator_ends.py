"""The coordinator killed or interrupted: its nodes go with it, and its last checkpoint is where to go on from."""

import shutil
import signal
from pathlib import Path

import pytest
from nodes.agents import READY_SECONDS, await_end
from training.coordinators import SAMPLES, driving, resumed
from training.faults import Lost, spying
from training.runs import check_counts, data, metrics, pids, run, summary

from bptcnn.errors import UserError
from bptcnn.training import EpochRow, Observer
from bptcnn.training.checkpoint import read_checkpoint


@pytest.mark.parametrize("update", ["agwu", pytest.param("sgwu", marks=pytest.mark.slow)])
def test_killed(tmp_path: Path, update: str) -> None:
    folder = tmp_path / "run"
    with driving(folder, update) as process:
        nodes = list(pids(folder).values())
        process.kill()
        process.wait()
        assert not await_end(nodes)
    assert len(nodes) == 2
    (folder / ".last.safetensors-draft").write_text("what a write that was cut short leaves")
    resumed(folder, update)
    assert not list(folder.glob(".*"))


def test_interrupted(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with driving(folder) as process:
        nodes = list(pids(folder).values())
        process.send_signal(signal.SIGINT)
        assert process.wait(READY_SECONDS) == 130
        assert not await_end(nodes, 0.0), "all nodes are reaped when the interrupt is passed on"
        assert process.stderr is not None
        assert process.stderr.read() == ""
    found = summary(folder)
    assert found["outcome"] == "stopped"
    assert "interrupted" in found["reason"]
    done = read_checkpoint(folder / "last.safetensors").epoch
    assert found["epochs"] == len(metrics(folder))
    assert done in (found["epochs"], found["epochs"] + 1)
    assert SAMPLES * done <= found["images_trained"] <= SAMPLES * (done + 2)
    assert not list(folder.glob(".*"))
    resumed(folder, "agwu")


@pytest.mark.parametrize("report", [0, 2, 25])
def test_interrupted_anywhere(tmp_path: Path, report: int) -> None:
    """In the middle of an event, while nodes start, train or pause."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    folder = tmp_path / "run"
    with spying(folder) as spy:
        spy.at[report] = interrupt
        with pytest.raises(KeyboardInterrupt):
            run(folder, data(SAMPLES, 50), nodes=2, epochs=4)
    found = summary(folder)
    assert (found["outcome"], found["reason"]) == ("stopped", "interrupted")
    assert found["epochs"] == len(metrics(folder))


def test_interrupted_while_a_node_is_buried(tmp_path: Path) -> None:
    class Interrupting(Lost):
        def node_lost(self, name: str, reason: str) -> None:
            super().node_lost(name, reason)
            raise KeyboardInterrupt

    with spying(tmp_path / "run") as spy:
        spy.at[9] = lambda: spy.signal("node1")
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "run", data(SAMPLES, 50), nodes=2, epochs=400, observer=Interrupting())
    assert summary(tmp_path / "run")["outcome"] == "stopped"


def test_interrupted_after_an_epoch(tmp_path: Path) -> None:
    class Interrupting(Observer):
        def epoch_ended(self, row: EpochRow, best: bool) -> None:
            if row.epoch == 2:
                raise KeyboardInterrupt

    folder = tmp_path / "run"
    with spying(folder), pytest.raises(KeyboardInterrupt):
        run(folder, data(SAMPLES, 50), nodes=2, epochs=4, observer=Interrupting())
    assert read_checkpoint(folder / "last.safetensors").epoch == 2
    assert (summary(folder)["outcome"], summary(folder)["epochs"]) == ("stopped", 2)
    run(folder, data(SAMPLES, 50), nodes=2, epochs=4, resume=True)
    check_counts(folder, SAMPLES, 4)


def test_a_run_folder_that_vanishes_ends_the_run(tmp_path: Path) -> None:
    folder = tmp_path / "run"

    class Removing(Observer):
        def epoch_ended(self, row: EpochRow, best: bool) -> None:
            shutil.rmtree(folder)

    with spying(folder), pytest.raises(UserError, match="cannot write") as caught:
        run(folder, data(SAMPLES, 50), nodes=2, epochs=4, observer=Removing())
    assert "\n" not in str(caught.value)
