"""Gathering the windows of a convolution into a matrix, and scattering its gradient: where output pixels are few.

    input ──gather──> windows (pixels, KH * KW * C) ──a dense layer──> outputs (pixels, K) ──place──> output

With few output pixels in a step filters are large beside images. As the weights of a dense layer (KH * KW * C, K) they
are read where they lie, once in each pass; packing or transforming them would cost more than it gains.
"""

import numpy as np
from numba import njit

from bptcnn.kernels.compilation import task_kernel
from bptcnn.kernels.pointers import floats, record_at, words

GATHERING = np.dtype(
    [
        (name, np.int64)
        for name in (
            "batch",
            "pixels",  # address of the number of output pixels of all images, which `gather_windows` writes
            "input",  # address of pixel (0, 0)
            "input_image",
            "input_row",
            "channels",
            "height",
            "width",
            "kernel_rows",
            "kernel_columns",
            "stride_rows",
            "stride_columns",
            "padding_top",
            "padding_left",
            "windows",
            "windows_pixel",  # elements from pixel to pixel
            "window_gradients",  # (pixels, KH * KW * C)
            "input_gradient",  # (images, height, width, channels)
            "accumulate",  # 1: add to it
            "outputs",  # (pixels, K)
            "out_channels",
            "out_rows",
            "out_columns",
            "output",
            "output_image",
            "output_row",
        )
    ],
    align=True,
)
_at = record_at(GATHERING)


@njit(inline="always")
def _run(target, source, count):
    """Copy `count` elements, or write zeros where `source` is 0."""
    wanted = floats(target, count)
    if source == 0:
        for i in range(count):
            wanted[i] = np.float32(0)
        return
    given = floats(source, count)
    for i in range(count):
        wanted[i] = given[i]


@task_kernel
def gather_windows(operation, first, last, part, worker):
    """Copy the windows of output rows [first, last), counted through all images; what pads is zeros."""
    o = _at(operation)
    images = words(o.batch, 1)[0]
    if first == 0:
        words(o.pixels, 1)[0] = images * o.out_rows * o.out_columns
    line = o.kernel_columns * o.channels
    for place in range(first, min(last, images * o.out_rows)):
        image, y = place // o.out_rows, place % o.out_rows
        for x in range(o.out_columns):
            window = o.windows + 4 * (place * o.out_columns + x) * o.windows_pixel
            column = x * o.stride_columns - o.padding_left
            left = min(o.kernel_columns, max(np.int64(0), -column))
            right = max(left, min(o.kernel_columns, o.width - column))
            for r in range(o.kernel_rows):
                target, row = window + 4 * r * line, y * o.stride_rows + r - o.padding_top
                if row < 0 or row >= o.height:
                    _run(target, 0, line)
                    continue
                source = o.input + 4 * (image * o.input_image + row * o.input_row + (column + left) * o.channels)
                _run(target, 0, left * o.channels)
                _run(target + 4 * left * o.channels, source, (right - left) * o.channels)
                _run(target + 4 * right * o.channels, 0, (o.kernel_columns - right) * o.channels)
    return 0


@task_kernel
def place_outputs(operation, first, last, part, worker):
    """Copy output rows [first, last), counted through all images, to where their readers expect them."""
    o = _at(operation)
    line = o.out_columns * o.out_channels
    for place in range(first, min(last, words(o.batch, 1)[0] * o.out_rows)):
        image, y = place // o.out_rows, place % o.out_rows
        target = o.output + 4 * (image * o.output_image + y * o.output_row)
        _run(target, o.outputs + 4 * place * line, line)
    return 0


@task_kernel
def scatter_windows(operation, first, last, part, worker):
    """Write, or add, the gradient by input rows [first, last), counted through all images."""
    o = _at(operation)
    window = o.kernel_rows * o.kernel_columns * o.channels
    for place in range(first, min(last, words(o.batch, 1)[0] * o.height)):
        image, row = place // o.height, place % o.height
        for column in range(o.width):
            target = o.input_gradient + 4 * (place * o.width + column) * o.channels
            wanted = floats(target, o.channels)
            if not o.accumulate:
                _run(target, 0, o.channels)
            for r in range(o.kernel_rows):
                y, off_row = (row + o.padding_top - r) // o.stride_rows, (row + o.padding_top - r) % o.stride_rows
                if off_row != 0 or y < 0 or y >= o.out_rows:
                    continue
                for s in range(o.kernel_columns):
                    across = column + o.padding_left - s
                    x = across // o.stride_columns
                    if across % o.stride_columns != 0 or x < 0 or x >= o.out_columns:
                        continue
                    pixel = (image * o.out_rows + y) * o.out_columns + x
                    tap = (r * o.kernel_columns + s) * o.channels
                    given = floats(o.window_gradients + 4 * (pixel * window + tap), o.channels)
                    for c in range(o.channels):
                        wanted[c] += given[c]
    return 0
