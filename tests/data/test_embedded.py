"""The embedded sample: balanced, the same at every load, rows of the real set, and refused when damaged."""

from __future__ import annotations

import hashlib
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from bptcnn.data import Dataset, embedded, load
from bptcnn.data.loading import FASHION_MNIST_FOLDER
from bptcnn.data.sample import make
from bptcnn.errors import UserError


@pytest.fixture(scope="module")
def sample() -> Dataset:
    return load()


def test_shape_and_balance(sample: Dataset) -> None:
    assert (sample.name, sample.source, sample.classes) == ("fashion-mnist-sample", "fashion-mnist-sample", 10)
    for part, each in ((sample.train, 1000), (sample.test, 200)):
        assert part.images.dtype == np.uint8
        assert part.images.flags.writeable
        assert part.input_shape == (28, 28, 1)
        np.testing.assert_array_equal(np.bincount(part.labels), np.full(10, each))
        assert 60 < part.images.mean() < 90  # the real set's mean is 73


def test_by_name_and_again_it_is_the_same(sample: Dataset) -> None:
    again = load("fashion-mnist-sample")
    np.testing.assert_array_equal(again.train.images, sample.train.images)
    np.testing.assert_array_equal(again.test.images, sample.test.images)
    assert not np.shares_memory(again.train.images, sample.train.images)


def test_training_and_test_images_are_kept_apart(sample: Dataset) -> None:
    train = {image.tobytes() for image in sample.train.images}
    assert sum(image.tobytes() in train for image in sample.test.images) == 0


def test_size_and_licence() -> None:
    folder = resources.files("bptcnn.data.sample")
    assert sum(len(item.read_bytes()) for item in folder.iterdir() if item.is_file()) < 6_000_000
    licence = (folder / "LICENSE-fashion-mnist").read_text()
    assert "Copyright (c) 2017 Zalando SE, https://tech.zalando.com" in licence


@pytest.mark.skipif(not FASHION_MNIST_FOLDER.is_dir(), reason="dataset-fashion-mnist is not installed")
def test_it_is_what_the_script_makes_of_the_full_set(sample: Dataset) -> None:
    full = load("fashion-mnist")
    assert (len(full.train), len(full.test), full.classes, full.name) == (60_000, 10_000, 10, "fashion-mnist")
    for part, whole, each in ((sample.train, full.train, 1000), (sample.test, full.test, 200)):
        rows = make.first_of_each_class(whole.labels, each)
        np.testing.assert_array_equal(part.images, whole.images[rows])
        np.testing.assert_array_equal(part.labels, whole.labels[rows])
    assert hashlib.sha256(make.content_of(full.train, full.test)).hexdigest() == embedded.SHA256


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "noise", "missing"])
def test_a_damaged_installation_is_said(damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = (resources.files("bptcnn.data.sample") / embedded.FILE).read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 16
    contents = {"cut": whole[:-1000], "flip": bytes(flipped), "empty": b"", "noise": b"noise" * 99}
    if damage in contents:
        (tmp_path / embedded.FILE).write_bytes(contents[damage])
    monkeypatch.setattr("bptcnn.data.embedded.resources.files", lambda package: tmp_path)
    with pytest.raises(UserError) as refused:
        load()
    assert str(refused.value).startswith(f"cannot read {tmp_path / embedded.FILE}: ")
    assert ("no such file" if damage == "missing" else "reinstall bptcnn") in str(refused.value)


def test_the_script_refuses_a_folder_without_the_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert make.main([]) == 2
    assert make.main([str(tmp_path)]) == 2
    assert "python -m bptcnn.data.sample.make" in capsys.readouterr().err
