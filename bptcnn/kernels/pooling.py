"""Max pooling of NHWC images, and its undoing for the gradient.

Every window remembers its choice: the index (row by row) of its first largest element, or DEAD where a rectifier made
the output 0, so that the gradient needs neither the input nor the output. A NaN in a window wins.
"""

import numpy as np

from bptcnn.kernels.compilation import compiled, task_kernel
from bptcnn.kernels.pointers import floats, octets, record_at, words

DEAD = np.uint8(255)
LARGEST_WINDOW = 255

POOLING = np.dtype(
    [
        (name, np.int64)
        for name in (
            "batch",
            "input",  # address of pixel (0, 0) of image 0
            "input_image",
            "input_row",
            "channels",
            "height",
            "width",
            "window_rows",
            "window_columns",
            "stride_rows",
            "stride_columns",
            "output",
            "output_image",
            "output_row",
            "out_rows",
            "out_columns",
            "choice",  # address (uint8, output layout without halo), or 0
            "output_gradient",  # layout (images, out_rows, out_columns, channels)
            "input_gradient",  # layout (images, height, width, channels)
        )
    ],
    align=True,
)
_at = record_at(POOLING)


@compiled("void(int64, int64, int64, int64, int64, float32[::1])")
def _pool_window(corner, row, channels, window_rows, window_columns, best):  # type: ignore[no-untyped-def]
    first = floats(corner, channels)
    for c in range(channels):
        best[c] = first[c]
    for i in range(1, window_rows * window_columns):
        here = floats(corner + 4 * (i // window_columns * row + i % window_columns * channels), channels)
        for c in range(channels):
            best[c] = here[c] if (here[c] > best[c]) | (here[c] != here[c]) else best[c]


@compiled("void(int64, int64, int64, int64, int64, float32[::1], uint8[::1])")
def _choose_window(corner, row, channels, window_rows, window_columns, best, chosen):  # type: ignore[no-untyped-def]
    first = floats(corner, channels)
    for c in range(channels):
        best[c] = first[c]
        chosen[c] = np.uint8(0)
    for i in range(1, window_rows * window_columns):
        here = floats(corner + 4 * (i // window_columns * row + i % window_columns * channels), channels)
        for c in range(channels):
            better = (here[c] > best[c]) | (here[c] != here[c])
            best[c] = here[c] if better else best[c]
            chosen[c] = np.uint8(i) if better else chosen[c]


@compiled("void(int64, int64, int64, float32[::1], uint8[::1])")
def _choose_2x2(corner, row, channels, best, chosen):  # type: ignore[no-untyped-def]
    top = floats(corner, 2 * channels)
    bottom = floats(corner + 4 * row, 2 * channels)
    for c in range(channels):
        largest = top[c]
        index = np.uint8(0)
        value = top[channels + c]
        better = (value > largest) | (value != value)
        largest = value if better else largest
        index = np.uint8(1) if better else index
        value = bottom[c]
        better = (value > largest) | (value != value)
        largest = value if better else largest
        index = np.uint8(2) if better else index
        value = bottom[channels + c]
        better = (value > largest) | (value != value)
        best[c] = value if better else largest
        chosen[c] = np.uint8(3) if better else index


@compiled("void(int64, int64, int64, int64, int64, int64, int64, int64, int64, int64, int64, int64, int64)")
def pool_image(  # type: ignore[no-untyped-def]
    source, source_row, channels, window_rows, window_columns, stride_rows, stride_columns, out_rows, out_columns,
    target, target_row, choice, rectified,
):  # fmt: skip
    """Pool one image (or band of rows): addresses, strides in elements; `choice` may be 0."""
    for y in range(out_rows):
        for x in range(out_columns):
            corner = source + 4 * (y * stride_rows * source_row + x * stride_columns * channels)
            best = floats(target + 4 * (y * target_row + x * channels), channels)
            if choice == 0:
                _pool_window(corner, source_row, channels, window_rows, window_columns, best)
            else:
                chosen = octets(choice + (y * out_columns + x) * channels, channels)
                if window_rows == 2 and window_columns == 2:
                    _choose_2x2(corner, source_row, channels, best, chosen)
                else:
                    _choose_window(corner, source_row, channels, window_rows, window_columns, best, chosen)
                if rectified:
                    for c in range(channels):
                        chosen[c] = DEAD if best[c] == 0 else chosen[c]


@compiled(
    "void(int64, int64, int64, int64, int64, int64, int64, int64, int64, int64, int64, int64, int64, int64)"
)
def unpool_image(  # type: ignore[no-untyped-def]
    gradient, choice, channels, window_rows, window_columns, stride_rows, stride_columns, pooled_rows, pooled_columns,
    target, target_row, rows, columns, sums_address,
):  # fmt: skip
    """Write the gradient before pooling (rows x columns pixels at `target`) of one image.

    `sums_address`, where not 0: channel sums of what was passed on are added there (the bias gradient).
    """
    disjoint = stride_rows == window_rows and stride_columns == window_columns
    for y in range(rows):
        if disjoint and y < pooled_rows * window_rows:
            start = pooled_columns * window_columns * channels
        else:
            start = 0
        line = floats(target + 4 * y * target_row, columns * channels)
        for i in range(start, columns * channels):
            line[i] = np.float32(0)
    for y in range(pooled_rows):
        for x in range(pooled_columns):
            index = (y * pooled_columns + x) * channels
            given = floats(gradient + 4 * index, channels)
            chosen = octets(choice + index, channels)
            if sums_address:
                sums = floats(sums_address, channels)
                for c in range(channels):
                    sums[c] += given[c] if chosen[c] != DEAD else np.float32(0)
            for i in range(window_rows * window_columns):
                offset = (y * stride_rows + i // window_columns) * target_row
                offset += (x * stride_columns + i % window_columns) * channels
                here = floats(target + 4 * offset, channels)
                if disjoint:
                    for c in range(channels):
                        here[c] = given[c] if chosen[c] == np.uint8(i) else np.float32(0)
                else:
                    for c in range(channels):
                        here[c] += given[c] if chosen[c] == np.uint8(i) else np.float32(0)


@task_kernel
def pool(operation, first, last, part, worker):  # type: ignore[no-untyped-def]
    """Max pooling of images [first, last)."""
    o = _at(operation)
    last = min(last, words(o.batch, 1)[0])
    size = o.out_rows * o.out_columns * o.channels
    for image in range(first, last):
        pool_image(
            o.input + 4 * image * o.input_image,
            o.input_row,
            o.channels,
            o.window_rows,
            o.window_columns,
            o.stride_rows,
            o.stride_columns,
            o.out_rows,
            o.out_columns,
            o.output + 4 * image * o.output_image,
            o.output_row,
            o.choice + image * size if o.choice else 0,
            0,
        )
    return 0


@task_kernel
def pool_backward(operation, first, last, part, worker):  # type: ignore[no-untyped-def]
    """Gradient of max pooling by its input, images [first, last)."""
    o = _at(operation)
    last = min(last, words(o.batch, 1)[0])
    size = o.out_rows * o.out_columns * o.channels
    for image in range(first, last):
        unpool_image(
            o.output_gradient + 4 * image * size,
            o.choice + image * size,
            o.channels,
            o.window_rows,
            o.window_columns,
            o.stride_rows,
            o.stride_columns,
            o.out_rows,
            o.out_columns,
            o.input_gradient + 4 * image * o.height * o.width * o.channels,
            o.width * o.channels,
            o.height,
            o.width,
            0,
        )
    return 0
