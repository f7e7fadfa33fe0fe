"""Average pooling of NHWC images, and its gradient. Pixels of the padding do not count: a mean is over real pixels.

A window as large as the image is global average pooling: its output (images, 1, 1, channels) is a vector per image.
"""

import numpy as np
from numba import njit

from bptcnn.kernels.compilation import task_kernel
from bptcnn.kernels.pointers import record_at, words
from bptcnn.kernels.runs import add_runs, clear

AVERAGING = np.dtype(
    [
        (name, np.int64)
        for name in (
            "batch",  # address of the number of images in this step
            "input",  # address of pixel (0, 0) of image 0
            "input_image",  # strides: elements from image to image, row to row
            "input_row",
            "channels",
            "height",
            "width",
            "window_rows",
            "window_columns",
            "stride_rows",
            "stride_columns",
            "padding_top",
            "padding_left",
            "output",  # address of pixel (0, 0) of image 0
            "output_image",
            "output_row",
            "out_rows",
            "out_columns",
            "output_gradient",  # layout (images, out_rows, out_columns, channels)
            "input_gradient",  # layout (images, height, width, channels), or 0 where nobody wants it
            "accumulate",  # 1: add to what is in the input gradient, 0: overwrite it
        )
    ],
    align=True,
)
_at = record_at(AVERAGING)


@njit(inline="always")
def _covered(index, stride, padding, window, size):
    """Return the range of real rows (or columns) in the window of an output row (or column)."""
    begin = index * stride - padding
    return max(0, begin), min(size, begin + window)


@njit(inline="always")
def _share(rows, columns):
    """Return the weight of one of rows x columns pixels in their mean; 0 where there are none."""
    return np.float32(1.0 / (rows * columns)) if rows > 0 and columns > 0 else np.float32(0)


@task_kernel
def average(operation, first, last, part, worker):
    """Forward of images [first, last). A window without real pixels gives 0."""
    o = _at(operation)
    last = min(last, words(o.batch, 1)[0])
    for image in range(first, last):
        for y in range(o.out_rows):
            top, bottom = _covered(y, o.stride_rows, o.padding_top, o.window_rows, o.height)
            for x in range(o.out_columns):
                left, right = _covered(x, o.stride_columns, o.padding_left, o.window_columns, o.width)
                target = o.output + 4 * (image * o.output_image + y * o.output_row + x * o.channels)
                clear(target, o.channels)
                share = _share(bottom - top, right - left)
                for row in range(top, bottom):
                    source = o.input + 4 * (image * o.input_image + row * o.input_row + left * o.channels)
                    add_runs(source, o.channels, target, 0, right - left, o.channels, share, 1)
    return 0


@task_kernel
def average_backward(operation, first, last, part, worker):
    """Gradient by the input of images [first, last): each window spreads its own over its real pixels."""
    o = _at(operation)
    if o.input_gradient == 0:
        return 0
    last = min(last, words(o.batch, 1)[0])
    size = o.height * o.width * o.channels
    for image in range(first, last):
        target = o.input_gradient + 4 * image * size
        if not o.accumulate:
            clear(target, size)
        for y in range(o.out_rows):
            top, bottom = _covered(y, o.stride_rows, o.padding_top, o.window_rows, o.height)
            for x in range(o.out_columns):
                left, right = _covered(x, o.stride_columns, o.padding_left, o.window_columns, o.width)
                place = ((image * o.out_rows + y) * o.out_columns + x) * o.channels
                given = o.output_gradient + 4 * place
                share = _share(bottom - top, right - left)
                for row in range(top, bottom):
                    line = target + 4 * (row * o.width + left) * o.channels
                    add_runs(given, 0, line, o.channels, right - left, o.channels, share, 1)
    return 0
