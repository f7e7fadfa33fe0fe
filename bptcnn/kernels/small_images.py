"""Convolution of small images: the rows of the register tile are images, so it is full where a row of pixels is not.

Per output pixel the taps that meet the image are a rectangle of the filter window, each row of it contiguous in image
and panel: what padding would multiply is left out. The gradient by weight has input channels as rows and goes over the
images at each pixel; it is complete when its task ends, so there are no partial sums.

Images should lie an odd number of cache lines apart: equal places of all rows must not meet in one set of the cache.
"""

import numpy as np
from numba import njit

from bptcnn.kernels.compilation import compiled, task_kernel
from bptcnn.kernels.convolution import convolution_at, share
from bptcnn.kernels.pointers import floats, record_at, words
from bptcnn.kernels.tile import tile
from bptcnn.kernels.unit import COLUMNS, LANES, ROWS

SMALL_IMAGES = np.dtype(
    [
        (name, np.int64)
        for name in (
            "convolution",  # address of the CONVOLUTION record; its panels are packed as for `convolve`, never folded
            "gradient",  # the output gradient with the rectifier undone, (images, rows, columns, K)
            "gradient_image",  # elements from image to image
            "filter_gradient",  # HWIO
            "bias_gradient",  # or 0
        )
    ],
    align=True,
)
_at = record_at(SMALL_IMAGES)
_NO_FLOOR = np.float32(-np.inf)


@njit(inline="always")
def _clip(start, taps, size):
    """The taps of a window from `start` on that lie in [0, size): first, and one behind the last."""
    return min(max(np.int64(0), -start), taps), max(np.int64(0), min(taps, size - start))


@njit(inline="always")
def _panel(channel, channels):
    """Vectors of a panel from `channel` on, and lanes of the last one."""
    here = min(COLUMNS, channels - channel)
    vectors = (here + LANES - 1) // LANES
    return vectors, here - (vectors - 1) * LANES


@compiled("void(int64, int64, int64, int64, int64, float32)")
def _fill(target, target_image, images, bias, count, floor):
    """Write bias, rectified, or zeros where bias is 0, for a pixel that no tap meets."""
    for image in range(images):
        row = floats(target + 4 * image * target_image, count)
        for c in range(count):
            value = floats(bias, count)[c] if bias else np.float32(0)
            row[c] = floor if value < floor else value


@task_kernel
def convolve_small(operation, first, last, part, worker):
    """Forward of the panels [first, last) of output channels, for all images: convolution, bias, rectifier."""
    s = _at(operation)
    o = convolution_at(s.convolution)
    images = words(o.batch, 1)[0]
    tiles = (images + ROWS - 1) // ROWS
    line = o.kernel_columns * o.channels * COLUMNS
    for panel in range(first, last):
        channel = panel * COLUMNS
        vectors, tail = _panel(channel, o.out_channels)
        packed = o.forward_panels + 4 * panel * o.kernel_rows * line
        bias = o.bias + 4 * channel if o.bias else 0
        for y in range(o.out_rows):
            top, bottom = _clip(y * o.stride_rows - o.padding_top, o.kernel_rows, o.height)
            for x in range(o.out_columns):
                left, right = _clip(x * o.stride_columns - o.padding_left, o.kernel_columns, o.width)
                row, column = y * o.stride_rows + top, x * o.stride_columns + left
                source = o.input + 4 * (row * o.input_row + column * o.channels)
                target = o.output + 4 * (y * o.output_row + x * o.out_channels + channel)
                if bottom <= top or right <= left:
                    _fill(target, o.output_image, images, bias, min(COLUMNS, o.out_channels - channel), o.floor)
                    continue
                for t in range(tiles):
                    image = share(images, tiles, t)
                    tile(
                        share(images, tiles, t + 1) - image,
                        vectors,
                        source + 4 * image * o.input_image,
                        o.input_image,
                        1,
                        o.input_row,
                        packed + 4 * (top * line + left * o.channels * COLUMNS),
                        COLUMNS,
                        line,
                        bias,
                        0,
                        target + 4 * image * o.output_image,
                        o.output_image,
                        (right - left) * o.channels,
                        bottom - top,
                        o.floor,
                        tail,
                    )
    return 0


@task_kernel
def spread_gradient(operation, first, last, part, worker):
    """Undo the rectifier in the channels of the panels [first, last), for all images; sum up the bias gradient."""
    s = _at(operation)
    o = convolution_at(s.convolution)
    images, pixels = words(o.batch, 1)[0], o.out_rows * o.out_columns
    for panel in range(first, last):
        channel = panel * COLUMNS
        here = min(COLUMNS, o.out_channels - channel)
        if s.bias_gradient:
            sums = floats(s.bias_gradient + 4 * channel, here)
            for c in range(here):
                sums[c] = np.float32(0)
        for image in range(images):
            for pixel in range(pixels):
                place = pixel * o.out_channels + channel
                given = floats(o.output_gradient + 4 * (image * pixels * o.out_channels + place), here)
                spread = floats(s.gradient + 4 * (image * s.gradient_image + place), here)
                if o.rectified:
                    line = pixel // o.out_columns * o.output_row + pixel % o.out_columns * o.out_channels
                    output = floats(o.output + 4 * (image * o.output_image + line + channel), here)
                    for c in range(here):
                        spread[c] = given[c] if output[c] > 0 else np.float32(0)
                else:
                    for c in range(here):
                        spread[c] = given[c]
                if s.bias_gradient:
                    sums = floats(s.bias_gradient + 4 * channel, here)
                    for c in range(here):
                        sums[c] += spread[c]
    return 0


