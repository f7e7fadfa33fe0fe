"""Gradients of the convolution by input, filter and bias, on the same register tile.

The gradient by input of a strided convolution splits into stride_h x stride_w phases: input rows h with
(h + padding) mod stride = r meet only the filter rows r, r + stride, ...; each phase is a stride-1 convolution of the
output gradient with those filter rows, reversed.

With few input channels most lanes of a tile would idle. Then whole window rows (kw, c) are its columns instead: per
input row and output column the gradient of KW * C contiguous elements, which are folded: added up where they overlap.
"""

from typing import Any

import numpy as np
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from bptcnn.kernels.compilation import compiled, task_kernel
from bptcnn.kernels.convolution import convolution_at, share
from bptcnn.kernels.pointers import floats, words
from bptcnn.kernels.pooled_gradients import add_chosen, write_chosen
from bptcnn.kernels.pooling import unpool_image
from bptcnn.kernels.runs import add_runs
from bptcnn.kernels.tile import tile, tile_scattered
from bptcnn.kernels.unit import COLUMNS, LANES, ROWS, UNIT
from bptcnn.kernels.vectors import VectorEmitter, word

_GRADIENT_BLOCK = 4096  # elements of a panel's output gradient: 16 KiB, a third of a first-level cache
_FOLDING_COST = 1.25  # of computing window rows and adding them up, relative to as many lanes computed directly


def folds(channels: int, kernel_columns: int) -> bool:
    """Tell whether the gradient by input is cheaper by window rows: fewer lanes idle, even with the folding."""

    def lanes(elements: int) -> int:
        return -(-elements // LANES) * LANES

    return _FOLDING_COST * lanes(kernel_columns * channels) < kernel_columns * lanes(channels)


@intrinsic
def _rectify_row(typing, gradient, output, channels, columns, target, sums, rectified):
    """Undo the rectifier, if any, for a row of pixels: gradient where the output is above 0; add it to `sums`."""

    def generate(context, builder, signature, args):
        gradient, output, channels, columns, target, sums, rectified = args
        emit = VectorEmitter(builder, UNIT)
        linear = emit.splat(builder.icmp_signed("==", rectified, word(0)))

        def pixel(index: Any, channel: Any, mask: Any) -> None:
            place = builder.add(builder.mul(index, channels), channel)
            given = emit.load(emit.pointer(emit.offset(gradient, place)))
            above = builder.fcmp_ordered(">", emit.load(emit.pointer(emit.offset(output, place))), emit.zero)
            value = builder.select(builder.or_(above, linear), given, emit.zero)
            emit.store_masked(value, emit.pointer(emit.offset(target, place)), mask)
            total = emit.pointer(emit.offset(sums, channel))
            emit.store_masked(builder.fadd(emit.load(total), value), total, mask)

        emit.for_pixels(columns, channels, pixel)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 7), generate


@compiled("void(int64, int64, int64, int64)")
def expand_gradient(operation, image, target, bias_gradient):
    """Undo pooling and rectifier: write the convolution's output gradient into `target`, add up the bias gradient."""
    o = convolution_at(operation)
    channels = o.out_channels
    if o.pool_rows:
        size = o.pooled_rows * o.pooled_columns * channels
        unpool_image(
            o.output_gradient + 4 * image * size,
            o.choice + image * size,
            channels,
            o.pool_rows,
            o.pool_columns,
            o.pool_rows,
            o.pool_columns,
            o.pooled_rows,
            o.pooled_columns,
            target,
            o.gradient_row,
            o.out_rows,
            o.out_columns,
            bias_gradient,
        )
        return
    line = o.out_columns * channels
    for y in range(o.out_rows):
        given = o.output_gradient + 4 * (image * o.out_rows + y) * line
        output = o.output + 4 * (image * o.output_image + y * o.output_row)
        _rectify_row(
            given, output, channels, o.out_columns, target + 4 * y * o.gradient_row, bias_gradient, o.rectified
        )


