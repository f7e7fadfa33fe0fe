"""Convolution with groups, dilation and any stride on the register tile, and its gradients: the general case.

A group of output channels sees its own input channels only, so a tile's depth is the channels of one group at one
kernel column, repeated over the kernel rows; the next column continues the sums in the output.
The gradient by input goes tap by tap: what a row of output pixels sends to the input pixels under one tap is a tile
that continues the sums there. The gradient by weight has the taps of one group as its rows. Filters are read where
they lie, or transposed for the gradient by input.
"""

import numpy as np
import numpy.typing as npt
from numba import njit

from bptcnn.kernels.channelwise import rectify_row
from bptcnn.kernels.compilation import task_kernel
from bptcnn.kernels.pointers import floats, record_at, words
from bptcnn.kernels.runs import clear
from bptcnn.kernels.tile import tile, tile_scattered
from bptcnn.kernels.unit import COLUMNS, LANES, ROWS

GROUPED = np.dtype(
    [
        (name, np.int64)
        for name in (
            "batch",  # address of the number of images in this step
            "input",  # address of the input at output pixel (0, 0)'s window, image 0, halo included
            "input_image",  # strides of the input buffer: elements from image to image, row to row
            "input_row",
            "channels",  # of all groups
            "height",  # of the input, without halo
            "width",
            "groups",  # divides channels and out_channels
            "kernel_rows",
            "kernel_columns",
            "stride_rows",
            "stride_columns",
            "dilation_rows",  # input rows and columns between neighbouring taps of the window
            "dilation_columns",
            "padding_top",
            "padding_left",
            "tap_offsets",  # int64 table: KH * KW * C / groups taps of the first group's window (see tap_offsets)
            "filters",  # address in the weight vector, (KH, KW, C / groups, K)
            "transposed",  # the same as (KH, KW, K, C / groups): see transpose_grouped
            "bias",  # address, or 0
            "out_channels",  # K, of all groups
            "out_rows",
            "out_columns",
            "output",  # address of pixel (0, 0) of image 0
            "output_image",
            "output_row",
            "rectified",  # 1: a rectifier follows the bias
            "output_gradient",  # address, layout (images, out_rows, out_columns, K)
            "input_gradient",  # address, layout (images, height, width, C), or 0 where nobody wants it
            "accumulate",  # 1: add to what is in the input gradient, 0: overwrite it
            "gradient_scratch",  # one image of the output gradient, per worker
            "gradient_scratch_worker",
            "partials",  # per part: filter gradient (KH, KW, C / groups, K), then bias gradient (K)
            "part_size",
        )
    ]
    + [("floor", np.float32)],  # 0 where rectified, else minus infinity
    align=True,
)
_at = record_at(GROUPED)
_NO_FLOOR = np.float32(-np.inf)
_GRADIENT_BLOCK = 4096  # elements of a panel's output gradient: 16 KiB, a third of a first-level cache


