"""Direct convolution on the register tile: forward, gradient by input, gradient by weight, bias gradient.

Images are NHWC in buffers that hold the padding as a halo of zeros; filters are HWIO. A row of the filter window
(kw, c) is contiguous in NHWC, so one tile call covers a row of output pixels x a panel of output channels with depth
KW * C, repeated over the KH window rows. No im2col.

The gradient by input of a strided convolution splits into stride_h x stride_w phases: input rows h with
(h + padding) mod stride = r meet only the filter rows r, r + stride, ...; each phase is a stride-1 convolution of the
output gradient with those filter rows, reversed.
"""

from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import intrinsic

from bptcnn.kernels.compilation import compiled, task_kernel
from bptcnn.kernels.pointers import floats, record_at, words
from bptcnn.kernels.pooling import pool_image, unpool_image
from bptcnn.kernels.tile import tile
from bptcnn.kernels.unit import COLUMNS, LANES, ROWS, UNIT
from bptcnn.kernels.vectors import VectorEmitter, word

_GRADIENT_BLOCK = 4096  # elements of a panel's output gradient: 16 KiB, a third of a first-level cache

CONVOLUTION = np.dtype(
    [
        (name, np.int64)
        for name in (
            "batch",  # address of the number of images in this step
            "input",  # address of the input at output pixel (0, 0)'s window, image 0, halo included
            "input_image",  # strides of the input buffer: elements from image to image, row to row
            "input_row",
            "channels",
            "height",  # of the input, without halo
            "width",
            "kernel_rows",
            "kernel_columns",
            "stride_rows",
            "stride_columns",
            "padding_top",
            "padding_left",
            "pixel_offsets",  # int64 tables for the tiles' rows: ROWS output pixels in the input buffer,
            "gradient_offsets",  # ROWS pixels of the output gradient,
            "tap_offsets",  # KH * KW * C taps of the filter window in the input buffer
            "filters",  # address in the weight vector, HWIO
            "forward_panels",  # packed filters: [panel of output channels][KH * KW * C][COLUMNS]
            "backward_panels",  # per phase: [panel of input channels][filter row][filter column * K][COLUMNS]
            "bias",  # address, or 0
            "out_channels",
            "out_rows",  # of the convolution, before pooling
            "out_columns",
            "output",  # address of what the operation puts out: pooled where it pools
            "output_image",
            "output_row",
            "pool_rows",  # 0: no pooling
            "pool_columns",
            "pooled_rows",
            "pooled_columns",
            "choice",  # address of the pooling choices (uint8, pooled layout), or 0 where no gradient is wanted
            "rectified",  # 1: a rectifier follows the bias
            "scratch",  # forward rows before pooling: per worker `scratch_worker` elements
            "scratch_worker",
            "output_gradient",  # address, layout (images, pooled or output rows, columns, K) without halo
            "input_gradient",  # address, layout (images, height, width, channels), or 0 where nobody wants it
            "gradient_scratch",  # one image of the convolution's output gradient with halo, per worker
            "gradient_scratch_worker",
            "halo_top",
            "halo_left",
            "gradient_row",  # row stride of that image
            "partials",  # per part: filter gradient (HWIO), then bias gradient
            "part_size",
        )
    ]
    + [("floor", np.float32)],
    align=True,
)
convolution_at = record_at(CONVOLUTION)


@njit(inline="always")
def _share(total, parts, index):
    """Start of the index-th of `parts` nearly equal shares of `total`."""
    return total * index // parts


