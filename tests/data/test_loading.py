"""Naming data: known names, paths, and what is neither."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from data_files import grey, refusal, write_cifar, write_idx
from hypothesis import given, settings
from hypothesis import strategies as st

from bptcnn.data import load, loading

NAMES = ["fashion-mnist-sample", "fashion-mnist"]


@pytest.mark.parametrize("data", ["imagenet", "", "/nowhere/at/all", "two\nlines", "/etc/passwd/x"])
def test_unknown_names_are_refused_with_what_is_accepted(data: str) -> None:
    message = refusal(data)
    assert all(name in message for name in [*NAMES, "train-images-idx3-ubyte", "data_batch_1.bin", ".npz", "x_train"])


@pytest.mark.parametrize("data", ["a\0b", "\ud800"])
def test_what_no_file_can_be_called_is_refused(data: str) -> None:
    assert refusal(data).endswith("cannot be the name of a file")


@settings(deadline=None, max_examples=100)
@given(st.text(max_size=300))
def test_any_text_that_is_no_path_is_refused(text: str) -> None:
    refusal("/nowhere" + text)


def test_what_holds_no_data_set_is_refused(tmp_path: Path) -> None:
    assert "nothing that can be read as a data set; accepted are" in refusal(tmp_path)
    file = tmp_path / "notes.txt"
    file.write_text("hello")
    assert "nothing that can be read as a data set; accepted are" in refusal(file)
    os.mkfifo(tmp_path / "pipe.npz")
    assert refusal(tmp_path / "pipe.npz").endswith("it is not a regular file")


def test_full_set_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "FASHION_MNIST_FOLDER", tmp_path / "none")
    assert "apt install dataset-fashion-mnist" in refusal("fashion-mnist")


def test_a_path_that_is_spelled_like_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "fashion-mnist"
    folder.mkdir()
    write_idx(folder, grey(12), grey(10))
    monkeypatch.chdir(tmp_path)
    assert len(load("./fashion-mnist").train) == 12
    assert len(load(Path("fashion-mnist")).train) == 12


def test_idx_comes_before_cifar_and_plain_before_gz(tmp_path: Path) -> None:
    images = grey(5, 32, 32)[0][..., None].repeat(3, axis=3)
    write_cifar(tmp_path, images, grey(5)[1], (images, grey(5)[1]))
    assert load(tmp_path).train.input_shape == (32, 32, 3)
    write_idx(tmp_path, grey(11), grey(10), gz=True)
    assert len(load(tmp_path).train) == 11
    write_idx(tmp_path, grey(12), grey(10))
    assert len(load(tmp_path).train) == 12


def test_a_folder_that_may_not_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(path: Path) -> list[str]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("bptcnn.data.loading.os.listdir", denied)
    assert refusal(tmp_path) == f"cannot read {tmp_path}: permission denied"


def test_odd_folder_names_stay_on_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "two\nlines"
    folder.mkdir()
    write_idx(folder, grey(12), grey(10))
    (folder / "train-labels-idx1-ubyte").unlink()
    assert "two\\nlines" in refusal(folder)


def test_import_brings_numpy_and_nothing_heavier() -> None:
    code = "import bptcnn.data, sys; print([m for m in ('psutil', 'numba', 'matplotlib', 'typer') if m in sys.modules])"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed == "[]\n"
