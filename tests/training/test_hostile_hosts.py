"""Hosts that lie, in every way at once: each is lost with a line that says why, and the run goes on without them."""

import math
import shlex
import sys
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from nodes import hostile, plain_ssh
from training.faults import Lost, spying
from training.runs import check_counts, data, metrics, run, summary

from bptcnn.nodes import hand_over
from bptcnn.nodes.node_log import MOST_BYTES
from bptcnn.outer import Action, Coordinator, Event, Heartbeat, Submitted, Tick
from bptcnn.training.progress import EpochRow

SAMPLES = 1000
REASONS = {
    "transfer": "it sent no submission: transfer_seconds is 1e+300, not a number from 0 to 1e+09",
    "years": "it says timed_seconds of 1e+08, and came",
    "loss": "it submitted a loss of 1e+17 over",
    "weights": "what it learned is more than 100 times the weights",
    "early": "it trained from version 0, which it was not sent",
    "nothing": "samples of epoch 7 that it was not sent",
    "events": "it reported what cannot be: more events than any agent has",
    "calls": "it asks for more, or says more, than any agent does",
    "another": "it reported what cannot be: node ",
    "refusals": "it refused its samples 4 times in a row",
    "requests": "it asked for the weights 9 times and submitted nothing",
    "prints": "it prints without end",
}


class Outlives(Lost):
    """Ends the run when all that lie are lost, and an epoch was trained after that."""

    def __init__(self, names: set[str]) -> None:
        super().__init__()
        self._names = names
        self._last = 0  # the epoch when all were lost

    def node_returned(self, name: str) -> None:
        self.gone.discard(name)  # on a busy machine one may be lost for its silence, and comes back to lie

    def epoch_ended(self, row: EpochRow, best: bool) -> None:
        if self._names <= self.gone:
            self._last = self._last or row.epoch
            if row.epoch > self._last:
                raise KeyboardInterrupt


def hosts_file(folder: Path, lies: list[str]) -> Path:
    """Hosts on this machine, reached without sshd, each with a Python that runs the lying agent."""
    script = Path(hostile.__file__)
    entries = []
    for lie in lies:
        python = folder / lie
        agent = shlex.join([sys.executable, str(script), lie])
        python.write_text(
            f'#!/bin/sh\ncase "$*" in *nodes.agent*) exec {agent} "$@";; esac\nexec {sys.executable} "$@"\n'
        )
        python.chmod(0o755)
        paths = ":".join(path for path in sys.path if path)
        entries.append(
            f'[[host]]\naddress = "here"\nname = "{lie}"\npython = "{python}"\nenv = {{ PYTHONPATH = "{paths}" }}\n'
        )
    path = folder / "hosts.toml"
    path.write_text("".join(entries))
    return path


GROUPS = (  # few enough for one machine
    ("transfer", "years", "loss", "weights"),
    ("nothing", "another", "refusals", "requests"),
    ("early", "events", "calls", "prints"),
)


@pytest.mark.parametrize("lies", GROUPS, ids=" ".join)
def test_each_is_lost_with_a_line_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lies: tuple[str, ...]
) -> None:
    monkeypatch.setenv("BPTCNN_SSH", shlex.join([sys.executable, plain_ssh.__file__]))
    monkeypatch.setattr(hand_over, "LONGEST_SECONDS", 1.0)  # none of them hands its optimizer's state over
    observer, folder = Outlives(set(lies)), tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):  # nothing spies: the books allow nobody to stand still as these do
        run(
            folder,
            data(SAMPLES, 50),
            nodes=1,
            hosts=hosts_file(tmp_path, [*lies, "quick"]),
            epochs=100_000,
            observer=observer,
        )
    assert set(observer.reasons) - {"quick"} == set(lies)
    for name in lies:
        assert REASONS[name] in observer.reasons[name], (name, observer.reasons[name])
        assert observer.reasons[name].isprintable()
    assert len(metrics(folder)) >= 2
    assert summary(folder)["images_trained"] >= SAMPLES * len(metrics(folder))
    for log in (folder / "logs").iterdir():
        assert log.stat().st_size <= MOST_BYTES + (1 << 16)


def test_every_lie_is_tried() -> None:
    assert sorted(lie for lies in GROUPS for lie in lies) == sorted(REASONS)


@pytest.mark.parametrize("update", ["agwu", "sgwu"])
def test_an_event_that_cannot_be_handled_loses_its_node_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, update: str
) -> None:
    handle = Coordinator.handle
    seen = 0

    def handles(self: Coordinator, event: Event) -> list[Action]:
        nonlocal seen
        if isinstance(event, Submitted) and event.node == 1:
            seen += 1
            if seen == 3:
                raise ZeroDivisionError("nobody thought\nof this")
        return handle(self, event)

    monkeypatch.setattr(Coordinator, "handle", handles)
    observer, folder = Lost(), tmp_path / "run"
    with spying(folder):
        run(folder, data(SAMPLES, 50), nodes=2, epochs=2, update=update, observer=observer)
    said = "what it said could not be handled: ZeroDivisionError: nobody thought of this"
    assert observer.reasons == {"node1": said}
    log = (folder / "logs" / "node1.log").read_text()
    assert log.startswith("Traceback")
    assert "ZeroDivisionError: nobody thought" in log
    check_counts(folder, SAMPLES, 2)


@pytest.mark.parametrize(
    "event", [7, Heartbeat(1, 0.0, -1), Submitted(1, 0.0, 1, 1, 1, 1, math.nan, 1, 0, 0, 0, 0, 0, 0)]
)
def test_a_local_node_that_reports_what_cannot_be_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, event: object
) -> None:
    receive = Connection.recv
    seen = 0

    def receives(self: Connection) -> object:
        nonlocal seen
        came = receive(self)
        if isinstance(came, Submitted) and came.node == 1:
            seen += 1
            return event if seen == 2 else came
        return came

    monkeypatch.setattr(Connection, "recv", receives)
    observer, folder = Lost(), tmp_path / "run"
    with spying(folder):
        run(folder, data(SAMPLES, 50), nodes=2, epochs=2, observer=observer)
    assert observer.reasons["node1"].startswith("it reported what cannot be: ")
    check_counts(folder, SAMPLES, 2)


def test_what_is_our_own_fault_keeps_its_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    handle = Coordinator.handle

    def handles(self: Coordinator, event: Event) -> list[Action]:
        if isinstance(event, Tick) and self.trained_in_epoch:
            raise ZeroDivisionError("ours")
        return handle(self, event)

    monkeypatch.setattr(Coordinator, "handle", handles)
    with pytest.raises(ZeroDivisionError, match="ours"):
        run(tmp_path / "run", data(SAMPLES, 50), nodes=1, epochs=1000)
