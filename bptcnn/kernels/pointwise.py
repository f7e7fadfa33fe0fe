"""Convolution by 1x1 filters, stride 1, without padding: products of matrices whose rows are pixels of many images.

    forward      Y = floor_at(X W + bias)      by input   dX = dY W^T      by weight   dW = X^T dY

Pixels are taken in blocks of BLOCK. What the tile walks through is first copied into *panels*, COLUMNS channels of a
block's pixels side by side, (channels / COLUMNS, pixels, COLUMNS). That reads memory as it lies, undoes the rectifier
or the batch normalisation behind on the way, and a panel stays in the first-level cache, whereas rows that lie a power
of two apart evict each other. Both channel counts are multiples of COLUMNS.

Where images have many pixels, `pointwise_backward` takes both gradients of a range of images, and the filter's is a
partial sum. Where they have few, ranges would be short beside the filter: `spread` makes the panels of
the output's gradient once for `pointwise_by_input` and for `pointwise_by_weight`, which goes over all images for some
panels of input channels: no partial sums.
"""

import numpy as np
from numba import njit

from bptcnn.kernels.compilation import compiled, task_kernel
from bptcnn.kernels.convolution import convolution_at, share
from bptcnn.kernels.normalisation_gradients import turn_pixels
from bptcnn.kernels.pointers import floats, prefetch, record_at, words
from bptcnn.kernels.runs import add_runs, clear
from bptcnn.kernels.tile import tile_ahead
from bptcnn.kernels.unit import COLUMNS, LANES, ROWS, VECTORS

POINTWISE = np.dtype(
    [
        (name, np.int64)
        for name in (
            "convolution",  # address of the CONVOLUTION record: panels of filters are packed as for `convolve`
            "spread",  # panels of the output gradient of all images, or 0 where blocks have them in scratch
            "spread_rows",  # pixels of such a panel, with those that keep panels out of each other's cache sets
            "filter_gradient",  # (C, K)
            "bias_gradient",  # or 0
            "forward_terms",  # of the batch normalisation whose gradient is turned on loading (see normalisation)
            "backward_terms",  # or 0: then the output's gradient is there as it is
            "rectifies",  # 1: that normalisation's rectifier is to be undone, too
            "groups",  # tasks that share a range's output channels
            "input_groups",  # tasks that share a range's input channels in the backward pass
        )
    ],
    align=True,
)
_at = record_at(POINTWISE)
BLOCK = 128 // ROWS * ROWS
_DEEP = 4 * BLOCK  # pixels that are added up before sums are stored
_AHEAD = 8  # pixels from fetching to use
_LINE = 16  # elements in a cache line
_NO_FLOOR = np.float32(-np.inf)


@njit(inline="always")
def _run(image, row, rows, columns, channels):
    """How many pixels of a value lie one behind the other; 0 for all of them."""
    if row != columns * channels:
        return columns
    return rows * columns if image != rows * row else 0


@njit(inline="always")
def _place(pixel, image, row, rows, columns, channels):
    """Where a pixel lies, in elements, counted through all images."""
    within = pixel % (rows * columns)
    return pixel // (rows * columns) * image + within // columns * row + within % columns * channels


@njit(inline="always")
def _until(pixel, end, run):
    """How many pixels from `pixel` on lie in one run, at most to `end`."""
    return end - pixel if run == 0 else min(end - pixel, run - pixel % run)


@compiled("void(int64, int64, int64, int64, int64, int64, int64)")
def _input_panels(operation, pixel, count, first, last, target, rows):
    """Copy `count` pixels' input, channel panels [first, last), into panels of `rows` pixels at `target`."""
    o = convolution_at(operation)
    channels = o.channels
    run = _run(o.input_image, o.input_row, o.height, o.width, channels)
    done = 0
    while done < count:
        here = _until(pixel + done, pixel + count, run)
        place = _place(pixel + done, o.input_image, o.input_row, o.height, o.width, channels)
        for panel in range(first, last):
            add_runs(
                o.input + 4 * (place + panel * COLUMNS),
                channels,
                target + 4 * ((panel - first) * rows + done) * COLUMNS,
                COLUMNS,
                here,
                COLUMNS,
                np.float32(1),
                0,
            )
        done += here