@compiled("void(int64, int64, int64, int64)")
def gradient_by_weight(operation, image, gradient, partial):
    """Add one image's filter gradient to `partial`; `gradient` is the address of the output gradient's pixel (0, 0).

    The taps (kernel row, kernel column, channel) are the tile's rows, wherever they lie; output rows go in blocks whose
    gradients stay in the first-level cache for all taps.
    """
    o = convolution_at(operation)
    out_channels = o.out_channels
    taps = o.kernel_rows * o.kernel_columns * o.channels
    tiles = (taps + ROWS - 1) // ROWS
    block = max(1, _GRADIENT_BLOCK // (o.out_columns * COLUMNS))
    source = o.input + 4 * image * o.input_image
    for channel in range(0, out_channels, COLUMNS):
        here = min(COLUMNS, out_channels - channel)
        vectors = (here + LANES - 1) // LANES
        tail = here - (vectors - 1) * LANES
        for row in range(0, o.out_rows, block):
            for t in range(tiles):
                tap = share(taps, tiles, t)
                target = partial + 4 * (tap * out_channels + channel)
                tile_scattered(
                    share(taps, tiles, t + 1) - tap,
                    vectors,
                    source + 4 * row * o.stride_rows * o.input_row,
                    o.tap_offsets + 8 * tap,
                    o.stride_columns * o.channels,
                    o.stride_rows * o.input_row,
                    gradient + 4 * (row * o.gradient_row + channel),
                    out_channels,
                    o.gradient_row,
                    target,
                    out_channels,
                    target,
                    out_channels,
                    o.out_columns,
                    min(block, o.out_rows - row),
                    np.float32(-np.inf),
                    tail,
                )


@njit(inline="always")
def _gradient_geometry(o):
    """What the gradient by input is taken over: (channels, kernel columns, column stride, left padding, width)."""
    if o.folded:
        return o.kernel_columns * o.channels, 1, 1, 0, o.out_columns
    return o.channels, o.kernel_columns, o.stride_columns, o.padding_left, o.width


@compiled("void(int64, int64, int64, int64, int64, int64, int64, int64)")
def _gradient_by_input_phase(operation, target, scratch, panels, phase_row, phase_column, taps_h, taps_w):
    """Write, or add, the input gradient, image at `target`, of the pixels of one phase."""
    o = convolution_at(operation)
    channels, _, stride_columns, padding_left, width = _gradient_geometry(o)
    depth = taps_w * o.out_channels
    # h = stride * q + phase - padding for q in [row_first, row_end), and columns likewise
    row_first = (max(0, o.padding_top - phase_row) + o.stride_rows - 1) // o.stride_rows
    row_end = (o.height - 1 + o.padding_top - phase_row) // o.stride_rows + 1
    column_first = (max(0, padding_left - phase_column) + stride_columns - 1) // stride_columns
    column_end = (width - 1 + padding_left - phase_column) // stride_columns + 1
    count = column_end - column_first
    if count <= 0:
        return
    adds = o.accumulate and not o.folded
    tiles = (count + ROWS - 1) // ROWS
    for channel in range(0, channels, COLUMNS):
        here = min(COLUMNS, channels - channel)
        vectors = (here + LANES - 1) // LANES
        tail = here - (vectors - 1) * LANES
        panel = panels + 4 * (channel // COLUMNS) * taps_h * depth * COLUMNS
        for q in range(row_first, row_end):
            h = o.stride_rows * q + phase_row - o.padding_top
            first = max(0, taps_h - 1 - q)  # tap i meets output row q - taps_h + 1 + i: those outside are zeros
            end = min(taps_h, o.out_rows + taps_h - 1 - q)
            if end <= first:
                first, end = 0, 1  # a tile has at least one
            line = scratch + 4 * (q - taps_h + 1 + first + o.halo_top) * o.gradient_row
            for t in range(tiles):
                p = column_first + share(count, tiles, t)
                w = stride_columns * p + phase_column - padding_left
                pixel = target + 4 * ((h * width + w) * channels + channel)
                tile(
                    share(count, tiles, t + 1) - share(count, tiles, t),
                    vectors,
                    line + 4 * (p - taps_w + 1 + o.halo_left) * o.out_channels,
                    o.out_channels,
                    1,
                    o.gradient_row,
                    panel + 4 * first * depth * COLUMNS,
                    COLUMNS,
                    depth * COLUMNS,
                    pixel if adds else 0,
                    stride_columns * channels,
                    pixel,
                    stride_columns * channels,
                    depth,
                    end - first,
                    np.float32(-np.inf),
                    tail,
                )


@intrinsic
def _add_windows(typing, source, rows, columns, window, step, target, target_row):
    """Add windows of `window` elements, (rows, columns) of them at `source`, to places `step` apart in each row.

    Column by column: in a row, what is stored for one window is loaded for the next, too soon to have arrived.
    """

    def generate(context, builder, signature, args):
        source, rows, columns, window, step, target, target_row = args
        emit = VectorEmitter(builder, UNIT)
        source_row = builder.mul(columns, window)

        def add(index: Any, element: Any, mask: Any) -> None:
            first = emit.offset(source, builder.add(builder.mul(index, window), element))
            place = emit.offset(target, builder.add(builder.mul(index, step), element))
            with cgutils.for_range(builder, rows) as row:
                given = emit.load(emit.pointer(emit.offset(first, builder.mul(row.index, source_row))))
                pointer = emit.pointer(emit.offset(place, builder.mul(row.index, target_row)))
                emit.store_masked(builder.fadd(emit.load(pointer), given), pointer, mask)

        emit.for_pixels(columns, window, add)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 7), generate


@compiled("void(int64, int64, int64)")
def _fold(operation, windows, target):
    """Add overlapping window rows (height, out columns, KW * C) at `windows` up to the input gradient at `target`."""
    o = convolution_at(operation)
    window, step = o.kernel_columns * o.channels, o.stride_columns * o.channels
    size, line, before = (o.out_columns - 1) * step + window, o.width * o.channels, o.padding_left * o.channels
    reach = max(size, before + line)
    whole = reach == line  # a row of the input holds all windows, and nothing else
    sums = target if whole else windows + 4 * o.height * o.out_columns * window
    if not (whole and o.accumulate):
        cleared = floats(sums, o.height * reach)
        for i in range(cleared.size):
            cleared[i] = np.float32(0)
    _add_windows(windows, o.height, o.out_columns, window, step, sums, reach)
    if not whole:
        add_runs(sums + 4 * before, reach, target, line, o.height, line, np.float32(1), o.accumulate)


@compiled("void(int64, int64, int64, int64)")
def gradient_by_input(operation, image, scratch, worker):
    """Write, or add, one image's input gradient; `scratch` is the address of the output gradient's halo corner."""
    o = convolution_at(operation)
    channels, kernel_columns, stride_columns, _, width = _gradient_geometry(o)
    final = o.input_gradient + 4 * image * o.height * o.width * o.channels
    target = o.folding + 4 * worker * o.folding_worker if o.folded else final
    skips = o.stride_rows > o.kernel_rows or stride_columns > kernel_columns  # some pixels meet no filter tap
    if skips and (o.folded or not o.accumulate):
        zeros = floats(target, o.height * width * channels)
        for i in range(zeros.size):
            zeros[i] = np.float32(0)
    panels = o.backward_panels
    rounded = (channels + COLUMNS - 1) // COLUMNS * COLUMNS
    for phase_row in range(min(o.stride_rows, o.kernel_rows)):
        taps_h = (o.kernel_rows - phase_row + o.stride_rows - 1) // o.stride_rows
        for phase_column in range(min(stride_columns, kernel_columns)):
            taps_w = (kernel_columns - phase_column + stride_columns - 1) // stride_columns
            _gradient_by_input_phase(operation, target, scratch, panels, phase_row, phase_column, taps_h, taps_w)
            panels += 4 * taps_h * taps_w * o.out_channels * rounded
    if o.folded:
        _fold(operation, target, final)


@task_kernel
def convolve_backward(operation, first, last, part, worker):
    """Backward of images [first, last): input gradient, and the filter and bias gradients as partial sum `part`."""
    o = convolution_at(operation)
    last = min(last, words(o.batch, 1)[0])
    partial = o.partials + 4 * part * o.part_size
    chosen_sums = o.chosen_sums + 4 * worker * o.chosen_sums_worker
    sums = floats(chosen_sums, o.chosen_sums_worker) if o.window_line else floats(partial, o.part_size)
    for i in range(sums.size):
        sums[i] = np.float32(0)
    bias_gradient = partial + 4 * o.kernel_rows * o.kernel_columns * o.channels * o.out_channels
    scratch = o.gradient_scratch + 4 * worker * o.gradient_scratch_worker
    inside = scratch + 4 * (o.halo_top * o.gradient_row + o.halo_left * o.out_channels)
    for image in range(first, last):
        if o.window_line:
            add_chosen(operation, image, chosen_sums)
        if o.input_gradient or not o.window_line:
            expand_gradient(operation, image, inside, 0 if o.window_line else bias_gradient)
        if o.input_gradient:
            gradient_by_input(operation, image, scratch, worker)
        if not o.window_line:
            gradient_by_weight(operation, image, inside, partial)
    if o.window_line:
        write_chosen(operation, chosen_sums, partial)
    return 0


@compiled("void(int64, int64, int64, int64, int64, int64, int64)")
def _pack_backward_phase(operation, target, panel, phase_row, phase_column, taps_h, taps_w):
    o = convolution_at(operation)
    channels, kernel_columns, stride_columns, _, _ = _gradient_geometry(o)
    out_channels = o.out_channels
    here = min(COLUMNS, channels - panel * COLUMNS)
    size = taps_h * taps_w * out_channels * COLUMNS
    packed = floats(target + 4 * panel * size, size)
    filters = floats(o.filters, o.kernel_rows * kernel_columns * channels * out_channels)
    for tap_h in range(taps_h):
        row = o.stride_rows * (taps_h - 1 - tap_h) + phase_row
        for tap_w in range(taps_w):
            column = stride_columns * (taps_w - 1 - tap_w) + phase_column
            source = ((row * kernel_columns + column) * channels + panel * COLUMNS) * out_channels
            base = (tap_h * taps_w + tap_w) * out_channels * COLUMNS
            for k in range(out_channels):
                for c in range(here):
                    packed[base + k * COLUMNS + c] = filters[source + c * out_channels + k]
                for c in range(here, COLUMNS):
                    packed[base + k * COLUMNS + c] = np.float32(0)


@task_kernel
def pack_backward(operation, first, last, part, worker):
    """Pack the filters' panels [first, last) for the gradient by input: transposed, reversed, split into phases."""
    o = convolution_at(operation)
    target = o.backward_panels
    channels, kernel_columns, stride_columns, _, _ = _gradient_geometry(o)
    rounded = (channels + COLUMNS - 1) // COLUMNS * COLUMNS
    for phase_row in range(min(o.stride_rows, o.kernel_rows)):
        taps_h = (o.kernel_rows - phase_row + o.stride_rows - 1) // o.stride_rows
        for phase_column in range(min(stride_columns, kernel_columns)):
            taps_w = (kernel_columns - phase_column + stride_columns - 1) // stride_columns
            for panel in range(first, last):
                _pack_backward_phase(operation, target, panel, phase_row, phase_column, taps_h, taps_w)
            target += 4 * taps_h * taps_w * o.out_channels * rounded
    return 0
