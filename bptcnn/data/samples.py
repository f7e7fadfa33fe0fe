"""What every reader returns and every run consumes: images in NHWC with one integer label each."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bptcnn.errors import UserError

Images = npt.NDArray[np.uint8] | npt.NDArray[np.float32]
Labels = npt.NDArray[np.int32]

# Beyond this magnitude floats are not scaled pixels, standardised ones included: most likely bytes kept as floats.
LARGEST_FLOAT = 64.0

NUMBERED = "numpy.unique(labels, return_inverse=True)[1]"  # labels of any kind as class numbers
CUSTOM = "custom"  # the name of a data set that was given none


@dataclass(frozen=True, eq=False)
class Samples:
    """Images and their labels.

    `images`: (N, H, W, C), C-contiguous; uint8, where a value v means v/255, or float32, taken as it is.
    `labels`: (N,), int32, from 0. N may be 0; H, W and C may not.
    Raises UserError if shapes, types or counts differ from that, or a float is NaN, infinite or beyond +-64.
    """

    images: Images
    labels: Labels

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        if images.dtype not in (np.uint8, np.float32):
            raise UserError(f"images are {images.dtype}, not uint8 (0 to 255) or float32 (about 0 to 1)")
        if images.ndim != 4 or 0 in images.shape[1:]:
            raise UserError(f"images have shape {images.shape}, not (N, height, width, channels)")
        if not images.flags.c_contiguous:
            raise UserError("images are not C-contiguous: pass them through numpy.ascontiguousarray")
        if labels.dtype != np.int32 or labels.ndim != 1:
            raise UserError(f"labels are {labels.dtype} of shape {labels.shape}, not int32 of shape (N,)")
        if len(images) != len(labels):
            raise UserError(f"{len(images)} images but {len(labels)} labels")
        if len(labels) and labels.min() < 0:
            raise UserError(f"label {labels.min()} of sample {labels.argmin()} is out of range: labels count from 0")
        if images.dtype == np.float32:
            _check_floats(images)

    @classmethod
    def of(cls, images: npt.NDArray[Any], labels: npt.NDArray[Any]) -> Samples:
        """Samples from arrays as users hold them; what already fits is not copied.

        `images`: (N, H, W) or (N, H, W, C), uint8 or any float type. `labels`: (N,) or (N, 1), any integer type.
        Raises UserError for everything else, and for images that look like (N, C, H, W), and says how to convert it.
        """
        if images.dtype.kind in "iub" and images.dtype != np.uint8:
            raise UserError(f"images are {images.dtype}, not uint8 or float: {_to_pixels(images)}")
        if images.dtype.kind == "f":
            _check_floats(images)
            images = images.astype(np.float32, copy=False)
        if images.ndim == 3:
            images = images[..., np.newaxis]
        if images.ndim == 2:
            side = math.isqrt(images.shape[1])
            shape = f"({side}, {side}, 1)" if side * side == images.shape[1] else "the height, width and channels"
            raise UserError(f"images of shape {images.shape} are flat: give them {shape} by images.reshape")
        if images.ndim == 4 and _looks_channels_first(images.shape):
            channels, height, width = images.shape[1:]
            raise UserError(
                f"images of shape {images.shape} look channels-first, (N, {channels} channels, {height}, {width}): "
                "turn them with images.transpose(0, 2, 3, 1) (if they are meant so, make a bptcnn.data.Samples of them)"
            )
        if labels.ndim == 2 and labels.shape[1] == 1:
            labels = labels[:, 0]
        if labels.ndim == 2 and len(labels) == len(images):
            raise UserError(f"labels of shape {labels.shape} look one-hot: give labels.argmax(1)")
        if labels.dtype.kind not in "iu":
            raise UserError(f"labels are {labels.dtype}, not integers: {_to_labels(labels)}")
        if labels.size and not 0 <= int(labels.min()) <= int(labels.max()) < np.iinfo(np.int32).max:
            raise UserError(f"labels from {labels.min()} to {labels.max()} are out of range: they count classes from 0")
        return cls(np.ascontiguousarray(images), np.ascontiguousarray(labels, dtype=np.int32))

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of one image."""
        height, width, channels = self.images.shape[1:]
        return height, width, channels

    def take(self, indices: npt.ArrayLike) -> Samples:
        """The samples at `indices` (integers, any order, repeats allowed), copied. IndexError if one is not there."""
        wanted = np.asarray(indices)
        if wanted.size and wanted.dtype.kind not in "iu":
            raise TypeError(f"indices are {wanted.dtype}, not integers")
        rows = wanted.astype(np.intp).reshape(-1)
        return Samples(self.images[rows], self.labels[rows])


