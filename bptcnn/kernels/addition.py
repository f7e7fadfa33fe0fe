"""Sums of two values with a rectifier behind, and gradients that are passed on."""

import numpy as np

from bptcnn.kernels.compilation import task_kernel
from bptcnn.kernels.pointers import floats, record_at, words
from bptcnn.kernels.runs import add_runs

ADDITION = np.dtype(
    [
        (name, np.int64)
        for name in (
            "batch",
            "input",  # address of pixel (0, 0) of image 0; strides in elements
            "input_image",
            "input_row",
            "addend",  # what is added
            "addend_image",
            "addend_row",
            "rows",
            "line",  # elements in a row: columns * channels
            "output",
            "output_image",
            "output_row",
            "output_gradient",  # (images, rows, line)
            "rectified",
        )
    ],
    align=True,
)
_at = record_at(ADDITION)

PASSING = np.dtype(
    [
        (name, np.int64)
        for name in (
            "batch",
            "elements",  # of an image
            "output_gradient",  # (images, elements)
            "input_gradient",
            "accumulate",  # 1: add to the input gradient
        )
    ],
    align=True,
)
_passing_at = record_at(PASSING)


@task_kernel
def add(operation, first, last, part, worker):
    """Output of images [first, last)."""
    o = _at(operation)
    last = min(last, words(o.batch, 1)[0])
    for image in range(first, last):
        for row in range(o.rows):
            x = floats(o.input + 4 * (image * o.input_image + row * o.input_row), o.line)
            y = floats(o.output + 4 * (image * o.output_image + row * o.output_row), o.line)
            z = floats(o.addend + 4 * (image * o.addend_image + row * o.addend_row), o.line)
            for i in range(o.line):
                y[i] = x[i] + z[i]
            if o.rectified:
                for i in range(o.line):
                    y[i] = np.float32(0) if y[i] < 0 else y[i]
    return 0


@task_kernel
def undo_rectifier(operation, first, last, part, worker):
    """Keep the output gradient of images [first, last) where the output is above 0."""
    o = _at(operation)
    last = min(last, words(o.batch, 1)[0])
    for image in range(first, last):
        for row in range(o.rows):
            g = floats(o.output_gradient + 4 * (image * o.rows + row) * o.line, o.line)
            y = floats(o.output + 4 * (image * o.output_image + row * o.output_row), o.line)
            for i in range(o.line):
                g[i] = g[i] if y[i] > 0 else np.float32(0)
    return 0


@task_kernel
def pass_gradient(operation, first, last, part, worker):
    """Copy, or add, the output gradient of images [first, last) to the input gradient."""
    o = _passing_at(operation)
    last = min(last, words(o.batch, 1)[0])
    size = max(np.int64(0), last - first) * o.elements
    given, wanted = o.output_gradient + 4 * first * o.elements, o.input_gradient + 4 * first * o.elements
    add_runs(given, 0, wanted, 0, 1, size, np.float32(1), o.accumulate)
    return 0
