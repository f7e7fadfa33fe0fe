"""What a process does once, for its first run, is done before tests look for what runs leave behind."""

from pathlib import Path

import pytest

from bptcnn.training.breakdown import break_down
from bptcnn.training.progress import EpochRow
from bptcnn.training.report import write_report
from bptcnn.training.summary import Summary


@pytest.fixture(scope="session", autouse=True)
def fonts_are_open(tmp_path_factory: pytest.TempPathFactory) -> None:
    """matplotlib keeps the fonts that it has used open."""
    summary = Summary(
        outcome="completed",
        reason="",
        test_accuracy=0.5,
        best_epoch=1,
        best_accuracy=0.5,
        chosen_by="test set",
        train_seconds=1.0,
        setup_seconds=1.0,
        images_per_second=1.0,
        images_trained=1,
        images_redone=0,
        epochs=1,
        updates=1,
        update="agwu",
        partition="idpa",
        network="none",
        parameters=1,
        waiting_seconds=0.0,
        bytes_per_merge=0.0,
        communication_share=0.0,
        efficiency=None,
        breakdown=break_down([]),
        nodes=(),
    )
    report: Path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(report, summary, [EpochRow(epoch, 1.0, 1.0, 0.5, 0.5, 1.0) for epoch in (1, 2)])
