"""A data set from the user's Python file: it defines `dataset`."""

from dataclasses import replace
from pathlib import Path

from bptcnn.data.files import shown
from bptcnn.data.samples import CUSTOM, Dataset
from bptcnn.errors import UserError
from bptcnn.python_files import defined_in


def read_python_file(path: Path) -> Dataset:
    """Run the file, which defines `dataset`: a Dataset, or a function of no arguments that returns one.

    Its `source` becomes the file's path, its name, where it has none, the file's. UserError for whatever goes wrong.
    """
    dataset = defined_in(path, "dataset")
    if not isinstance(dataset, Dataset):
        raise UserError(
            f"{shown(path)} must define `dataset`: a bptcnn.data.Dataset, or a function () that returns one"
        )
    return replace(dataset, source=str(path), name=path.stem if dataset.name == CUSTOM else dataset.name)
