"""What `train` says at its end."""

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bptcnn.training.breakdown import Breakdown
from bptcnn.training.summary import NodeSummary, Summary
from bptcnn.untrusted import printable
from bptcnn_cli.live import duration
from bptcnn_cli.output import shell_word
from bptcnn_cli.plain import counted, speed
from bptcnn_cli.tables import new_table, show_table

if TYPE_CHECKING:
    from bptcnn.training import Result  # loads the kernels

_PARTS = ("compute", "waiting", "merging", "communication", "imbalance", "evaluation", "other")


def show_result(console: Console, result: "Result", quiet: bool) -> None:
    """Print the summary, or with `quiet` one line."""
    summary = result.summary
    accuracy = "not evaluated" if summary.test_accuracy is None else f"{summary.test_accuracy:.4f}"
    trained = f"{speed(summary.images_per_second, ',.0f')} images/s"
    if quiet:
        console.print(
            f"test accuracy {accuracy}, {summary.train_seconds:.1f} s, {trained}, {printable(str(result.run_dir))}",
            soft_wrap=True,
        )
        return
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")
    facts.add_row("test accuracy", Text.assemble((accuracy, "bold green"), " after the last epoch"))
    if summary.best_epoch is not None and summary.best_accuracy is not None:
        facts.add_row(
            "best epoch",
            f"{summary.best_epoch}, {summary.best_accuracy:.4f} on the {summary.chosen_by}; its weights are kept",
        )
    facts.add_row("training", _training(summary, trained))
    if summary.efficiency is not None:
        facts.add_row("efficiency", f"{summary.efficiency:.1%} of the nodes' summed speeds alone")
    if summary.images_redone:
        facts.add_row("redone", f"{summary.images_redone:,} images of lost nodes and refused submissions")
    refused = sum(node.refused for node in summary.nodes)
    if refused:
        facts.add_row("refused", f"{counted(refused, 'submission')} that diverged")
    if summary.outcome != "completed":
        facts.add_row(summary.outcome, summary.reason)
    console.print()
    console.print(facts)
    console.print()
    show_table(console, _nodes(summary.nodes))
    for node in summary.nodes:
        if node.lost:
            console.print(Text.assemble(f"{node.name} ", ("lost", "red"), f": {node.lost}"), soft_wrap=True)
    console.print()
    show_table(console, _node_time(summary.breakdown))
    console.print()
    run = shell_word(result.run_dir)
    for name, text in (("run folder", run), ("next", f"bptcnn evaluate {run}")):
        console.print(Text.assemble((f"{name:<15}", "dim"), text), soft_wrap=True)


def _training(summary: Summary, trained: str) -> str:
    seconds = summary.train_seconds
    time = f"{seconds:.1f} s" if seconds < 60 else duration(seconds)
    return f"{time} at {trained}, set-up {summary.setup_seconds:.1f} s"


def _nodes(nodes: tuple[NodeSummary, ...]) -> Table:
    """Each node's share of the images beside its share of the speed: alike, if the work was well balanced."""
    table = new_table("node", "speed", "of all", "alone", "images", "of all", "waiting")
    speeds, images = sum(node.speed or 0.0 for node in nodes), sum(node.images for node in nodes)
    for node in nodes:
        seconds = node.compute_seconds + node.wait_seconds + node.communication_seconds
        table.add_row(
            node.name,
            "-" if node.speed is None else f"{node.speed:g}",
            "-" if node.speed is None else f"{node.speed / speeds:.0%}",
            "-" if node.alone_images_per_second is None else f"{node.alone_images_per_second:,.0f}/s",
            f"{node.images:,}",
            f"{node.images / images:.0%}" if images else "-",
            f"{node.wait_seconds / seconds:.0%}" if seconds > 0 else "-",
        )
    return table


def _node_time(breakdown: Breakdown) -> Table:
    """Where the nodes' time went, in seconds and as shares of it."""
    parts = {name: getattr(breakdown, name) for name in _PARTS}
    table = new_table("node time", *parts)
    table.add_row("seconds", *(f"{seconds:.2f}" for seconds in parts.values()))
    if breakdown.total > 0.0:
        table.add_row("share", *(f"{seconds / breakdown.total:.1%}" for seconds in parts.values()))
    return table