def tap_offsets(
    kernel: tuple[int, int], dilation: tuple[int, int], channels: int, groups: int, input_row: int
) -> npt.NDArray[np.int64]:
    """Return where the taps (KH, KW, C / groups) of the first group lie behind their window's first element."""
    rows = np.arange(kernel[0])[:, None, None] * dilation[0] * input_row
    columns = np.arange(kernel[1])[:, None] * dilation[1] * channels
    return (rows + columns + np.arange(channels // groups)).astype(np.int64).ravel()


@njit(inline="always")
def _even(count):
    """Return the rows of all tiles but the last, so that they share `count` rows nearly equally."""
    tiles = (count + ROWS - 1) // ROWS
    return (count + tiles - 1) // max(1, tiles)


@njit(inline="always")
def _vectors(here):
    """Return (vectors, lanes of the last one) that hold `here` columns."""
    vectors = (here + LANES - 1) // LANES
    return vectors, here - (vectors - 1) * LANES


@njit(inline="always")
def _convolve_row(o, source, target, depth, group, channel, here):
    """Compute `here` output channels from `channel` on in a row of output pixels, from the `depth` ones of a group."""
    vectors, tail = _vectors(here)
    size = depth * o.out_channels
    even = _even(o.out_columns)
    for column in range(o.kernel_columns):
        window = source + 4 * (column * o.dilation_columns * o.channels + group * depth)
        for x in range(0, o.out_columns, even):
            result = target + 4 * (x * o.out_channels + channel)
            start, start_pixel = result, o.out_channels
            if column == 0:
                start, start_pixel = o.bias + 4 * channel if o.bias else 0, 0
            tile(
                min(even, o.out_columns - x),
                vectors,
                window + 4 * x * o.stride_columns * o.channels,
                o.stride_columns * o.channels,
                1,
                o.dilation_rows * o.input_row,
                o.filters + 4 * (column * size + channel),
                o.out_channels,
                o.kernel_columns * size,
                start,
                start_pixel,
                result,
                o.out_channels,
                depth,
                o.kernel_rows,
                o.floor if column + 1 == o.kernel_columns else _NO_FLOOR,
                tail,
            )


@task_kernel
def grouped(operation, first, last, part, worker):
    """Forward of images [first, last): convolution, bias, rectifier."""
    o = _at(operation)
    last = min(last, words(o.batch, 1)[0])
    size, depth = o.out_channels // o.groups, o.channels // o.groups
    for image in range(first, last):
        for y in range(o.out_rows):
            source = o.input + 4 * (image * o.input_image + y * o.stride_rows * o.input_row)
            target = o.output + 4 * (image * o.output_image + y * o.output_row)
            for group in range(o.groups):
                for channel in range(0, size, COLUMNS):
                    here = min(COLUMNS, size - channel)
                    _convolve_row(o, source, target, depth, group, group * size + channel, here)
    return 0


@njit(inline="always")
def _met(tap, dilation, padding, stride, size, outputs):
    """Return the range of output rows (or columns) whose tap lies on a real input row (or column)."""
    place = tap * dilation - padding  # of the first output's tap
    first = (stride - 1 - place) // stride if place < 0 else 0
    return first, min(outputs, (size - 1 - place) // stride + 1)


@njit(inline="always")
def _send_rows(o, gradient, target, depth, channels, row, column):
    """Add what the output gradients send through one tap to one image's input gradient, `channels` to a group."""
    begin, end = _met(column, o.dilation_columns, o.padding_left, o.stride_columns, o.width, o.out_columns)
    if end <= begin:
        return
    even = _even(end - begin)
    step = o.stride_columns * o.channels
    top, bottom = _met(row, o.dilation_rows, o.padding_top, o.stride_rows, o.height, o.out_rows)
    filters = o.transposed + 4 * (row * o.kernel_columns + column) * o.out_channels * channels
    for y in range(top, bottom):
        h = y * o.stride_rows + row * o.dilation_rows - o.padding_top
        line = target + 4 * (h * o.width + column * o.dilation_columns - o.padding_left) * o.channels
        given = gradient + 4 * y * o.out_columns * o.out_channels
        for group in range(o.groups):
            for channel in range(0, channels, COLUMNS):
                vectors, tail = _vectors(min(COLUMNS, channels - channel))
                for x in range(begin, end, even):
                    result = line + 4 * (x * step + group * channels + channel)
                    tile(
                        min(even, end - x),
                        vectors,
                        given + 4 * (x * o.out_channels + group * depth),
                        o.out_channels,
                        1,
                        0,
                        filters + 4 * (group * depth * channels + channel),
                        channels,
                        0,
                        result,
                        step,
                        result,
                        step,
                        depth,
                        1,
                        _NO_FLOOR,
                        tail,
                    )


@njit(inline="always")
def _gradient_by_weight(o, source, gradient, partial, size, channels):
    """Add one image's filter gradient to `partial`, with the group's taps as rows, in blocks of output rows."""
    taps = o.kernel_rows * o.kernel_columns * channels
    even = _even(taps)
    line = o.out_columns * o.out_channels
    block = max(1, _GRADIENT_BLOCK // (o.out_columns * COLUMNS))
    for group in range(o.groups):
        for channel in range(group * size, (group + 1) * size, COLUMNS):
            vectors, tail = _vectors(min(COLUMNS, (group + 1) * size - channel))
            for row in range(0, o.out_rows, block):
                for tap in range(0, taps, even):
                    target = partial + 4 * (tap * o.out_channels + channel)
                    tile_scattered(
                        min(even, taps - tap),
                        vectors,
                        source + 4 * (row * o.stride_rows * o.input_row + group * channels),
                        o.tap_offsets + 8 * tap,
                        o.stride_columns * o.channels,
                        o.stride_rows * o.input_row,
                        gradient + 4 * (row * line + channel),
                        o.out_channels,
                        line,
                        target,
                        o.out_channels,
                        target,
                        o.out_channels,
                        o.out_columns,
                        min(block, o.out_rows - row),
                        _NO_FLOOR,
                        tail,
                    )


@task_kernel
def grouped_backward(operation, first, last, part, worker):
    """Backward of images [first, last): input gradient, and the filter and bias gradients as partial sum `part`."""
    o = _at(operation)
    last = min(last, words(o.batch, 1)[0])
    size, channels = o.out_channels // o.groups, o.channels // o.groups
    partial = o.partials + 4 * part * o.part_size
    clear(partial, o.part_size)
    bias_gradient = partial + 4 * o.kernel_rows * o.kernel_columns * channels * o.out_channels
    gradient = o.gradient_scratch + 4 * worker * o.gradient_scratch_worker
    line = o.out_columns * o.out_channels
    for image in range(first, last):
        for y in range(o.out_rows):
            given = o.output_gradient + 4 * (image * o.out_rows + y) * line
            output = o.output + 4 * (image * o.output_image + y * o.output_row)
            target = gradient + 4 * y * line
            rectify_row(given, output, o.out_channels, o.out_columns, target, bias_gradient, o.rectified)
        if o.input_gradient:
            pixels = o.height * o.width * o.channels
            target = o.input_gradient + 4 * image * pixels
            if not o.accumulate:
                clear(target, pixels)
            for row in range(o.kernel_rows):
                for column in range(o.kernel_columns):
                    _send_rows(o, gradient, target, size, channels, row, column)
        _gradient_by_weight(o, o.input + 4 * image * o.input_image, gradient, partial, size, channels)
    return 0


@task_kernel
def transpose_grouped(operation, first, last, part, worker):
    """Transpose the filters of the taps [first, last) of KH * KW for the gradient by input."""
    o = _at(operation)
    channels, out_channels = o.channels // o.groups, o.out_channels
    for tap in range(first, last):
        filters = floats(o.filters + 4 * tap * channels * out_channels, channels * out_channels)
        packed = floats(o.transposed + 4 * tap * channels * out_channels, channels * out_channels)
        for k in range(out_channels):
            for c in range(channels):
                packed[k * channels + c] = filters[c * out_channels + k]
    return 0
