"""`bptcnn evaluate`."""

import json
from pathlib import Path

import numpy as np
from programs import bptcnn, refused, write_npz


def test_it_finds_the_accuracy_that_training_found(finished: Path, tmp_path: Path) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    ended = bptcnn("evaluate", finished, folder=tmp_path)
    assert (ended.code, ended.err) == (0, "")
    line = ended.out.splitlines()[-1]
    assert line == f"test accuracy {summary['best_accuracy']:.4f} on 100 images of columns"
    last = bptcnn("evaluate", finished, "--last", "--json", folder=tmp_path)
    found = json.loads(last.out)
    assert found["test_accuracy"] == summary["test_accuracy"]
    assert found["checkpoint"] == "last"


def test_on_other_data(finished: Path, tmp_path: Path) -> None:
    write_npz(tmp_path / "other.npz", 40, 60)
    ended = bptcnn("evaluate", finished, "other.npz", "--json", folder=tmp_path)
    found = json.loads(ended.out)
    assert (found["images"], found["data"], found["network"]) == (60, "other", "cnn2")
    assert 0.0 <= found["test_accuracy"] <= 1.0


def test_data_with_classes_that_the_network_lacks_is_refused(finished: Path, tmp_path: Path) -> None:
    data = dict(np.load(write_npz(tmp_path / "other.npz", 40, 60)))
    np.savez(tmp_path / "more.npz", allow_pickle=False, **{**data, "y_test": data["y_test"] + 1})
    said = refused("evaluate", finished, "more.npz", folder=tmp_path)
    assert "15 of 60 labels are no class of cnn2, which tells 4 classes apart" in said
