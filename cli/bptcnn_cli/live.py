"""The display on a terminal: finished epochs as lines, below them one picture that moves."""

import time

from rich.console import Console, Group, OverflowMethod, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from bptcnn.outer import NodeStatus
from bptcnn.training.progress import EpochRow, Snapshot
from bptcnn_cli.plain import counted, speed
from bptcnn_cli.relay import Display
from bptcnn_cli.tables import needs_ascii, new_table, spinner

_HEADING = "epoch  seconds  train loss  train accuracy"
_ROWS_AROUND = 6  # lines of the picture that are no nodes, and one for the cursor
_LEAST_NODE_ROWS = 3


class LiveDisplay(Display):
    """Draws a run: the step of the set-up, then a bar over all epochs and a table of the nodes."""

    def __init__(self, console: Console, measured: str) -> None:
        self._console = console
        self._measured = f"{measured} accuracy"
        self._live, self._reopens = self._new_live(), False
        self._spinner: Spinner | None = None
        self._since = 0.0

    def setup(self, message: str) -> None:
        """Show the step with a clock."""
        self._spinner, self._since = Spinner(spinner(self._console), style="cyan"), time.monotonic()
        self._spinner.text = Text(message)
        self._live.start()
        self.tick()

    def started(self, names: tuple[str, ...], samples: int, epochs: int) -> None:
        """Print what is trained by whom, and the heading of the epochs."""
        self._spinner = None
        self._live.start()
        nodes = counted(len(names), "node")
        self._console.print(f"Training on {nodes}: {samples:,} images an epoch, {counted(epochs, 'epoch')}")
        self._console.print(f"{_HEADING}  {self._measured}  images/s", style="dim", no_wrap=True)

    def progress(self, snapshot: Snapshot) -> None:
        """Show where the run is."""
        self._live.update(picture(snapshot, self._console), refresh=True)

    def epoch_ended(self, row: EpochRow, best: bool) -> None:
        """Print the epoch above the picture."""
        line = Text(
            f"{row.epoch:>5}  {row.seconds:>7.2f}  {row.train_loss:>10.4f}  {row.train_accuracy:>14.4f}  "
            f"{row.test_accuracy:>{len(self._measured)}.4f}  {speed(row.images_per_second, ',.0f'):>8}",
            no_wrap=True,
        )
        if best:
            line.append("  best", style="green")
        self._console.print(line)

    def warning(self, message: str) -> None:
        """Print it."""
        self._console.print(Text.assemble(("Note", "yellow"), f": {message}"))

    def submission_refused(self, name: str, reason: str) -> None:
        """Print whose and why."""
        line = Text.assemble((f"Refused a submission of {name}", "yellow"), f": {reason}; its images are trained again")
        self._console.print(line)

    def node_lost(self, name: str, reason: str) -> None:
        """Print who is gone."""
        line = Text.assemble((f"Lost {name}", "red"), f": {reason}; the others train its samples")
        self._console.print(line)

    def node_joined(self, name: str) -> None:
        """Print who is new."""
        self._console.print(Text.assemble((f"{name} has joined", "green"), " and trains"))

    def node_returned(self, name: str) -> None:
        """Print who is back."""
        self._console.print(Text.assemble((f"{name} is back", "green"), " and trains"))

    @property
    def moves(self) -> bool:
        """Whether a step of the set-up goes on."""
        return self._spinner is not None

    def tick(self) -> None:
        """Draw the spinner's next frame."""
        if self._spinner is not None:
            seconds = int(time.monotonic() - self._since)
            shown: RenderableType = self._spinner
            if seconds >= 1:
                shown = Table.grid(padding=(0, 1))
                shown.add_row(self._spinner, Text(f"{seconds} s", style="dim"))
            self._live.update(shown, refresh=True)

    def close(self) -> None:
        """Take the picture away; the lines stay."""
        self._reopens = self._live.is_started
        self._live.stop()

    def reopen(self) -> None:
        """Begin a new picture, below whatever was printed meanwhile, where there was one."""
        self._live = self._new_live()
        if self._reopens:
            self._live.start()

    def _new_live(self) -> Live:
        return Live(console=self._console, auto_refresh=False, transient=True)


def picture(snapshot: Snapshot, console: Console) -> RenderableType:
    """Return the moving part of the display for a terminal."""
    nodes = _nodes(snapshot.nodes, console.height - _ROWS_AROUND, "crop" if needs_ascii(console) else "ellipsis")
    return Group(Text(), _progress(snapshot), Text(), *nodes)


def _progress(snapshot: Snapshot) -> RenderableType:
    total = snapshot.epochs * snapshot.samples
    done = (snapshot.epoch - 1) * snapshot.samples + snapshot.trained
    rate = snapshot.images_per_second
    left = duration((total - done) / rate) if rate > 0 else "-"
    line = Table.grid(expand=True, padding=(0, 1))
    line.add_column(no_wrap=True)
    line.add_column(ratio=1)
    for _ in range(3):
        line.add_column(no_wrap=True, justify="right")
    line.add_row(
        f"epoch {snapshot.epoch}/{snapshot.epochs}",
        ProgressBar(total=total, completed=done, complete_style="cyan", finished_style="cyan"),
        f"{done / total:4.0%}",
        f"{rate:,.0f} images/s",
        f"{left} left",
    )
    return line


def _nodes(nodes: tuple[NodeStatus, ...], rows: int, cut: OverflowMethod) -> list[RenderableType]:
    rows = max(rows, _LEAST_NODE_ROWS)
    shown = nodes if len(nodes) <= rows else nodes[: rows - 1]
    table = new_table()
    table.add_column("node", no_wrap=True, max_width=16, overflow=cut)
    for heading in ("images/s", "data", "images", "stale", "waiting"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("state", no_wrap=True, overflow=cut)
    for node in shown:
        table.add_row(*_row(node), style=None if node.live else "dim")
    hidden = nodes[len(shown) :]
    if not hidden:
        return [table]
    lost = sum(not node.live for node in hidden)
    return [table, Text(f"and {counted(len(hidden), 'more node')}{f', {lost} of them lost' if lost else ''}")]


def _row(node: NodeStatus) -> tuple[str | Text, ...]:
    totals = node.totals
    seconds = totals.compute_seconds + totals.wait_seconds + totals.communication_seconds
    return (
        node.name,
        f"{node.speed:,.0f}" if node.measured else "-",
        f"{node.share:.0%}",
        f"{totals.images:,}",
        str(node.staleness),
        f"{totals.wait_seconds / seconds:.0%}" if seconds > 0 else "-",
        _state(node),
    )


def _state(node: NodeStatus) -> Text:
    if node.away:
        return Text(f"away: {node.reason_lost}", style="yellow")
    if not node.live:
        return Text(f"lost: {node.reason_lost}" if node.reason_lost else "lost", style="red")
    return Text("paused", style="yellow") if node.paused else Text("training", style="green")


def duration(seconds: float) -> str:
    """Return "12 s", "3:05" (minutes) or "1:02:03" (hours)."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes}:{rest:02}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