@compiled("void(int64, int64, int64, int64, int64, int64, int64)")
def convolve_rows(operation, image, target, target_row, target_pixel, row, rows):
    """Convolve `rows` output rows from `row` on of one image into `target`, with bias and rectifier."""
    o = convolution_at(operation)
    depth = o.kernel_columns * o.channels
    panel_size = o.kernel_rows * depth * COLUMNS
    tiles = (o.out_columns + ROWS - 1) // ROWS
    source = o.input + 4 * image * o.input_image
    for channel in range(0, o.out_channels, COLUMNS):
        here = min(COLUMNS, o.out_channels - channel)
        vectors = (here + LANES - 1) // LANES
        tail = here - (vectors - 1) * LANES
        panel = o.forward_panels + 4 * (channel // COLUMNS) * panel_size
        bias = o.bias + 4 * channel if o.bias else 0
        for y in range(rows):
            line = source + 4 * (row + y) * o.stride_rows * o.input_row
            for t in range(tiles):
                x = _share(o.out_columns, tiles, t)
                tile(
                    _share(o.out_columns, tiles, t + 1) - x,
                    vectors,
                    line + 4 * x * o.stride_columns * o.channels,
                    o.pixel_offsets,
                    1,
                    o.input_row,
                    panel,
                    COLUMNS,
                    depth * COLUMNS,
                    bias,
                    0,
                    target + 4 * (y * target_row + x * target_pixel + channel),
                    target_pixel,
                    depth,
                    o.kernel_rows,
                    o.floor,
                    tail,
                )


@task_kernel
def convolve(operation, first, last, part, worker):
    """Forward of images [first, last): convolution, bias, rectifier and, where it follows, max pooling."""
    o = convolution_at(operation)
    last = min(last, words(o.batch, 1)[0])
    channels = o.out_channels
    for image in range(first, last):
        output = o.output + 4 * image * o.output_image
        if o.pool_rows == 0:
            convolve_rows(operation, image, output, o.output_row, channels, 0, o.out_rows)
            continue
        band = o.scratch + 4 * worker * o.scratch_worker
        pooled_line = o.pooled_columns * channels
        for y in range(o.pooled_rows):
            convolve_rows(operation, image, band, o.out_columns * channels, channels, y * o.pool_rows, o.pool_rows)
            choice = o.choice + (image * o.pooled_rows + y) * pooled_line if o.choice else 0
            pool_image(
                band,
                o.out_columns * channels,
                channels,
                o.pool_rows,
                o.pool_columns,
                o.pool_rows,
                o.pool_columns,
                1,
                o.pooled_columns,
                output + 4 * y * o.output_row,
                o.output_row,
                choice,
                o.rectified,
            )
    return 0


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
def _expand_gradient(operation, image, target, bias_gradient):
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
                tap = _share(taps, tiles, t)
                target = partial + 4 * (tap * out_channels + channel)
                tile(
                    _share(taps, tiles, t + 1) - tap,
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


@compiled("void(int64, int64, int64, int64, int64, int64, int64, int64)")
def _gradient_by_input_phase(operation, image, scratch, panels, phase_row, phase_column, taps_h, taps_w):
    """Write the input gradient of the pixels of one phase."""
    o = convolution_at(operation)
    channels, depth = o.channels, taps_w * o.out_channels
    # h = stride * q + phase - padding for q in [q_first, q_end)
    row_first = (max(0, o.padding_top - phase_row) + o.stride_rows - 1) // o.stride_rows
    row_end = (o.height - 1 + o.padding_top - phase_row) // o.stride_rows + 1
    column_first = (max(0, o.padding_left - phase_column) + o.stride_columns - 1) // o.stride_columns
    column_end = (o.width - 1 + o.padding_left - phase_column) // o.stride_columns + 1
    count = column_end - column_first
    if count <= 0:
        return
    tiles = (count + ROWS - 1) // ROWS
    target_image = o.input_gradient + 4 * image * o.height * o.width * channels
    for channel in range(0, channels, COLUMNS):
        here = min(COLUMNS, channels - channel)
        vectors = (here + LANES - 1) // LANES
        tail = here - (vectors - 1) * LANES
        panel = panels + 4 * (channel // COLUMNS) * taps_h * depth * COLUMNS
        for q in range(row_first, row_end):
            h = o.stride_rows * q + phase_row - o.padding_top
            line = scratch + 4 * (q - taps_h + 1 + o.halo_top) * o.gradient_row
            for t in range(tiles):
                p = column_first + _share(count, tiles, t)
                w = o.stride_columns * p + phase_column - o.padding_left
                tile(
                    _share(count, tiles, t + 1) - _share(count, tiles, t),
                    vectors,
                    line + 4 * (p - taps_w + 1 + o.halo_left) * o.out_channels,
                    o.gradient_offsets,
                    1,
                    o.gradient_row,
                    panel,
                    COLUMNS,
                    depth * COLUMNS,
                    0,
                    0,
                    target_image + 4 * ((h * o.width + w) * channels + channel),
                    o.stride_columns * channels,
                    depth,
                    taps_h,
                    np.float32(-np.inf),
                    tail,
                )


@compiled("void(int64, int64, int64)")
def gradient_by_input(operation, image, scratch):
    """Write one image's input gradient; `scratch` is the address of the output gradient's halo corner."""
    o = convolution_at(operation)
    if o.stride_rows > o.kernel_rows or o.stride_columns > o.kernel_columns:  # some pixels meet no filter tap
        size = o.height * o.width * o.channels
        zeros = floats(o.input_gradient + 4 * image * size, size)
        for i in range(size):
            zeros[i] = np.float32(0)
    panels = o.backward_panels
    rounded = (o.channels + COLUMNS - 1) // COLUMNS * COLUMNS
    for phase_row in range(min(o.stride_rows, o.kernel_rows)):
        taps_h = (o.kernel_rows - phase_row + o.stride_rows - 1) // o.stride_rows
        for phase_column in range(min(o.stride_columns, o.kernel_columns)):
            taps_w = (o.kernel_columns - phase_column + o.stride_columns - 1) // o.stride_columns
            _gradient_by_input_phase(operation, image, scratch, panels, phase_row, phase_column, taps_h, taps_w)
            panels += 4 * taps_h * taps_w * o.out_channels * rounded


@task_kernel
def convolve_backward(operation, first, last, part, worker):
    """Backward of images [first, last): input gradient, and the filter and bias gradients as partial sum `part`."""
    o = convolution_at(operation)
    last = min(last, words(o.batch, 1)[0])
    partial = o.partials + 4 * part * o.part_size
    sums = floats(partial, o.part_size)
    for i in range(o.part_size):
        sums[i] = np.float32(0)
    bias_gradient = partial + 4 * o.kernel_rows * o.kernel_columns * o.channels * o.out_channels
    scratch = o.gradient_scratch + 4 * worker * o.gradient_scratch_worker
    inside = scratch + 4 * (o.halo_top * o.gradient_row + o.halo_left * o.out_channels)
    for image in range(first, last):
        _expand_gradient(operation, image, inside, bias_gradient)
        if o.input_gradient:
            gradient_by_input(operation, image, scratch)
        gradient_by_weight(operation, image, inside, partial)
    return 0


@task_kernel
def pack_forward(operation, first, last, part, worker):
    """Pack the filters' panels [first, last) for `convolve`: COLUMNS output channels side by side, zeros behind."""
    o = convolution_at(operation)
    rows = o.kernel_rows * o.kernel_columns * o.channels
    filters = floats(o.filters, rows * o.out_channels)
    for panel in range(first, last):
        here = min(COLUMNS, o.out_channels - panel * COLUMNS)
        packed = floats(o.forward_panels + 4 * panel * rows * COLUMNS, rows * COLUMNS)
        for row in range(rows):
            start = row * o.out_channels + panel * COLUMNS
            for c in range(here):
                packed[row * COLUMNS + c] = filters[start + c]
            for c in range(here, COLUMNS):
                packed[row * COLUMNS + c] = np.float32(0)
    return 0


@compiled("void(int64, int64, int64, int64, int64, int64, int64)")
def _pack_backward_phase(operation, target, panel, phase_row, phase_column, taps_h, taps_w):
    o = convolution_at(operation)
    channels, out_channels = o.channels, o.out_channels
    here = min(COLUMNS, channels - panel * COLUMNS)
    size = taps_h * taps_w * out_channels * COLUMNS
    packed = floats(target + 4 * panel * size, size)
    filters = floats(o.filters, o.kernel_rows * o.kernel_columns * channels * out_channels)
    for tap_h in range(taps_h):
        row = o.stride_rows * (taps_h - 1 - tap_h) + phase_row
        for tap_w in range(taps_w):
            column = o.stride_columns * (taps_w - 1 - tap_w) + phase_column
            source = ((row * o.kernel_columns + column) * channels + panel * COLUMNS) * out_channels
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
    rounded = (o.channels + COLUMNS - 1) // COLUMNS * COLUMNS
    for phase_row in range(min(o.stride_rows, o.kernel_rows)):
        taps_h = (o.kernel_rows - phase_row + o.stride_rows - 1) // o.stride_rows
        for phase_column in range(min(o.stride_columns, o.kernel_columns)):
            taps_w = (o.kernel_columns - phase_column + o.stride_columns - 1) // o.stride_columns
            for panel in range(first, last):
                _pack_backward_phase(operation, target, panel, phase_row, phase_column, taps_h, taps_w)
            target += 4 * taps_h * taps_w * o.out_channels * rounded
    return 0