@njit(inline="always")
def _phase(place, padding, stride, taps, outputs):
    """Which packed taps meet an input row or column: (phase, taps of the phase, first tap, last, first output).

    Tap i of n packed ones of a phase meets output q - (n - 1) + i, with place + padding = stride * q + phase.
    """
    phase, q = (place + padding) % stride, (place + padding) // stride
    count = (taps - phase + stride - 1) // stride if phase < taps else np.int64(0)
    first, last = _clip(q - (count - 1), count, outputs)
    return phase, count, first, last, q - (count - 1) + first


@njit(inline="always")
def _taps_before(o, phase_row, phase_column):
    """How many taps the phases before this one have, in the order in which `pack_backward` packs them."""
    columns = min(o.stride_columns, o.kernel_columns)
    count = np.int64(0)
    for r in range(min(o.stride_rows, o.kernel_rows)):
        taps_h = (o.kernel_rows - r + o.stride_rows - 1) // o.stride_rows
        for c in range(columns):
            if r < phase_row or (r == phase_row and c < phase_column):
                count += taps_h * ((o.kernel_columns - c + o.stride_columns - 1) // o.stride_columns)
    return count


@task_kernel
def small_by_input(operation, first, last, part, worker):
    """Write, or add, the gradient by the channels of the panels [first, last) of the input, for all images."""
    s = _at(operation)
    o = convolution_at(s.convolution)
    images, image_size = words(o.batch, 1)[0], o.height * o.width * o.channels
    tiles = (images + ROWS - 1) // ROWS
    rounded = (o.channels + COLUMNS - 1) // COLUMNS * COLUMNS
    for panel in range(first, last):
        channel = panel * COLUMNS
        vectors, tail = _panel(channel, o.channels)
        for h in range(o.height):
            phase_row, taps_h, top, bottom, y = _phase(h, o.padding_top, o.stride_rows, o.kernel_rows, o.out_rows)
            for w in range(o.width):
                phase_column, taps_w, left, right, x = _phase(
                    w, o.padding_left, o.stride_columns, o.kernel_columns, o.out_columns
                )
                target = o.input_gradient + 4 * ((h * o.width + w) * o.channels + channel)
                if bottom <= top or right <= left:
                    if not o.accumulate:
                        _fill(target, image_size, images, 0, min(COLUMNS, o.channels - channel), _NO_FLOOR)
                    continue
                line = taps_w * o.out_channels * COLUMNS
                packed = o.backward_panels + 4 * (
                    _taps_before(o, phase_row, phase_column) * o.out_channels * rounded + panel * taps_h * line
                )
                for t in range(tiles):
                    image = share(images, tiles, t)
                    pixel = target + 4 * image * image_size
                    tile(
                        share(images, tiles, t + 1) - image,
                        vectors,
                        s.gradient + 4 * (image * s.gradient_image + (y * o.out_columns + x) * o.out_channels),
                        s.gradient_image,
                        1,
                        o.out_columns * o.out_channels,
                        packed + 4 * (top * line + left * o.out_channels * COLUMNS),
                        COLUMNS,
                        line,
                        pixel if o.accumulate else 0,
                        image_size,
                        pixel,
                        image_size,
                        (right - left) * o.out_channels,
                        bottom - top,
                        _NO_FLOOR,
                        tail,
                    )
    return 0


@njit(inline="always")
def _outputs(tap, padding, stride, size, outputs):
    """The output rows or columns whose window has a tap inside the image: first, and one behind the last."""
    first = max(np.int64(0), (padding - tap + stride - 1) // stride)
    last = min(outputs, (size - 1 + padding - tap) // stride + 1)
    return first, max(first, last)


@task_kernel
def small_by_weight(operation, first, last, part, worker):
    """Gradient of the rows [first, last) of the filter as a matrix (KH * KW * C, K), for all images."""
    s = _at(operation)
    o = convolution_at(s.convolution)
    images = words(o.batch, 1)[0]
    row = first
    while row < last:
        tap, begin = row // o.channels, row % o.channels
        count = min(last - row, o.channels - begin)
        kernel_row, kernel_column = tap // o.kernel_columns, tap % o.kernel_columns
        top, bottom = _outputs(kernel_row, o.padding_top, o.stride_rows, o.height, o.out_rows)
        left, right = _outputs(kernel_column, o.padding_left, o.stride_columns, o.width, o.out_columns)
        target = s.filter_gradient + 4 * row * o.out_channels
        if bottom <= top or right <= left:
            zeros = floats(target, count * o.out_channels)
            for i in range(zeros.size):
                zeros[i] = np.float32(0)
        tiles = (count + ROWS - 1) // ROWS
        for channel in range(0, o.out_channels, COLUMNS):
            vectors, tail = _panel(channel, o.out_channels)
            for t in range(tiles):
                c = share(count, tiles, t)
                place = target + 4 * (c * o.out_channels + channel)
                for y in range(top, bottom if right > left else top):
                    line = (y * o.stride_rows + kernel_row) * o.input_row
                    pixel = (left * o.stride_columns + kernel_column) * o.channels
                    tile(
                        share(count, tiles, t + 1) - c,
                        vectors,
                        o.input + 4 * (line + pixel + begin + c),
                        1,
                        o.input_image,
                        o.stride_columns * o.channels,
                        s.gradient + 4 * ((y * o.out_columns + left) * o.out_channels + channel),
                        s.gradient_image,
                        o.out_channels,
                        place if y > top else 0,
                        o.out_channels,
                        place,
                        o.out_channels,
                        images,
                        right - left,
                        _NO_FLOOR,
                        tail,
                    )
        row += count
    return 0
