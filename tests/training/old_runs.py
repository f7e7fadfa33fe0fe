"""What `data/run_of_7f75edc` was trained on: a run of a version whose checkpoints kept no optimizer states.

Made there by `bpt.train(NETWORK, dataset(), run_dir=..., epochs=2, **SETTINGS)`.
"""

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from bptcnn.data import Dataset, Samples
from bptcnn.networks import Dense, Dropout, Flatten, Network

FOLDER = Path(__file__).with_name("data") / "run_of_7f75edc"
NETWORK = Network((4, 4, 1), [Flatten(), Dense(6, activation="relu"), Dropout(0.5), Dense(3)], "small")
SETTINGS: dict[str, Any] = {
    "nodes": 2,
    "threads": 1,
    "batch_size": 8,
    "local_steps": 2,
    "lr": "0.05",
    "measure": False,
    "autotune": False,
}
SAMPLES = 120


def dataset() -> Dataset:
    """Images whose brightness says their class; the same everywhere, since nothing is drawn."""

    def samples(count: int) -> Samples:
        labels = np.arange(count, dtype=np.int32) % 3
        images = np.zeros((count, 4, 4, 1), np.uint8) + (60 * labels + 20).astype(np.uint8)[:, None, None, None]
        return Samples(images + (np.arange(16, dtype=np.uint8) * 2).reshape(4, 4, 1), labels)

    return Dataset(samples(SAMPLES), samples(30), 3, "old", "embedded")


def copied(folder: Path) -> Path:
    """Return a copy of the run folder, to go on in."""
    shutil.copytree(FOLDER, folder)
    return folder
