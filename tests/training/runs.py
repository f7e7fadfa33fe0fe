"""Small runs: the data, the settings that make them quick, and what must hold of every finished one."""

import csv
import functools
import json
from pathlib import Path
from typing import Any

import numpy as np

import bptcnn as bpt
from bptcnn.data import Dataset
from bptcnn.networks import Network
from bptcnn.training import Result

COLUMNS = ["epoch", "seconds", "train_loss", "train_accuracy", "test_accuracy", "images_per_second"]
SMALL = {"batch_size": 16, "local_steps": 2, "threads": 1, "lr": "0.03", "measure": False, "autotune": False}


@functools.cache
def data(train: int = 1000, test: int = 400) -> Dataset:
    """The first images of the embedded sample."""
    whole = bpt.data.load()
    return Dataset(whole.train.take(np.arange(train)), whole.test.take(np.arange(test)), 10, "small", "embedded")


def lenet() -> Network:
    return bpt.networks.lenet5()


def run(folder: Path, dataset: Dataset | None = None, network: Network | None = None, **settings: Any) -> Result:
    """A run of lenet5 on 1000 images unless told otherwise."""
    return bpt.train(network or lenet(), dataset or data(), run_dir=folder, **{**SMALL, **settings})


def summary(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return found


def metrics(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def listed(folder: Path) -> list[dict[str, Any]]:
    """The entries of nodes.json."""
    found: list[dict[str, Any]] = json.loads((folder / "nodes.json").read_text())
    return found


def pids(folder: Path) -> dict[str, int]:
    return {entry["name"]: entry["pid"] for entry in listed(folder)}


def check_counts(folder: Path, samples: int, epochs: int) -> dict[str, Any]:
    """Every sample was trained once in every epoch, by nodes that account for all of them, and the files say so."""
    found = summary(folder)
    assert found["images_trained"] == samples * epochs
    assert sum(node["images"] for node in found["nodes"]) == samples * epochs
    assert found["epochs"] == epochs
    assert [row["epoch"] for row in metrics(folder)] == [str(epoch) for epoch in range(1, epochs + 1)]
    assert not list(folder.glob(".*")), "a temporary file was left"
    return found
