"""Nodes that are killed, stopped or lost while a run goes on: it completes, and every sample counts once."""

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from _pytest.mark.structures import ParameterSet
from training.faults import Lost, Spy, spying
from training.runs import check_counts, data, metrics, run, summary

from bptcnn.errors import UserError
from bptcnn.training import EpochRow
from bptcnn.training.checkpoint import read_checkpoint

SAMPLES, EPOCHS = 600, 3
DATA = data(SAMPLES, 100)
NOTICED_SECONDS = 5.0


def slow(*values: object) -> ParameterSet:
    """A case for campaigns only."""
    return pytest.param(*values, marks=pytest.mark.slow)


def check_run(folder: Path, lost: Lost) -> None:
    found = check_counts(folder, SAMPLES, EPOCHS)
    assert found["outcome"] == "completed"
    named = {node["name"]: node["lost"] for node in found["nodes"] if node["lost"]}
    assert named.items() <= lost.reasons.items()
    assert found["images_redone"] >= 0
    assert read_checkpoint(folder / "last.safetensors").epoch == EPOCHS


def killing(folder: Path, nodes: int, update: str, plan: Callable[[Spy], None]) -> Lost:
    lost = Lost()
    with spying(folder) as spy:
        plan(spy)
        run(folder, DATA, nodes=nodes, epochs=EPOCHS, update=update, observer=lost)
    check_run(folder, lost)
    return lost


@pytest.mark.parametrize(("nodes", "update"), [(2, "agwu"), (3, "sgwu"), slow(3, "agwu"), slow(2, "sgwu")])
def test_a_killed_node(tmp_path: Path, update: str, nodes: int) -> None:
    victim = f"node{nodes - 1}"
    lost = killing(tmp_path / "run", nodes, update, lambda spy: spy.at.update({20: lambda: spy.signal(victim)}))
    assert lost.reasons == {victim: "its process was killed by signal 9"}


def test_a_node_killed_before_it_is_ready(tmp_path: Path) -> None:
    lost = killing(tmp_path / "run", 2, "agwu", lambda spy: spy.at.update({0: lambda: spy.signal("node0")}))
    assert set(lost.reasons) == {"node0"}


@pytest.mark.parametrize("update", ["sgwu", slow("agwu")])
def test_two_nodes_of_four_killed_at_once(tmp_path: Path, update: str) -> None:
    def both(spy: Spy) -> None:
        spy.signal("node1")
        spy.signal("node2")

    lost = killing(tmp_path / "run", 4, update, lambda spy: spy.at.update({12: lambda: both(spy)}))
    assert set(lost.reasons) == {"node1", "node2"}


class KillsAtEpochEnd(Lost):
    """Kills nodes while all are paused: the next messages go to processes that are not there any more."""

    def __init__(self, spy: Spy, victims: list[str], epoch: int = 1) -> None:
        super().__init__()
        self._spy, self._victims, self._epoch = spy, victims, epoch

    def epoch_ended(self, row: EpochRow, best: bool) -> None:
        if row.epoch == self._epoch:
            for victim in self._victims:
                self._spy.signal(victim)


@pytest.mark.parametrize(
    ("update", "victims"),
    [
        ("agwu", ["node0"]),
        ("sgwu", ["node0", "node2"]),
        slow("agwu", ["node1", "node2"]),
        slow("sgwu", ["node1"]),
    ],
)
def test_killed_during_evaluation(tmp_path: Path, update: str, victims: list[str]) -> None:
    with spying(tmp_path / "run") as spy:
        lost = KillsAtEpochEnd(spy, victims)
        # long local iterations: the survivors are short of samples at once
        run(tmp_path / "run", DATA, nodes=3, epochs=EPOCHS, update=update, observer=lost, local_steps=8)
    check_run(tmp_path / "run", lost)
    assert set(lost.reasons) == set(victims)


def test_killed_during_the_last_evaluation(tmp_path: Path) -> None:
    with spying(tmp_path / "run") as spy:
        lost = KillsAtEpochEnd(spy, ["node1"], EPOCHS)
        run(tmp_path / "run", DATA, nodes=2, epochs=EPOCHS, observer=lost)
    check_run(tmp_path / "run", lost)
    named = {node["name"]: node["lost"] for node in summary(tmp_path / "run")["nodes"] if node["lost"]}
    assert named == lost.reasons, "the observer and the summary were told different things"


@pytest.mark.parametrize("update", ["agwu", slow("sgwu")])
def test_a_stopped_node_is_declared_dead(tmp_path: Path, update: str) -> None:
    """It neither answers nor ends: it is found silent, killed, and its samples are trained by the other."""
    moments: list[float] = []

    class Timed(Lost):
        def node_lost(self, name: str, reason: str) -> None:
            super().node_lost(name, reason)
            moments.append(time.monotonic())

    def freeze(spy: Spy) -> None:
        moments.append(time.monotonic())
        spy.signal("node1", signal.SIGSTOP)

    lost = Timed()
    with spying(tmp_path / "run") as spy:
        spy.at[15] = lambda: freeze(spy)
        run(tmp_path / "run", DATA, nodes=2, epochs=EPOCHS, update=update, observer=lost)
    check_run(tmp_path / "run", lost)
    assert set(lost.reasons) == {"node1"}
    assert "silent" in lost.reasons["node1"]
    assert moments[1] - moments[0] < 2 * NOTICED_SECONDS, "the design says 5 s; the rest is a busy machine's"


@pytest.mark.parametrize("update", ["agwu", slow("sgwu")])
def test_all_nodes_killed(tmp_path: Path, update: str) -> None:
    class KillsSoonAfter(Lost):
        def epoch_ended(self, row: EpochRow, best: bool) -> None:
            if row.epoch == 1:
                spy.at[spy.reports + 5] = every

    def every() -> None:
        spy.signal("node0")
        spy.signal("node1")

    folder = tmp_path / "run"
    with spying(folder) as spy, pytest.raises(UserError, match="every node is lost") as caught:
        run(folder, DATA, nodes=2, epochs=1000, update=update, observer=KillsSoonAfter())
    assert "\n" not in str(caught.value)
    found = summary(folder)
    assert found["outcome"] == "failed"
    assert all("signal 9" in node["lost"] for node in found["nodes"])
    done = read_checkpoint(folder / "last.safetensors").epoch
    assert done == found["epochs"] == len(metrics(folder))
    run(folder, DATA, nodes=2, epochs=done + 1, update=update, resume=True)
    check_counts(folder, SAMPLES, done + 1)


def test_an_observer_that_fails_leaves_nothing_running(tmp_path: Path) -> None:
    class Failing(Lost):
        def epoch_ended(self, row: EpochRow, best: bool) -> None:
            raise RuntimeError("mine")

    with spying(tmp_path / "run"), pytest.raises(RuntimeError, match="mine"):
        run(tmp_path / "run", DATA, nodes=2, epochs=3, observer=Failing())
