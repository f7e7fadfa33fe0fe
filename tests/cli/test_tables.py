"""Tables of results: in any terminal nothing of them is cut."""

import io
from pathlib import Path

import pytest
from bptcnn_cli.result import show_result
from bptcnn_cli.tables import new_table, show_table
from rich.console import Console
from rich.table import Table

from bptcnn.training import Result
from bptcnn.training.breakdown import Breakdown
from bptcnn.training.summary import NodeSummary, Summary


def printed(table: Table, width: int) -> list[str]:
    output = io.StringIO()
    show_table(Console(file=output, width=width, highlight=False, markup=False), table)
    return [line.rstrip() for line in output.getvalue().splitlines()]


def wide() -> Table:
    table = new_table("network", "forward\nms", "images/s", "note")
    table.add_row("a-long-name", "1.25", "123,456", "")
    table.add_row("b", "0.50", "-", "slow")
    return table


def test_a_table_that_fits_is_a_table() -> None:
    lines = printed(wide(), 80)
    assert [line.split() for line in lines] == [
        ["forward"],
        ["network", "ms", "images/s", "note"],
        ["a-long-name", "1.25", "123,456"],
        ["b", "0.50", "-", "slow"],
    ]


def test_a_table_that_does_not_fit_is_a_list() -> None:
    assert [line.split() for line in printed(wide(), 30)] == [
        ["a-long-name"],
        ["forward", "ms", "1.25"],
        ["images/s", "123,456"],
        ["b"],
        ["forward", "ms", "0.50"],
        ["images/s", "-"],
        ["note", "slow"],
    ]


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_a_result_is_whole(width: int, encoding: str) -> None:
    reason = "its process was killed by signal 9"
    node = dict.fromkeys(("wait_seconds", "communication_seconds", "transfer_seconds"), 12.25)
    summary = Summary(
        outcome="stopped",
        reason="interrupted",
        test_accuracy=0.98765,
        best_epoch=3,
        best_accuracy=0.98765,
        chosen_by="validation set",
        train_seconds=12345.6,
        setup_seconds=1.5,
        images_per_second=123456.7,
        images_trained=987654321,
        images_redone=4321,
        epochs=3,
        updates=99,
        update="agwu",
        partition="idpa",
        network="cnn2",
        parameters=1000,
        waiting_seconds=0.0,
        bytes_per_merge=0.0,
        communication_share=0.1,
        efficiency=0.95,
        breakdown=Breakdown(80_000.0, *(10_000.125 + part for part in range(7)), slowdown=None),
        nodes=tuple(
            NodeSummary(
                **node, name=name, host="h", speed=0.25, alone_images_per_second=123456.7, images=123456789,
                refused=0, compute_seconds=1000.0, bytes_sent=0, bytes_received=0, lost=lost,
            )
            for name, lost in (("node0", None), ("a-host-with-a-long-name.example.org", reason))
        ),
    )  # fmt: skip
    raw = io.BytesIO()
    output = io.TextIOWrapper(raw, encoding=encoding, errors="backslashreplace")
    console = Console(file=output, width=width, highlight=False, markup=False)
    show_result(console, Result(summary, Path("runs/a"), ()), quiet=False)
    output.flush()
    text = raw.getvalue().decode(encoding)
    words = text.split()
    assert "…" not in text
    assert "\\u" not in text
    for part in ("compute", "waiting", "merging", "communication", "imbalance", "evaluation", "other"):
        assert part in words
    assert [f"{10_000.125 + part:.2f}" in words for part in range(7)] == [True] * 7
    assert "a-host-with-a-long-name.example.org" in words
    assert f"a-host-with-a-long-name.example.org lost: {reason}" in " ".join(words)
    assert words.count("123,456,789") == 2
