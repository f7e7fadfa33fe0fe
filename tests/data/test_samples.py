"""Samples and Dataset: what they accept, what they refuse, and taking rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from bptcnn.data import Dataset, Samples, doubts
from bptcnn.errors import UserError


def some(n: int = 6, classes: int = 3) -> Samples:
    images = np.arange(n * 4 * 3 * 2, dtype=np.uint8).reshape(n, 4, 3, 2)
    return Samples(images, (np.arange(n) % classes).astype(np.int32))


@pytest.mark.parametrize(
    ("images", "labels", "expected"),
    [
        (np.zeros((2, 4, 3), np.uint8), np.zeros(2, np.int32), "shape"),
        (np.zeros((2, 0, 3, 1), np.uint8), np.zeros(2, np.int32), "shape"),
        (np.zeros((2, 4, 3, 1)), np.zeros(2, np.int32), "images are float64"),
        (np.zeros((2, 4, 3, 2), np.uint8)[..., :1], np.zeros(2, np.int32), "C-contiguous"),
        (np.zeros((2, 4, 3, 1), np.uint8), np.zeros(2, np.int64), "labels are int64"),
        (np.zeros((2, 4, 3, 1), np.uint8), np.zeros((2, 1), np.int32), "of shape (2, 1)"),
        (np.zeros((2, 4, 3, 1), np.uint8), np.zeros(3, np.int32), "2 images but 3 labels"),
        (np.zeros((2, 4, 3, 1), np.uint8), np.array([0, -5], np.int32), "label -5 of sample 1"),
        (np.full((2, 4, 3, 1), np.nan, np.float32), np.zeros(2, np.int32), "NaN"),
        (np.full((2, 4, 3, 1), np.inf, np.float32), np.zeros(2, np.int32), "infinite"),
        (np.full((2, 4, 3, 1), -100, np.float32), np.zeros(2, np.int32), "scale"),
    ],
)
def test_unfit_arrays_are_refused(images: Any, labels: Any, expected: str) -> None:
    with pytest.raises(UserError) as refused:
        Samples(images, labels)
    assert expected in str(refused.value)
    assert "\n" not in str(refused.value)


def test_one_nan_among_many() -> None:
    images = np.zeros((50, 8, 8, 1), np.float32)
    images[31, 5, 2, 0] = np.nan
    with pytest.raises(UserError, match="NaN"):
        Samples(images, np.zeros(50, np.int32))


def test_of_does_not_copy_what_fits() -> None:
    samples = some()
    again = Samples.of(samples.images, samples.labels)
    assert again.images is samples.images or np.shares_memory(again.images, samples.images)
    assert np.shares_memory(again.labels, samples.labels)


@pytest.mark.parametrize("indices", [[4, 0, 4], np.array([5], np.uint8), [], range(6), [-1]])
def test_take(indices: Any) -> None:
    samples = some()
    taken = samples.take(indices)
    rows: npt.NDArray[np.intp] = np.array(indices, np.intp)
    np.testing.assert_array_equal(taken.images, samples.images[rows])
    np.testing.assert_array_equal(taken.labels, samples.labels[rows])
    assert not np.shares_memory(taken.images, samples.images)
    assert len(taken) == len(rows)
    assert taken.input_shape == (4, 3, 2)


def test_take_of_what_is_not_there() -> None:
    with pytest.raises(IndexError):
        some().take([6])
    with pytest.raises(TypeError):
        some().take([1.5])
    with pytest.raises(TypeError):
        some().take(np.ones(6, np.bool_))


def test_dataset_refuses_parts_that_do_not_fit_together() -> None:
    samples = some()
    assert Dataset(samples, samples, 3, "a", "b").classes == 3
    floats = Samples((samples.images / 255).astype(np.float32), samples.labels)
    flat = Samples(samples.images.reshape(-1, 2, 6, 2), samples.labels)
    for train, test, classes, expected in [
        (samples, samples, 2, "label 2 of training sample 2 is out of range: there are 2 classes"),
        (samples.take([0]), samples, 2, "label 2 of test sample 2"),
        (samples.take([0]), samples.take([0]), 1, "at least two"),
        (samples, samples.take([]), 3, "the test set is empty"),
        (samples.take([]), samples, 3, "the training set is empty"),
        (samples, floats, 3, "test images float32"),
        (samples, flat, 3, "test images (2, 6, 2)"),
    ]:
        with pytest.raises(UserError) as refused:
            Dataset(train, test, classes, "a", "b")
        assert expected in str(refused.value)


@pytest.mark.parametrize("shape", [(5, 1, 28, 28), (5, 3, 32, 32), (5, 3, 240, 320), (5, 4, 8, 8)])
def test_channels_first_is_told_with_its_remedy(shape: tuple[int, ...]) -> None:
    images, labels = np.zeros(shape, np.uint8), np.arange(len(shape) + 1) % 2
    with pytest.raises(UserError, match=r"look channels-first.*images\.transpose\(0, 2, 3, 1\)"):
        Samples.of(images, labels)
    turned = Samples.of(images.transpose(0, 2, 3, 1), labels)
    assert turned.input_shape == (shape[2], shape[3], shape[1])
    assert Samples(images, labels.astype(np.int32)).input_shape == shape[1:], "who means it so can have it"


@pytest.mark.parametrize(
    ("convert", "said"),
    [
        (lambda x, y: (x, np.eye(10)[y]), r"look one-hot: give labels\.argmax\(1\)$"),
        (lambda x, y: (x, np.eye(10, dtype=int)[y]), r"look one-hot: give labels\.argmax\(1\)$"),
        (lambda x, y: (x, y.astype(float)), r"float64, not integers: give labels\.astype\(int\)$"),
        (lambda x, y: (x, y > 4), r"bool, not integers: give labels\.astype\(int\)$"),
        (lambda x, y: (x, y + 0.5), r"return_inverse=True\)\[1\] numbers classes$"),
        (lambda x, y: (x, y.astype(str)), r"return_inverse=True\)\[1\] numbers classes$"),
        (lambda x, y: (x.astype(int), y), r"int64, not uint8 or float: give images\.astype\(numpy\.uint8\)$"),
        (lambda x, y: (x > 9, y), r"bool, not uint8 or float: give images\.astype\(numpy\.float32\)$"),
        (lambda x, y: (x.astype(int) - 300, y), r"they reach from -300 to -\d+, scale them to about 0 to 1"),
        (lambda x, y: (x.reshape(len(x), -1), y), r"are flat: give them \(12, 12, 1\) by images\.reshape$"),
        (lambda x, y: (x.reshape(len(x), -1)[:, 1:], y), r"are flat: give them the height, width and channels"),
    ],
)
def test_arrays_that_need_converting_are_told_how(convert: Any, said: str) -> None:
    images = np.random.default_rng(0).integers(0, 200, (20, 12, 12, 1), np.uint8)
    labels = np.arange(20) % 10
    with pytest.raises(UserError, match=said) as caught:
        Samples.of(*convert(images, labels))
    assert "\n" not in str(caught.value)
    assert len(Samples.of(images, labels)) == 20


def test_what_is_most_likely_not_meant_is_told() -> None:
    images = np.zeros((20, 8, 8, 1), np.uint8)
    labels = np.arange(20) % 10
    assert doubts(Dataset.of(images, labels, images, labels)) == []
    assert "below 1" in doubts(Dataset.of(images, labels + 1, images, labels + 1))[0]
    (told,) = doubts(Dataset.of(images, labels % 3, images, labels))
    assert told.endswith("count as wrong: 3, 4, 5, 6, 7, ...")
    (told,) = doubts(Dataset.of(images, labels % 9, images, labels))
    assert told.endswith("count as wrong: 9")


@pytest.mark.parametrize("shape", [(5, 28, 28), (5, 28, 28, 1), (5, 1, 128, 9), (5, 4, 4, 4), (5, 3, 3, 512)])
def test_other_thin_images_are_taken(shape: tuple[int, ...]) -> None:
    assert len(Samples.of(np.zeros(shape, np.uint8), np.arange(5) % 2)) == 5
