"""Loading images: from the caller's samples, in any order, into the network's input buffer with its halo."""

import numpy as np
from numba import njit

from bptcnn.kernels.compilation import task_kernel
from bptcnn.kernels.pointers import floats, integers, octets, prefetch, record_at, words

LOADING = np.dtype(
    [
        (name, np.int64)
        for name in (
            "batch",
            "samples",  # address of the address of the samples (count, height, width, channels)
            "bytes",  # address of a word: 1 where samples are uint8 (value / 255), 0 where float32
            "order",  # address of the address of the samples' places (int32); 0 there: in order
            "rows",
            "line",  # elements in a row: width * channels
            "output",  # address of pixel (0, 0) of image 0
            "output_image",
            "output_row",
        )
    ],
    align=True,
)
_at = record_at(LOADING)
_SCALE = np.float32(1.0 / 255.0)
_FETCHED = 1 << 14  # bytes that are fetched at a time: their ways to memory and through page tables overlap
_CACHE_LINE = 64  # bytes


@njit(inline="always")
def _place(order, image):
    return np.int64(integers(order, image + 1)[image]) if order else image


@task_kernel
def load_images(operation, first, last, part, worker):
    """Copy images [first, last) of the batch into the input buffer as float32, a few at a time."""
    o = _at(operation)
    last = min(last, words(o.batch, 1)[0])
    samples, order = words(o.samples, 1)[0], words(o.order, 1)[0]
    scaled = words(o.bytes, 1)[0] == 1
    size = o.rows * o.line * (1 if scaled else 4)
    few = max(1, _FETCHED // size)
    for begin in range(first, last, few):
        end = min(begin + few, last)
        for image in range(begin, end):
            start = samples + _place(order, image) * size
            for byte in range(0, min(size, _FETCHED), _CACHE_LINE):
                prefetch(start + byte)
        for image in range(begin, end):
            start = samples + _place(order, image) * size
            for row in range(o.rows):
                target = floats(o.output + 4 * (image * o.output_image + row * o.output_row), o.line)
                if scaled:
                    small = octets(start + row * o.line, o.line)
                    for i in range(o.line):
                        target[i] = np.float32(small[i]) * _SCALE
                else:
                    large = floats(start + 4 * row * o.line, o.line)
                    for i in range(o.line):
                        target[i] = large[i]
    return 0