@compiled("void(int64, int64, int64, int64, int64)")
def _turned_panels(operation, pixel, count, target, rows):
    """Copy `count` pixels' gradient behind a batch normalisation into panels of `rows` pixels, turned to that before.

    The normalisation's input is this convolution's output.
    """
    s = _at(operation)
    o = convolution_at(s.convolution)
    channels = o.out_channels
    run = _run(o.output_image, o.output_row, o.out_rows, o.out_columns, channels)
    done = 0
    while done < count:
        here = _until(pixel + done, pixel + count, run)
        place = _place(pixel + done, o.output_image, o.output_row, o.out_rows, o.out_columns, channels)
        for panel in range(channels // COLUMNS):
            column = 4 * panel * COLUMNS
            turn_pixels(
                o.output_gradient + 4 * (pixel + done) * channels + column,
                o.output + 4 * place + column,
                channels,
                target + 4 * (panel * rows + done) * COLUMNS,
                COLUMNS,
                here,
                COLUMNS,
                s.forward_terms + column,
                s.backward_terms + column,
                s.rectifies,
                0,
                _AHEAD,
            )
        done += here


@compiled("void(int64, int64, int64, int64, int64)")
def _gradient_panels(operation, pixel, count, target, rows):
    """Copy `count` pixels' output gradient into panels of `rows` pixels, the rectifier undone."""
    s = _at(operation)
    if s.backward_terms:
        _turned_panels(operation, pixel, count, target, rows)
        return
    o = convolution_at(s.convolution)
    channels = o.out_channels
    source = o.output_gradient + 4 * pixel * channels
    for panel in range(channels // COLUMNS):
        packed = target + 4 * panel * rows * COLUMNS
        if not o.rectified:
            add_runs(source + 4 * panel * COLUMNS, channels, packed, COLUMNS, count, COLUMNS, np.float32(1), 0)
        else:
            for p in range(count):
                at = _place(pixel + p, o.output_image, o.output_row, o.out_rows, o.out_columns, channels)
                output = floats(o.output + 4 * (at + panel * COLUMNS), COLUMNS)
                given = floats(source + 4 * (p * channels + panel * COLUMNS), COLUMNS)
                kept = floats(packed + 4 * p * COLUMNS, COLUMNS)
                for c in range(COLUMNS):
                    kept[c] = given[c] if output[c] > 0 else np.float32(0)


@compiled("void(int64, int64, int64, int64, int64)")
def _add_panels(panels, rows, count, channels, sums):
    """Add `count` pixels in panels of `rows` pixels to the channels' sums."""
    for panel in range(channels // COLUMNS):
        add_runs(
            panels + 4 * panel * rows * COLUMNS,
            COLUMNS,
            sums + 4 * panel * COLUMNS,
            0,
            count,
            COLUMNS,
            np.float32(1),
            1,
        )


@compiled("void(" + "int64, " * 12 + "float32)")
def _multiply(panels, rows, depth, filters, first, last, init, init_row, target, channels, count, start, floor):
    """Multiply `count` pixels, from `start` on, in panels of `rows` pixels by the filters' panels [first, last).

    `depth`: channels of the panels; `target`, of `channels`, and `init` are the addresses of the first pixel's. What
    lies behind the target, mostly that of the next pixels, is fetched meanwhile, a full tile's lines per tile: stores
    to lines that no cache holds take the buffers that loads need.
    """
    tiles = (count + ROWS - 1) // ROWS
    ahead = target + 4 * (count * channels + first * COLUMNS)
    for panel in range(first, last):
        column = 4 * panel * COLUMNS
        for t in range(tiles):
            p = share(count, tiles, t)
            tile_ahead(
                share(count, tiles, t + 1) - p,
                VECTORS,
                panels + 4 * (start + p) * COLUMNS,
                COLUMNS,
                1,
                rows * COLUMNS,
                filters + 4 * panel * depth * COLUMNS,
                COLUMNS,
                COLUMNS * COLUMNS,
                init + column + 4 * p * init_row if init else 0,
                init_row,
                target + column + 4 * p * channels,
                channels,
                COLUMNS,
                depth // COLUMNS,
                floor,
                LANES,
                ahead,
                _LINE,
            )
            ahead += 4 * ROWS * COLUMNS


@compiled("void(" + ", ".join(["int64"] * 9) + ")")
def _weigh(inputs, input_rows, input_panels, gradients, gradient_rows, count, target, columns, begun):
    """Add the gradient by filter of `count` pixels, or write it where it is not `begun`.

    Rows of the target: the channels of the input's panels of `input_rows` pixels, one behind the other; `columns`
    channels of output gradient in panels of `gradient_rows` pixels.
    """
    tiles = (COLUMNS + ROWS - 1) // ROWS
    panel_size = gradient_rows * COLUMNS
    for panel in range(columns // COLUMNS):
        given = gradients + 4 * panel * panel_size
        fetched = 0  # of the next panel
        for other in range(input_panels):
            for t in range(tiles):
                c = share(COLUMNS, tiles, t)
                place = target + 4 * ((other * COLUMNS + c) * columns + panel * COLUMNS)
                fetches = fetched < count * COLUMNS
                tile_ahead(
                    share(COLUMNS, tiles, t + 1) - c,
                    VECTORS,
                    inputs + 4 * (other * input_rows * COLUMNS + c),
                    1,
                    COLUMNS,
                    0,
                    given,
                    COLUMNS,
                    0,
                    place if begun else 0,
                    columns,
                    place,
                    columns,
                    count,
                    1,
                    _NO_FLOOR,
                    LANES,
                    given + 4 * (panel_size + fetched) if fetches else given,
                    _LINE if fetches else 0,
                )
                fetched += count * _LINE


@task_kernel
def pack_transposed(operation, first, last, part, worker):
    """Pack panels [first, last) of input channels for the gradient by input: the filter's rows turn into columns.

    By squares, for rows lie a power of two apart and would evict each other; the next square's are fetched meanwhile.
    """
    o = convolution_at(operation)
    outputs = o.out_channels
    for panel in range(first, last):
        for k in range(0, outputs, COLUMNS):
            packed = floats(o.backward_panels + 4 * (panel * outputs + k) * COLUMNS, COLUMNS * COLUMNS)
            for c in range(COLUMNS):
                row = o.filters + 4 * ((panel * COLUMNS + c) * outputs + k)
                prefetch(row + 4 * COLUMNS)
                prefetch(row + 8 * COLUMNS - 4)
                given = floats(row, COLUMNS)
                for i in range(COLUMNS):
                    packed[i * COLUMNS + c] = given[i]
    return 0


@task_kernel
def pointwise(operation, first, last, part, worker):
    """Forward of images [first, last), group `part` of the output channels: convolution, bias, rectifier."""
    s = _at(operation)
    o = convolution_at(s.convolution)
    pixels = o.out_rows * o.out_columns
    end = min(last, words(o.batch, 1)[0]) * pixels
    run = _run(o.output_image, o.output_row, o.out_rows, o.out_columns, o.out_channels)
    panels = o.out_channels // COLUMNS
    begin, behind = share(panels, s.groups, part), share(panels, s.groups, part + 1)
    scratch = o.scratch + 4 * worker * o.scratch_worker
    pixel = first * pixels
    while pixel < end:
        count = min(BLOCK, end - pixel)
        _input_panels(s.convolution, pixel, count, 0, o.channels // COLUMNS, scratch, BLOCK)
        done = 0
        while done < count:
            here = _until(pixel + done, pixel + count, run)
            place = _place(pixel + done, o.output_image, o.output_row, o.out_rows, o.out_columns, o.out_channels)
            target = o.output + 4 * place
            _multiply(
                scratch, BLOCK, o.channels, o.forward_panels, begin, behind, o.bias, 0, target, o.out_channels, here,
                done, o.floor,
            )  # fmt: skip
            done += here
        pixel += count
    return 0


@njit(inline="always")
def _by_input(o, panels, rows, pixel, count, first, last):
    """Write, or add, the gradient by the channel panels [first, last) of `count` pixels from `pixel` on."""
    target = o.input_gradient + 4 * pixel * o.channels
    init = target if o.accumulate else 0
    _multiply(
        panels, rows, o.out_channels, o.backward_panels, first, last, init, o.channels, target, o.channels, count, 0,
        _NO_FLOOR,
    )  # fmt: skip


@task_kernel
def pointwise_backward(operation, first, last, part, worker):
    """Backward of images [first, last): input gradient, and the filter and bias gradients as partial sum `part`."""
    s = _at(operation)
    o = convolution_at(s.convolution)
    pixels = o.out_rows * o.out_columns
    end = min(last, words(o.batch, 1)[0]) * pixels
    partial = o.partials + 4 * part * o.part_size
    clear(partial, o.part_size)
    bias_gradient = partial + 4 * o.channels * o.out_channels
    gradients = o.scratch + 4 * worker * o.scratch_worker
    inputs = gradients + 4 * BLOCK * o.out_channels
    for pixel in range(first * pixels, end, BLOCK):
        count = min(BLOCK, end - pixel)
        _gradient_panels(operation, pixel, count, gradients, BLOCK)
        if o.bias:
            _add_panels(gradients, BLOCK, count, o.out_channels, bias_gradient)
        if o.input_gradient:
            _by_input(o, gradients, BLOCK, pixel, count, 0, o.channels // COLUMNS)
        _input_panels(s.convolution, pixel, count, 0, o.channels // COLUMNS, inputs, BLOCK)
        _weigh(inputs, BLOCK, o.channels // COLUMNS, gradients, BLOCK, count, partial, o.out_channels, 1)
    return 0


@task_kernel
def spread(operation, first, last, part, worker):
    """Copy the output gradient of images [first, last) into its panels."""
    s = _at(operation)
    o = convolution_at(s.convolution)
    pixels = o.out_rows * o.out_columns
    first *= pixels
    end = min(last, words(o.batch, 1)[0]) * pixels
    if end > first:
        _gradient_panels(operation, first, end - first, s.spread + 4 * first * COLUMNS, s.spread_rows)
    return 0


@task_kernel
def pointwise_by_input(operation, first, last, part, worker):
    """Write, or add, the gradient by group `part` of the channels of images [first, last)."""
    s = _at(operation)
    o = convolution_at(s.convolution)
    pixels = o.out_rows * o.out_columns
    end = min(last, words(o.batch, 1)[0]) * pixels
    panels = o.channels // COLUMNS
    begin, behind = share(panels, s.input_groups, part), share(panels, s.input_groups, part + 1)
    for pixel in range(first * pixels, end, BLOCK):
        _by_input(o, s.spread + 4 * pixel * COLUMNS, s.spread_rows, pixel, min(BLOCK, end - pixel), begin, behind)
    return 0


@task_kernel
def pointwise_by_weight(operation, first, last, part, worker):
    """Gradient by the filter of the input's channel panels [first, last), over all images; the first one's by bias."""
    s = _at(operation)
    o = convolution_at(s.convolution)
    end = words(o.batch, 1)[0] * o.out_rows * o.out_columns
    inputs = o.scratch + 4 * worker * o.scratch_worker
    target = s.filter_gradient + 4 * first * COLUMNS * o.out_channels
    if first == 0 and s.bias_gradient:
        clear(s.bias_gradient, o.out_channels)
        _add_panels(s.spread, s.spread_rows, end, o.out_channels, s.bias_gradient)
    # at most what the scratch holds
    rows = min(_DEEP, BLOCK * (o.channels + o.out_channels) // ((last - first) * COLUMNS))
    for pixel in range(0, end, rows):
        count = min(rows, end - pixel)
        _input_panels(s.convolution, pixel, count, first, last, inputs, rows)
        gradients = s.spread + 4 * pixel * COLUMNS
        _weigh(inputs, rows, last - first, gradients, s.spread_rows, count, target, o.out_channels, pixel > 0)
    return 0
