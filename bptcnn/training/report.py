"""report.html: one page, without scripts or links, on what a run reached and how its nodes shared the work."""

import html
import io
from collections.abc import Sequence
from pathlib import Path

from bptcnn.files import write_atomically
from bptcnn.own_settings import import_matplotlib, variables
from bptcnn.training.progress import EpochRow
from bptcnn.training.summary import Summary

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem } svg { max-width: 100%; height: auto }
table { border-collapse: collapse; margin: 1rem 0 }
td, th { padding: .3rem .8rem; text-align: right; border-bottom: 1px solid #ddd }
td:first-child, th:first-child { text-align: left }
"""


def write_report(path: Path, summary: Summary, rows: Sequence[EpochRow]) -> None:
    """Write the page; raise UserError where that fails."""
    accuracy = "not evaluated" if summary.test_accuracy is None else f"{summary.test_accuracy:.2%}"
    facts = [
        ("Outcome", f"{summary.outcome}: {summary.reason}"),
        ("Test accuracy", f"{accuracy}, of the last epoch"),
        ("Best epoch", "none" if summary.best_epoch is None else f"{summary.best_epoch} (by the {summary.chosen_by})"),
        ("Training time", f"{summary.train_seconds:.1f} s, set-up {summary.setup_seconds:.1f} s"),
        ("Speed", f"{summary.images_per_second:,.0f} images/s"),
        ("Images trained", f"{summary.images_trained:,}, trained again: {summary.images_redone:,}"),
        ("Updates", f"{summary.updates:,} by {summary.update}, data divided by {summary.partition}"),
        ("Network", f"{summary.network}, {summary.parameters:,} parameters"),
    ]
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(summary.network)} run</title>",
        f"<style>{_STYLE}</style><h1>{html.escape(summary.network)}: {accuracy} test accuracy</h1>",
        _table(["", ""], facts),
    ]
    if rows:
        parts += ["<h2>Epochs</h2>", _curves(rows, summary.chosen_by), _epochs(rows, summary.chosen_by)]
    parts += ["<h2>Nodes</h2>", _nodes(summary), "</html>"]
    write_atomically(path, "\n".join(parts))


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    def line(tag: str, cells: Sequence[object]) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(str(cell))}</{tag}>" for cell in cells) + "</tr>"

    top = line("th", head) if any(head) else ""
    return f"<table>{top}{''.join(line('td', row) for row in rows)}</table>"


def _epochs(rows: Sequence[EpochRow], measured: str) -> str:
    cells = [
        (
            row.epoch,
            f"{row.seconds:.1f}",
            f"{row.train_loss:.4f}",
            f"{row.train_accuracy:.2%}",
            f"{row.test_accuracy:.2%}",
            f"{row.images_per_second:,.0f}",
        )
        for row in rows
    ]
    return _table(["Epoch", "Seconds", "Train loss", "Train accuracy", f"Accuracy, {measured}", "Images/s"], cells)


def _nodes(summary: Summary) -> str:
    total = max(1, sum(node.images for node in summary.nodes))
    cells = [
        (
            node.name,
            "" if node.speed is None else f"{node.speed:g}",
            f"{node.images:,}",
            f"{node.images / total:.1%}",
            f"{node.compute_seconds:.1f}",
            f"{node.wait_seconds:.1f}",
            f"{node.communication_seconds:.1f}",
            node.refused or "",
            node.lost or "",
        )
        for node in summary.nodes
    ]
    head = ["Node", "Speed", "Images", "Share", "Compute s", "Wait s", "Communication s", "Refused", "Lost"]
    return _table(head, cells)


def _curves(rows: Sequence[EpochRow], measured: str) -> str:
    import_matplotlib()  # slow, and needed at a run's end only
    from matplotlib import rc_context, rcParamsDefault

    # not what a matplotlibrc in the current folder says, which may be somebody else's: usetex would run TeX
    defaults = {name: value for name, value in rcParamsDefault.items() if name != "backend"}
    with rc_context(defaults), variables(("SOURCE_DATE_EPOCH",)):  # which it reads as it draws
        return _drawn_curves(rows, measured)


def _drawn_curves(rows: Sequence[EpochRow], measured: str) -> str:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.2), layout="constrained")
    accuracy, loss = figure.subplots(1, 2)
    epochs = [row.epoch for row in rows]
    accuracy.plot(epochs, [row.train_accuracy for row in rows], "o-", label="training set")
    accuracy.plot(epochs, [row.test_accuracy for row in rows], "o-", label=measured)
    accuracy.set(xlabel="epoch", ylabel="accuracy")
    accuracy.legend()
    loss.plot(epochs, [row.train_loss for row in rows], "o-")
    loss.set(xlabel="epoch", ylabel="train loss")
    for axes in (accuracy, loss):
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
    drawn = io.StringIO()
    figure.savefig(drawn, format="svg", metadata={"Date": None})
    text = drawn.getvalue()
    return text[text.index("<svg") :]
