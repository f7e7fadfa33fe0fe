"""A data set from a Python file or from plain arrays, and one line for whatever is wrong with them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_files import grey, refusal

from bptcnn.data import Dataset, load
from bptcnn.errors import UserError

ARRAYS = """
import numpy as np
from bptcnn.data import Dataset, Samples
random = np.random.default_rng(0)
def arrays(n):
    return random.random((n, 4, 3)), np.arange(n) % 3
"""
VALUE = ARRAYS + "dataset = Dataset.of(*arrays(12), *arrays(6))\n"


def written(folder: Path, text: str, name: str = "mine.py") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_a_dataset_or_a_function_that_returns_one(tmp_path: Path) -> None:
    function = ARRAYS + "def dataset():\n    return Dataset.of(*arrays(12), *arrays(6))\n"
    for text in (VALUE, function):
        dataset = load(written(tmp_path, text))
        assert (len(dataset.train), len(dataset.test), dataset.classes) == (12, 6, 3)
        assert dataset.train.input_shape == (4, 3, 1)
        assert dataset.train.images.dtype == np.float32
        assert (dataset.name, dataset.source) == ("mine", str(tmp_path / "mine.py"))


def test_the_source_is_the_files_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path, VALUE)
    monkeypatch.chdir(tmp_path)
    assert load("mine.py").source == str(tmp_path / "mine.py")
    assert load("./mine.py").source == str(tmp_path / "mine.py")


def test_a_name_of_its_own_stays_and_the_source_of_what_it_took_up_does_not(tmp_path: Path) -> None:
    train, test = grey(12), grey(10)
    inner = tmp_path / "inner.npz"
    np.savez(inner, allow_pickle=False, x_train=train[0], y_train=train[1], x_test=test[0], y_test=test[1])
    text = f"""
from dataclasses import replace
from bptcnn.data import load
dataset = load({str(inner)!r})
dataset = replace(dataset, train=dataset.train.take(range(11)), name="eleven")
"""
    dataset = load(written(tmp_path, text))
    assert (dataset.name, dataset.source, len(dataset.train)) == ("eleven", str(tmp_path / "mine.py"), 11)


def test_it_is_run_as_a_script_is_not(tmp_path: Path) -> None:
    guarded = VALUE + "if __name__ == '__main__':\n    raise SystemExit('run')\n"
    assert len(load(written(tmp_path, guarded)).train) == 12
    beside = VALUE + "from pathlib import Path\nassert (Path(__file__).parent / 'mine.py').exists()\n"
    assert len(load(written(tmp_path, beside)).train) == 12


@pytest.mark.parametrize(
    ("text", "about"),
    [
        ("def dataset(:", "SyntaxError"),
        ("import no_such_module_anywhere", "no_such_module_anywhere"),
        ("raise ValueError('first line\\nsecond line')", "ValueError: first line second line"),
        ("x = 1", "must define `dataset`"),
        ("dataset = 3", "must define `dataset`"),
        ("def dataset(): pass", "must define `dataset`"),
        ("def dataset(path): pass", "TypeError"),
        ("def dataset(): return 1 // 0", "ZeroDivisionError"),
        ("from bptcnn.data import Dataset as dataset", "TypeError"),
        ("import sys\nsys.exit(3)", "SystemExit"),
        ("def dataset(): return dataset()", "RecursionError"),
        (VALUE.replace("arrays(6)", "arrays(0)"), "test set is empty"),
        (VALUE.replace("random.random", "300 * random.random"), "x_train, y_train: float images reach"),
        ("from bptcnn.data import load\ndataset = load('/nowhere/at/all')", "no such file or folder"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, text: str, about: str) -> None:
    path = written(tmp_path, text, "bad.py")
    message = refusal(path)
    assert message.startswith(str(path))
    assert about in message


def test_an_interrupt_is_no_error_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        load(written(tmp_path, "raise KeyboardInterrupt"))


def test_what_is_no_file(tmp_path: Path) -> None:
    assert "no such file or folder" in refusal(tmp_path / "missing.py")
    assert "or a .py file that defines `dataset`" in refusal(tmp_path / "missing.py")
    (tmp_path / "folder.py").mkdir()
    assert "nothing that can be read as a data set" in refusal(tmp_path / "folder.py")
    assert "two\\nlines.py" in refusal(written(tmp_path, "x = 1", "two\nlines.py"))


def test_plain_arrays_become_a_data_set() -> None:
    (x_train, y_train), (x_test, y_test) = grey(12), grey(10)
    dataset = Dataset.of(x_train, y_train[:, np.newaxis], x_test, y_test)
    assert (dataset.classes, dataset.name, dataset.source) == (10, "custom", "")
    assert np.shares_memory(dataset.train.images, x_train)
    assert Dataset.of(x_train, y_train, x_test, y_test, classes=12, name="mine").classes == 12
    lists: Any = (x_train.tolist(), y_train.tolist(), x_test.tolist(), y_test.tolist())
    with pytest.raises(UserError, match="x_train, y_train: images are int64"):
        Dataset.of(*lists)


def test_plain_arrays_that_do_not_fit_are_named() -> None:
    (x_train, y_train), (x_test, y_test) = grey(12), grey(10)
    with pytest.raises(UserError, match=r"^x_test, y_test: 10 images but 9 labels$"):
        Dataset.of(x_train, y_train, x_test, y_test[:9])
    with pytest.raises(UserError, match="label 9 of training sample 9 is out of range"):
        Dataset.of(x_train, y_train, x_test, y_test, classes=9)


def test_a_file_imports_what_lies_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `python mine.py` could; and nothing of its folder stays on the path."""
    written(tmp_path, ARRAYS, "beside_it.py")
    path = written(tmp_path, "from beside_it import *\ndataset = Dataset.of(*arrays(12), *arrays(6))\n")
    before = list(sys.path)
    monkeypatch.chdir("/")
    try:
        assert len(load(path).train) == 12
    finally:
        del sys.modules["beside_it"]
    assert sys.path == before
