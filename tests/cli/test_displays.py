"""The displays, fed by hand."""

import io
import os
import pty
import re
import subprocess
import threading
import time
from pathlib import Path

import pytest
from bptcnn_cli.live import LiveDisplay, duration, picture
from bptcnn_cli.plain import PlainDisplay
from bptcnn_cli.relay import Display, Relay
from programs import COMMAND, TIMEOUT_SECONDS, environment
from rich.console import Console

from bptcnn.outer import NodeStatus, NodeTotals
from bptcnn.training import EpochRow, Snapshot

ROW = EpochRow(3, 12.345, 0.51234, 0.81234, 0.85678, 12345.6)


def status(name: str, lost: str | None = None, paused: bool = False, measured: bool = True) -> NodeStatus:
    totals = NodeTotals(images=123_456, submissions=9, compute_seconds=6.0, wait_seconds=3.0, communication_seconds=1.0)
    return NodeStatus(name, lost is None, paused, totals, 11_000.4, measured, 0.5, 2, lost)


def snapshot(*nodes: NodeStatus, epoch: int = 2, speed: float = 1000.0) -> Snapshot:
    return Snapshot(epoch, 4, 2500, 5000, speed, nodes)


def terminal(width: int = 80, height: int = 24) -> tuple[Console, io.StringIO]:
    output = io.StringIO()
    console = Console(
        file=output, force_terminal=True, width=width, height=height, color_system=None, highlight=False, markup=False
    )
    return console, output


def drawn(shot: Snapshot, width: int = 80, height: int = 24) -> list[str]:
    console, output = terminal(width, height)
    console.print(picture(shot, console))
    return [line.rstrip() for line in output.getvalue().splitlines()]


def test_the_picture_has_bar_time_left_and_nodes() -> None:
    lost = status("node2", lost="its process was killed by signal 9")
    lines = drawn(snapshot(status("node0"), status("node1", paused=True), lost), width=120)
    assert lines[1].startswith("epoch 2/4 ")
    assert lines[1].endswith("38% 1,000 images/s 12 s left")
    assert lines[3].split() == ["node", "images/s", "data", "images", "stale", "waiting", "state"]
    assert lines[4].split() == ["node0", "11,000", "50%", "123,456", "2", "30%", "training"]
    assert lines[5].endswith("paused")
    assert lines[6].endswith("lost: its process was killed by signal 9")


@pytest.mark.parametrize("width", [40, 80, 120])
def test_the_picture_stays_within_the_terminal(width: int) -> None:
    long = status("a-node-with-a-very-long-name", lost="[bold]reason[/bold] " * 20)
    lines = drawn(snapshot(long, *(status(f"node{j}") for j in range(100))), width)
    assert max(map(len, lines)) <= width
    assert len(lines) < 24
    assert lines[-1].startswith("and ")
    assert lines[-1].endswith(" more nodes")


def test_hidden_lost_nodes_are_counted() -> None:
    nodes = [*(status(f"node{j}") for j in range(30)), status("x", lost="gone")]
    lines = drawn(snapshot(*nodes))
    shown = sum("training" in line for line in lines)
    assert lines[-1] == f"and {31 - shown} more nodes, 1 of them lost"


def test_what_is_not_known_is_not_shown() -> None:
    lines = drawn(snapshot(status("node0", measured=False), speed=0.0))
    assert lines[1].endswith("0 images/s - left")
    assert lines[4].split()[1] == "-"


def feed(display: Display) -> None:
    display.setup("starting 2 nodes")
    display.tick()
    display.started(("node0", "node1"), 5000, 4)
    display.progress(snapshot(status("node0"), status("node1")))
    display.submission_refused("node0", "the loss became nan")
    display.node_lost("node1", "[red]killed[/red]")
    display.epoch_ended(ROW, True)
    display.epoch_ended(ROW, False)
    assert not display.moves
    display.close()


def test_the_live_display_leaves_lines_only() -> None:
    console, output = terminal()
    feed(LiveDisplay(console, "validation"))
    text = output.getvalue()
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1, "the cursor comes back"
    assert "Training on 2 nodes: 5,000 images an epoch, 4 epochs\n" in text
    assert "epoch  seconds  train loss  train accuracy  validation accuracy  images/s\n" in text
    line = "    3    12.35      0.5123          0.8123               0.8568    12,346"
    assert f"{line}  best\n" in text
    assert f"{line}\n" in text
    assert "Lost node1: [red]killed[/red]; the others train its samples" in text
    assert "Refused a submission of node0: the loss became nan; its images are trained again" in text


