"""One finished run that tests may look at but not change."""

from pathlib import Path

import pytest
from programs import bptcnn, write_npz

EPOCHS = 3


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small data set."""
    return write_npz(tmp_path_factory.mktemp("data") / "columns.npz")


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    """The folder of a run that has ended, its output beside it in `output.txt`."""
    folder = tmp_path_factory.mktemp("finished")
    ended = bptcnn("train", data, "--epochs", str(EPOCHS), "--batch-size", "16", "--run-dir", "run", folder=folder)
    assert ended.code == 0, ended
    assert ended.err == "", ended
    (folder / "output.txt").write_text(ended.out)
    return folder / "run"
