"""A data set from the user's Python file: it defines `dataset`."""

import runpy
from dataclasses import replace
from pathlib import Path

from bptcnn.data.files import shown
from bptcnn.data.samples import CUSTOM, Dataset
from bptcnn.errors import UserError


def read_python_file(path: Path) -> Dataset:
    """Run the file, which defines `dataset`: a Dataset, or a function of no arguments that returns one.

    Its `source` becomes the file's path, its name, where it has none, the file's. UserError for whatever goes wrong.
    """
    try:
        found = runpy.run_path(str(path)).get("dataset")
        dataset = found() if callable(found) else found
    except UserError as error:
        raise UserError(f"{shown(path)}: {error}") from None
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        reason = " ".join(str(error).split())
        raise UserError(f"{shown(path)} failed: {type(error).__name__}: {reason}") from None
    if not isinstance(dataset, Dataset):
        raise UserError(
            f"{shown(path)} must define `dataset`: a bptcnn.data.Dataset, or a function () that returns one"
        )
    return replace(dataset, source=str(path), name=path.stem if dataset.name == CUSTOM else dataset.name)
