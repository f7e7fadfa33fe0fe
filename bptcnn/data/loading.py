"""From what a user names as DATA to a data set."""

from __future__ import annotations

import os
from pathlib import Path

from bptcnn.data.cifar import is_cifar_folder, read_cifar_folder
from bptcnn.data.embedded import load_embedded
from bptcnn.data.files import reading, shown
from bptcnn.data.idx import is_idx_folder, read_idx_folder
from bptcnn.data.npz import read_npz
from bptcnn.data.python_file import read_python_file
from bptcnn.data.samples import Dataset
from bptcnn.errors import UserError
from bptcnn.names import path_of

SAMPLE = "fashion-mnist-sample"
FASHION_MNIST = "fashion-mnist"
FASHION_MNIST_FOLDER = Path("/usr/share/datasets/fashion-mnist")  # where Debian's dataset-fashion-mnist puts it

ACCEPTED = (
    f"accepted are the names {SAMPLE} and {FASHION_MNIST}, a folder with IDX files (train-images-idx3-ubyte[.gz], "
    "train-labels-idx1-ubyte[.gz], t10k-...), a folder with CIFAR-10's binary files (data_batch_1.bin to "
    "data_batch_5.bin, test_batch.bin), an .npz file with x_train, y_train, x_test, y_test, or a .py file that defines "
    "`dataset`"
)


def load(data: str | os.PathLike[str] | None = None) -> Dataset:
    """The data set that `data` names.

    None or "fashion-mnist-sample": the embedded sample. "fashion-mnist": the full set, from Debian's package.
    Anything else is a path: a folder of IDX files or of CIFAR-10's binary files, an .npz archive, or a Python file,
    which is run, that defines `dataset`: a Dataset, or a function of no arguments that returns one. ~ is your home
    folder. A path that is spelled like a name needs "./" in front. uint8 images stay uint8.

    Raises UserError, one line, if `data` is not recognised, a file is missing, unreadable or damaged, labels and
    images do not fit together, or there is too little memory.
    """
    if data is None or data == SAMPLE:
        return load_embedded(SAMPLE)
    if data == FASHION_MNIST:
        if not FASHION_MNIST_FOLDER.is_dir():
            raise UserError(
                f"{FASHION_MNIST} is not installed in {FASHION_MNIST_FOLDER}: run `apt install dataset-fashion-mnist` "
                "(Debian, Ubuntu) or give a folder with its IDX files"
            )
        return _load_path(FASHION_MNIST_FOLDER, FASHION_MNIST)
    path = path_of(data)
    if not os.fspath(data) or not _exists(path):
        raise UserError(f"{shown(data) or 'an empty name'}: no such file or folder, and no known name; {ACCEPTED}")
    return _load_path(path.absolute(), path.name or str(path))


def _exists(path: Path) -> bool:
    with reading(path):
        try:
            path.stat()
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return False  # ValueError: a NUL or a lone surrogate, which no file name has
        return True


def _load_path(path: Path, name: str) -> Dataset:
    if path.suffix == ".npz":
        return read_npz(path, path.stem)
    if path.suffix == ".py" and os.path.isfile(path):
        return read_python_file(path)
    names: frozenset[str] = frozenset()
    if os.path.isdir(path):
        with reading(path):
            names = frozenset(os.listdir(path))
        if is_idx_folder(names):
            return read_idx_folder(path, names, name)
        if is_cifar_folder(names):
            return read_cifar_folder(path, names, name)
    raise UserError(f"{shown(path)}: nothing that can be read as a data set; {ACCEPTED}")