def test_lines_of_an_epoch_fit_their_heading_in_80_columns() -> None:
    console, output = terminal()
    feed(LiveDisplay(console, "validation"))
    visible = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", output.getvalue())
    assert max(len(line) for line in visible.splitlines()) <= 80


def test_the_plain_display_prints_no_escapes() -> None:
    output = io.StringIO()
    feed(PlainDisplay(Console(file=output, width=40, highlight=False, markup=False), "test"))
    assert output.getvalue().splitlines() == [
        "starting 2 nodes",
        "training on 2 nodes: 5000 images an epoch, 4 epochs",
        "refused a submission of node0: the loss became nan; its images are trained again",
        "lost node1: [red]killed[/red]; the others train its samples",
        "epoch 3/4: 12.35 s, train loss 0.5123, train accuracy 0.8123, test accuracy 0.8568, 12346 images/s, "
        "best so far",
        "epoch 3/4: 12.35 s, train loss 0.5123, train accuracy 0.8123, test accuracy 0.8568, 12346 images/s",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "0 s"), (59.4, "59 s"), (59.6, "1:00"), (185, "3:05"), (3723, "1:02:03")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


class Blocked(Display):
    """A display whose terminal stands still until `go` is set."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.blocked = threading.Event()
        self.heard: list[str] = []
        self.closed = False

    def setup(self, message: str) -> None:
        self.blocked.set()
        self.go.wait()
        self.heard.append(message)

    def progress(self, shown: Snapshot) -> None:
        self.heard.append("progress")

    def epoch_ended(self, row: EpochRow, best: bool) -> None:
        self.heard.append(f"epoch {row.epoch}")

    def close(self) -> None:
        self.closed = True


def test_a_terminal_that_stands_still_holds_up_nobody() -> None:
    display = Blocked()
    with Relay(display) as relay:
        relay.setup("first")
        display.blocked.wait()
        for _ in range(1000):
            relay.progress(snapshot())
        relay.epoch_ended(ROW, True)
        assert relay.stuck
        assert display.heard == []
        display.go.set()
    assert display.closed
    assert not relay.stuck
    assert display.heard[0] == "first"
    assert display.heard[-1] == "epoch 3"
    assert 1 <= display.heard.count("progress") <= 50


class Moving(Display):
    """A display on which something moves until training starts; it counts how often it was drawn, too."""

    def __init__(self) -> None:
        self.drawn = threading.Event()
        self._moves = False
        self.ticks = self.ticks_in_training = 0

    @property
    def moves(self) -> bool:
        return self._moves

    def setup(self, message: str) -> None:
        self._moves = True

    def started(self, names: tuple[str, ...], samples: int, epochs: int) -> None:
        self._moves = False

    def tick(self) -> None:
        self.ticks += 1
        self.ticks_in_training += not self._moves
        if self.ticks == 3:
            self.drawn.set()


def test_only_what_moves_is_drawn_while_nothing_is_told() -> None:
    display = Moving()
    with Relay(display) as relay:
        relay.setup("first")
        assert display.drawn.wait(TIMEOUT_SECONDS)
        relay.started(("node0",), 1000, 1)
        time.sleep(0.5)  # in which frames would be drawn
    assert display.ticks_in_training == 0


def test_an_interrupt_does_not_wait_for_the_terminal() -> None:
    display = Blocked()
    relay = Relay(display)
    relay.__enter__()
    relay.setup("first")
    display.blocked.wait()
    relay.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert relay.stuck
    display.go.set()


def test_an_error_of_the_display_is_not_lost() -> None:
    class Broken(Display):
        def setup(self, message: str) -> None:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), Relay(Broken()) as relay:
        relay.setup("first")


def test_a_run_on_a_terminal(tmp_path: Path, data: Path) -> None:
    ours, theirs = pty.openpty()
    command = [*COMMAND, "train", str(data), "--epochs", "2", "--batch-size", "16", "--run-dir", "a"]
    environ = {**environment(), "TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24"}
    with subprocess.Popen(command, cwd=tmp_path, env=environ, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        parts = []
        while True:
            try:
                parts.append(os.read(ours, 65536))
            except OSError:  # Linux's end of file for a terminal
                break
        os.close(ours)
        assert process.wait(TIMEOUT_SECONDS) == 0
    text = b"".join(parts).decode()
    assert "starting 2 nodes" in text
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") >= 1
    assert "Traceback" not in text
    last = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).splitlines()[-1]
    assert last.split() == ["next", "bptcnn", "evaluate", "a"]
