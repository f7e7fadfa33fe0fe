"""Dropout whose choices follow from counters alone, so that the backward pass repeats them, on any thread.

Whether element e of image n is kept in step t by layer l is decided by a hash of (seed, t, l, n, e): a 64-bit key of
the first four, mixed per image, then 32-bit multiplications and shifts per element, which vectorise.
"""

import numpy as np
import numpy.typing as npt
from numba import njit

from bptcnn.kernels.compilation import task_kernel
from bptcnn.kernels.pointers import floats, record_at, words

DROPOUT = np.dtype(
    [
        (name, np.int64)
        for name in (
            "batch",  # address of the number of images in this step
            "input",  # address of pixel (0, 0) of image 0
            "input_image",  # strides: elements from image to image, row to row
            "input_row",
            "rows",
            "line",  # elements in a row: width * channels
            "output",
            "output_image",
            "output_row",
            "output_gradient",  # layout (images, rows, line)
            "input_gradient",  # the same, or 0 where nobody wants it
            "accumulate",  # 1: add to what is in the input gradient, 0: overwrite it
            "seed",  # any word
            "step",  # address of the number of this step
            "layer",  # tells layers of a network apart
        )
    ]
    + [("rate", np.float32)],  # share of elements that are dropped, in [0, 1)
    align=True,
)
_at = record_at(DROPOUT)

_WORD, _HALF = 0xFFFFFFFFFFFFFFFF, 0xFFFFFFFF
_KEY_1, _KEY_2 = 0x6A09E667F3BCC909, 0xBB67AE8584CAA73B  # fractions of the square roots of 2 and 3, made odd,
_ELEMENT_1, _ELEMENT_2 = 0xA54FF53B, 0x510E527F  # of 7 and 11


def _key(*counters: int) -> int:
    """Mix counters into 64 bits, one after the other."""
    key = 0
    for counter in counters:
        key = (key ^ counter & _WORD) * _KEY_1 & _WORD
        key = (key ^ key >> 32) * _KEY_2 & _WORD
        key ^= key >> 29
    return key


def dropout_multipliers(
    seed: int, step: int, layer: int, images: int, elements: int, rate: float
) -> npt.NDArray[np.float32]:
    """Return what the kernels multiply with, (images, elements): 0 or 1 / (1 - rate)."""
    exact = float(np.float32(rate))
    found = np.empty((images, elements), np.float32)
    for image in range(images):
        key = _key(seed, step, layer, image)
        x = np.arange(elements, dtype=np.uint32) ^ np.uint32(key & _HALF)
        x = (x ^ x >> np.uint32(16)) * np.uint32(_ELEMENT_1)
        x = (x ^ x >> np.uint32(15)) + np.uint32(key >> 32)
        x = (x ^ x >> np.uint32(14)) * np.uint32(_ELEMENT_2)
        x ^= x >> np.uint32(16)
        found[image] = np.where(x >= exact * 2.0**32, np.float32(1 / (1 - exact)), np.float32(0))
    return found


_FIRST, _SECOND = np.uint64(_KEY_1), np.uint64(_KEY_2)


@njit(inline="always")
def _multiplier(element, low, high, threshold, scale):
    """Return the multiplier of one element; see `dropout_multipliers`."""
    x = np.uint32(np.uint32(element) ^ low)
    x = np.uint32(np.uint32(x ^ x >> np.uint32(16)) * np.uint32(_ELEMENT_1))
    x = np.uint32(np.uint32(x ^ x >> np.uint32(15)) + high)
    x = np.uint32(np.uint32(x ^ x >> np.uint32(14)) * np.uint32(_ELEMENT_2))
    x = np.uint32(x ^ x >> np.uint32(16))
    return scale if np.int64(x) >= threshold else np.float32(0)


@njit(inline="always")
def _choices(o, image):
    """Return what decides about an image's elements: the key's halves, the threshold, the multiplier."""
    key = np.uint64(0)
    for counter in (o.seed, words(o.step, 1)[0], o.layer, image):  # see `_key`
        key = (key ^ np.uint64(counter)) * _FIRST
        key = (key ^ key >> np.uint64(32)) * _SECOND
        key = key ^ key >> np.uint64(29)
    rate = np.float64(o.rate)
    threshold = np.int64(np.ceil(rate * 4294967296.0))
    return np.uint32(key & np.uint64(_HALF)), np.uint32(key >> np.uint64(32)), threshold, np.float32(1.0 / (1.0 - rate))


@task_kernel
def dropout(operation, first, last, part, worker):
    """Forward of images [first, last). NaN stays NaN where it is dropped."""
    o = _at(operation)
    last = min(last, words(o.batch, 1)[0])
    for image in range(first, last):
        low, high, threshold, scale = _choices(o, image)
        for row in range(o.rows):
            source = floats(o.input + 4 * (image * o.input_image + row * o.input_row), o.line)
            target = floats(o.output + 4 * (image * o.output_image + row * o.output_row), o.line)
            for i in range(o.line):
                target[i] = source[i] * _multiplier(row * o.line + i, low, high, threshold, scale)
    return 0


@task_kernel
def dropout_backward(operation, first, last, part, worker):
    """Gradient by the input of images [first, last)."""
    o = _at(operation)
    if o.input_gradient == 0:
        return 0
    last = min(last, words(o.batch, 1)[0])
    size = o.rows * o.line
    for image in range(first, last):
        low, high, threshold, scale = _choices(o, image)
        given = floats(o.output_gradient + 4 * image * size, size)
        target = floats(o.input_gradient + 4 * image * size, size)
        for i in range(size):
            passed = given[i] * _multiplier(i, low, high, threshold, scale)
            target[i] = target[i] + passed if o.accumulate else passed
    return 0