@dataclass(frozen=True, eq=False)
class Dataset:
    """A training and a test set over the same classes.

    `classes`: labels of both run from 0 to classes - 1. `name`: what to call it; `source`: what `load` finds it
    by, from any folder: its absolute path, or its name where it is embedded; readers fill it in. `Dataset.of` makes
    one from plain arrays.
    Raises UserError if a part is empty, a label is out of range, or the two parts' images differ in shape or type.
    """

    train: Samples
    test: Samples
    classes: int
    name: str = CUSTOM
    source: str = ""

    @classmethod
    def of(
        cls,
        x_train: npt.NDArray[Any],
        y_train: npt.NDArray[Any],
        x_test: npt.NDArray[Any],
        y_test: npt.NDArray[Any],
        classes: int | None = None,
        name: str = CUSTOM,
    ) -> Dataset:
        """A data set from arrays as users hold them, each pair as in `Samples.of`.

        Without `classes`, there is one more than the largest label. Raises UserError for arrays that do not fit.
        """
        parts = []
        for part, images, labels in (("train", x_train, y_train), ("test", x_test, y_test)):
            try:
                parts.append(Samples.of(np.asarray(images), np.asarray(labels)))
            except UserError as error:
                raise UserError(f"x_{part}, y_{part}: {error}") from None
        train, test = parts
        return cls(train, test, count_classes(train, test) if classes is None else classes, name)

    def __post_init__(self) -> None:
        train, test = self.train, self.test
        if self.classes < 2:
            raise UserError(f"{self.classes} class: classification needs at least two")
        for part, samples in (("training", train), ("test", test)):
            if not len(samples):
                raise UserError(f"the {part} set is empty")
            if samples.labels.max() >= self.classes:
                raise UserError(
                    f"label {samples.labels.max()} of {part} sample {samples.labels.argmax()} is out of range: "
                    f"there are {self.classes} classes, counted from 0"
                )
        if train.input_shape != test.input_shape:
            raise UserError(f"training images are {train.input_shape}, test images {test.input_shape}")
        if train.images.dtype != test.images.dtype:
            raise UserError(
                f"training images are {train.images.dtype}, test images {test.images.dtype}: store both alike"
            )


def count_classes(train: Samples, test: Samples) -> int:
    """The number of classes where a format does not say it: one more than the largest label.

    Raises UserError if that leaves over half of more than ten classes unused: such a label is damage, not a class,
    and would make the network's last layer as wide as the label is large.
    """
    both = np.concatenate([train.labels, test.labels])
    used = np.unique(both)
    if not used.size:
        raise UserError("there are no labels")
    classes = int(used[-1]) + 1
    if classes > max(10, 2 * used.size):
        raise UserError(
            f"label {used[-1]} is out of range: only {used.size} different labels occur, numbered from 0 "
            f"({NUMBERED} numbers them anew)"
        )
    return classes


def doubts(dataset: Dataset) -> list[str]:
    """What can be trained, and most likely is not meant; a sentence each."""
    trained = np.bincount(dataset.train.labels, minlength=dataset.classes) > 0
    found = []
    if first := int(trained.argmax()):
        found.append(f"no training image has a label below {first}: labels count from 0, so those classes stay unused")
    unknown = np.flatnonzero((np.bincount(dataset.test.labels, minlength=dataset.classes) > 0) & ~trained)
    if len(unknown):
        some = ", ".join(map(str, unknown[:5])) + (", ..." if len(unknown) > 5 else "")
        found.append(f"test images have labels that no training image has, and count as wrong: {some}")
    return found


_MOST_CHANNELS = 4  # of pictures
_LEAST_SIDE = 8  # pixels


def _looks_channels_first(shape: tuple[int, ...]) -> bool:
    """Whether images would be as thin as pictures have channels, and have as many channels as pictures have pixels."""
    _, first, rows, columns = shape
    return first <= _MOST_CHANNELS and min(rows, columns) >= _LEAST_SIDE and 4 * columns >= rows


def _to_pixels(images: npt.NDArray[Any]) -> str:
    """How to convert images of an integer type."""
    low, high = (int(images.min()), int(images.max())) if images.size else (0, 0)
    if images.dtype == np.bool_:
        return "give images.astype(numpy.float32)"
    if low >= 0 and high <= 255:
        return "give images.astype(numpy.uint8)"
    return f"they reach from {low} to {high}, scale them to about 0 to 1 and give numpy.float32"


def _to_labels(labels: npt.NDArray[Any]) -> str:
    """How to convert labels that are no integers."""
    with np.errstate(invalid="ignore"):
        whole = labels.dtype.kind == "b" or (labels.dtype.kind == "f" and bool((labels == np.floor(labels)).all()))
    return "give labels.astype(int)" if whole else f"{NUMBERED} numbers classes"


def _check_floats(images: npt.NDArray[Any]) -> None:
    if not images.size:
        return
    with np.errstate(all="ignore"):
        low, high = float(images.min()), float(images.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise UserError("images hold NaN or infinite values")
    if max(-low, high) > LARGEST_FLOAT:
        raise UserError(f"float images reach from {low:g} to {high:g}: scale them to about 0 to 1, or store uint8")
