"""The report holds what files and hosts call themselves as text, and looks alike wherever it is made."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import bptcnn
from bptcnn.training.breakdown import break_down
from bptcnn.training.report import write_report
from bptcnn.training.summary import NodeSummary, Summary

ROOT = Path(bptcnn.__file__).parent.parent
EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"


def summary(name: str) -> Summary:
    node = NodeSummary(name, name, 1.0, None, 1, 0, 1.0, 0.0, 0.0, 0.0, 0, 0, name)
    return Summary(
        outcome="completed",
        reason=name,
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
        network=name,
        parameters=1,
        waiting_seconds=0.0,
        bytes_per_merge=0.0,
        communication_share=0.0,
        efficiency=None,
        breakdown=break_down([]),
        nodes=(node,),
    )


def test_names_are_text_and_no_markup(tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", summary(EVIL), [])
    page = (tmp_path / "report.html").read_text()
    assert "&lt;script&gt;" in page
    for markup in ("<script", "<img", "onerror=alert(2)>"):
        assert markup not in page


DRAW = """
import sys
from bptcnn.training.progress import EpochRow
from bptcnn.training.report import _curves
sys.stdout.write(_curves([EpochRow(epoch, 1.0, 1.0, 0.5, 0.5, 1.0) for epoch in (1, 2)], "test set"))
"""


@pytest.mark.parametrize("style", ["font.size: 77", "text.usetex: True", "axes.prop_cycle: cycler('color', ['r'])"])
def test_a_style_in_the_current_folder_does_not_count(tmp_path: Path, style: str) -> None:
    """It may be a foreign run folder, and usetex runs TeX."""
    (tmp_path / "styled").mkdir()
    (tmp_path / "plain").mkdir()
    (tmp_path / "styled" / "matplotlibrc").write_text(f"svg.hashsalt: a\n{style}\n")
    (tmp_path / "plain" / "matplotlibrc").write_text("")
    drawn = []
    for name in ("styled", "plain"):
        ended = subprocess.run(
            [sys.executable, "-c", DRAW],
            cwd=tmp_path / name,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert (ended.returncode, ended.stderr) == (0, "")
        drawn.append(sorted(line for line in ended.stdout.splitlines() if "url(#" not in line and "id=" not in line))
    assert len(drawn[0]) > 50
    assert [line for line in drawn[0] if "href" not in line] == [line for line in drawn[1] if "href" not in line]
