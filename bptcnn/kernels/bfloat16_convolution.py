"""Convolution with bfloat16 products and float32 sums: rows of a product are images, one pixel at a time.

Whole pixels of 32 images are packed into blocks first (see bfloat16_blocks). An output pixel is then one product over
the taps that meet the image and the blocks of input channels: nothing is multiplied with padding, whatever kernel,
stride and image size. The gradient by input is the same over the output gradient; in the gradient by filter the rows
are input channels, and the depth is images, one pixel after the other.

    packed input       [pixel][images / 32][channels / 32] blocks of rows: images x channels
    packed gradient    the same of the output gradient
    turned input       [channels / 32][images / 32][pixel] blocks of rows: channels x images
    gradient columns   [out channels / 32][images / 32][pixel] blocks of columns: images x out channels
    panels             [columns / 32][tap][depth / 32] blocks of columns: filters, for forward and by input

Images that are not there, and channels behind the last one, are zeros.
"""

import numpy as np
from numba import njit

from bptcnn.kernels.bfloat16_blocks import (
    BLOCK,
    BLOCK_BYTES,
    configure_tiles,
    multiply_blocks,
    pack_columns,
    pack_rows,
    pack_transposed_columns,
    pack_transposed_rows,
    release_tiles,
    store_block,
)
from bptcnn.kernels.compilation import compiled, task_kernel
from bptcnn.kernels.convolution import share
from bptcnn.kernels.pointers import record_at, words

BFLOAT16_CONVOLUTION = np.dtype(
    [
        (name, np.int64)
        for name in (
            "batch",  # address of the number of images in this step
            "input",  # address of pixel (0, 0) of image 0
            "input_image",  # strides of the input buffer: elements from image to image, row to row
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
            "filters",  # address in the weight vector, HWIO
            "bias",  # address, or 0
            "out_channels",
            "out_rows",
            "out_columns",
            "output",
            "output_image",
            "output_row",
            "rectified",  # 1: a rectifier follows the bias
            "output_gradient",  # address, layout (images, out rows, out columns, out channels)
            "input_gradient",  # address, layout (images, height, width, channels), or 0 where nobody wants it
            "accumulate",  # 1: add to the input gradient
            "image_blocks",  # of a whole batch
            "packed_input",
            "packed_gradient",
            "turned_input",
            "gradient_columns",
            "ones",  # address of a block of ones
            "forward_panels",
            "backward_panels",
            "forward_slices",  # tasks into which output channels are divided
            "backward_slices",  # likewise input channels, for the gradient by input
            "bands",  # rows of the output are divided into so many parts, for the gradient by filter
            "group",  # blocks of images in a part
            "partials",  # per part: filter gradient (HWIO), then bias gradient
            "part_size",
            "scratch",  # per worker: a product, then the table of its blocks
            "scratch_worker",
        )
    ]
    + [("floor", np.float32)],
    align=True,
)
_at = record_at(BFLOAT16_CONVOLUTION)

SUMS = BLOCK * BLOCK
"""Elements of a product, with which a worker's scratch begins."""


@njit(inline="always")
def _blocks(elements):
    return (elements + BLOCK - 1) // BLOCK


# ---- packing ---------------------------------------------------------------------------------------------------------


@task_kernel
def pack_input(operation, first, last, part, worker):
    """Pack rows [first, last) of the input, for the forward pass."""
    o = _at(operation)
    images, channel_blocks = words(o.batch, 1)[0], _blocks(o.channels)
    for pixel in range(first * o.width, last * o.width):
        source = o.input + 4 * (pixel // o.width * o.input_row + pixel % o.width * o.channels)
        for block in range(_blocks(images)):
            target = o.packed_input + BLOCK_BYTES * (pixel * o.image_blocks + block) * channel_blocks
            rows = source + 4 * BLOCK * block * o.input_image
            for c in range(channel_blocks):
                pack_rows(
                    rows + 4 * BLOCK * c,
                    4 * o.input_image,
                    images - BLOCK * block,
                    o.channels - BLOCK * c,
                    0,
                    0,
                    target + BLOCK_BYTES * c,
                )
    return 0


@task_kernel
def turn_input(operation, first, last, part, worker):
    """Pack rows [first, last) of the input, for the gradient by filter."""
    o = _at(operation)
    images, channel_blocks = words(o.batch, 1)[0], _blocks(o.channels)
    for pixel in range(first * o.width, last * o.width):
        source = o.input + 4 * (pixel // o.width * o.input_row + pixel % o.width * o.channels)
        for block in range(_blocks(images)):
            rows = source + 4 * BLOCK * block * o.input_image
            for c in range(channel_blocks):
                pack_transposed_rows(
                    rows + 4 * BLOCK * c,
                    4 * o.input_image,
                    images - BLOCK * block,
                    o.channels - BLOCK * c,
                    0,
                    0,
                    o.turned_input + BLOCK_BYTES * ((c * o.image_blocks + block) * o.height * o.width + pixel),
                )
    return 0


@task_kernel
def pack_gradient(operation, first, last, part, worker):
    """Undo the rectifier and pack rows [first, last) of the output gradient, for both gradients."""
    o = _at(operation)
    images, channels, channel_blocks = words(o.batch, 1)[0], o.out_channels, _blocks(o.out_channels)
    image = o.out_rows * o.out_columns * channels
    for pixel in range(first * o.out_columns, last * o.out_columns):
        made = o.output + 4 * (pixel // o.out_columns * o.output_row + pixel % o.out_columns * channels)
        for block in range(_blocks(images)):
            for c in range(channel_blocks):
                rows = o.output_gradient + 4 * (BLOCK * block * image + pixel * channels + BLOCK * c)
                outputs = made + 4 * (BLOCK * block * o.output_image + BLOCK * c) if o.rectified else 0
                here = images - BLOCK * block
                width = channels - BLOCK * c
                place = (c * o.image_blocks + block) * o.out_rows * o.out_columns + pixel
                target = o.gradient_columns + BLOCK_BYTES * place
                pack_columns(rows, 4 * image, here, width, outputs, 4 * o.output_image, target)
                if o.input_gradient:
                    place = (pixel * o.image_blocks + block) * channel_blocks + c
                    target = o.packed_gradient + BLOCK_BYTES * place
                    pack_rows(rows, 4 * image, here, width, outputs, 4 * o.output_image, target)
    return 0


@task_kernel
def pack_filters(operation, first, last, part, worker):
    """Pack the filters in the rows [first, last) of blocks, a row for each tap and block of input channels."""
    o = _at(operation)
    taps, in_blocks, out_blocks = o.kernel_rows * o.kernel_columns, _blocks(o.channels), _blocks(o.out_channels)
    stride = 4 * o.out_channels
    for row in range(first, last):
        tap, c = divmod(row, in_blocks)
        rows = o.channels - BLOCK * c
        for k in range(out_blocks):
            source = o.filters + 4 * ((tap * o.channels + BLOCK * c) * o.out_channels + BLOCK * k)
            columns = o.out_channels - BLOCK * k
            target = o.forward_panels + BLOCK_BYTES * (k * taps * in_blocks + row)
            pack_columns(source, stride, rows, columns, 0, 0, target)
            if o.backward_panels:
                target = o.backward_panels + BLOCK_BYTES * ((c * taps + tap) * out_blocks + k)
                pack_transposed_columns(source, stride, rows, columns, 0, 0, target)
    return 0


# ---- products --------------------------------------------------------------------------------------------------------


@njit(inline="always")
def _list_tap(entries, count, place, tap, depth):
    """List the `depth` blocks of the pixel at `place` with those of a tap's filters; return how many there are now."""
    for d in range(depth):
        entries[2 * count] = place + d * BLOCK_BYTES
        entries[2 * count + 1] = (tap * depth + d) * BLOCK_BYTES
        count += 1
    return count


@compiled("int64(int64, int64, int64, int64, int64, int64)")
def _forward_table(operation, table, y, x, depth, pixel_step):
    """List the blocks of the input pixels that output pixel (y, x) meets, and of their filters; return how many."""
    o = _at(operation)
    count = 0
    entries = words(table, 2 * o.kernel_rows * o.kernel_columns * depth)
    for tap_y in range(o.kernel_rows):
        row = y * o.stride_rows + tap_y - o.padding_top
        for tap_x in range(o.kernel_columns):
            column = x * o.stride_columns + tap_x - o.padding_left
            if 0 <= row < o.height and 0 <= column < o.width:
                pixel, tap = row * o.width + column, tap_y * o.kernel_columns + tap_x
                count = _list_tap(entries, count, pixel * pixel_step, tap, depth)
    return count


@compiled("int64(int64, int64, int64, int64, int64, int64)")
def _by_input_table(operation, table, h, w, depth, pixel_step):
    """List the blocks of the output pixels that input pixel (h, w) meets, and of their filters; return how many."""
    o = _at(operation)
    count = 0
    entries = words(table, 2 * o.kernel_rows * o.kernel_columns * depth)
    for tap_y in range(o.kernel_rows):
        y, rest_y = divmod(h + o.padding_top - tap_y, o.stride_rows)
        for tap_x in range(o.kernel_columns):
            x, rest_x = divmod(w + o.padding_left - tap_x, o.stride_columns)
            if rest_y == 0 and rest_x == 0 and 0 <= y < o.out_rows and 0 <= x < o.out_columns:
                pixel, tap = y * o.out_columns + x, tap_y * o.kernel_columns + tap_x
                count = _list_tap(entries, count, pixel * pixel_step, tap, depth)
    return count


@task_kernel
def convolve_blocks(operation, first, last, part, worker):
    """Forward of output rows [first, last) in slice `part` of the output channels, with bias and rectifier."""
    o = _at(operation)
    images, depth = words(o.batch, 1)[0], _blocks(o.channels)
    sums = o.scratch + 4 * worker * o.scratch_worker
    table = sums + 4 * SUMS
    pixel_step = o.image_blocks * depth * BLOCK_BYTES
    panel_step = o.kernel_rows * o.kernel_columns * depth * BLOCK_BYTES
    panels = _blocks(o.out_channels)
    configure_tiles()
    for block in range(_blocks(images)):
        for panel in range(share(panels, o.forward_slices, part), share(panels, o.forward_slices, part + 1)):
            for pixel in range(first * o.out_columns, last * o.out_columns):
                y, x = divmod(pixel, o.out_columns)
                count = _forward_table(operation, table, y, x, depth, pixel_step)
                source = o.packed_input + block * depth * BLOCK_BYTES
                multiply_blocks(table, count, source, o.forward_panels + panel * panel_step, sums)
                place = BLOCK * block * o.output_image + y * o.output_row + x * o.out_channels + BLOCK * panel
                store_block(
                    sums,
                    min(BLOCK, images - BLOCK * block),
                    o.out_channels - BLOCK * panel,
                    o.bias + 4 * BLOCK * panel if o.bias else 0,
                    o.floor,
                    o.output + 4 * place,
                    4 * o.output_image,
                    0,
                )
    release_tiles()
    return 0


@task_kernel
def gradient_by_input_blocks(operation, first, last, part, worker):
    """Write, or add, the input gradient of rows [first, last) in slice `part` of the input channels."""
    o = _at(operation)
    images, depth = words(o.batch, 1)[0], _blocks(o.out_channels)
    sums = o.scratch + 4 * worker * o.scratch_worker
    table = sums + 4 * SUMS
    pixel_step = o.image_blocks * depth * BLOCK_BYTES
    panel_step = o.kernel_rows * o.kernel_columns * depth * BLOCK_BYTES
    panels, image = _blocks(o.channels), o.height * o.width * o.channels
    configure_tiles()
    for block in range(_blocks(images)):
        for panel in range(share(panels, o.backward_slices, part), share(panels, o.backward_slices, part + 1)):
            for pixel in range(first * o.width, last * o.width):
                count = _by_input_table(operation, table, pixel // o.width, pixel % o.width, depth, pixel_step)
                source = o.packed_gradient + block * depth * BLOCK_BYTES
                multiply_blocks(table, count, source, o.backward_panels + panel * panel_step, sums)
                store_block(
                    sums,
                    min(BLOCK, images - BLOCK * block),
                    o.channels - BLOCK * panel,
                    0,
                    np.float32(-np.inf),
                    o.input_gradient + 4 * (BLOCK * block * image + pixel * o.channels + BLOCK * panel),
                    4 * image,
                    o.accumulate,
                )
    release_tiles()
    return 0


@compiled("int64(int64, int64, int64, int64, int64, int64, int64, int64)")
def _by_filter_table(operation, table, tap_y, tap_x, row_first, row_end, first_block, last_block):
    """List the blocks of the pixels that a tap brings together, of some rows and blocks of images; return how many."""
    o = _at(operation)
    pixels, out_pixels = o.height * o.width, o.out_rows * o.out_columns
    entries = words(table, 2 * (last_block - first_block) * (row_end - row_first) * o.out_columns)
    count = 0
    for block in range(first_block, last_block):
        for y in range(row_first, row_end):
            row = y * o.stride_rows + tap_y - o.padding_top
            if not 0 <= row < o.height:
                continue
            for x in range(o.out_columns):
                column = x * o.stride_columns + tap_x - o.padding_left
                if 0 <= column < o.width:
                    entries[2 * count] = (block * pixels + row * o.width + column) * BLOCK_BYTES
                    entries[2 * count + 1] = (block * out_pixels + y * o.out_columns + x) * BLOCK_BYTES
                    count += 1
    return count


@compiled("int64(int64, int64, int64, int64, int64, int64)")
def _ones_table(operation, table, row_first, row_end, first_block, last_block):
    """List all output pixels of some rows and blocks of images with the block of ones; return how many."""
    o = _at(operation)
    out_pixels = o.out_rows * o.out_columns
    entries = words(table, 2 * (last_block - first_block) * (row_end - row_first) * o.out_columns)
    count = 0
    for block in range(first_block, last_block):
        for pixel in range(row_first * o.out_columns, row_end * o.out_columns):
            entries[2 * count] = 0
            entries[2 * count + 1] = (block * out_pixels + pixel) * BLOCK_BYTES
            count += 1
    return count


@task_kernel
def gradient_by_filter_blocks(operation, first, last, part, worker):
    """Write the filter and bias gradients of the blocks [first, last) of output channels as partial sum `part`.

    A part is some blocks of images and a band of output rows.
    """
    o = _at(operation)
    sums = o.scratch + 4 * worker * o.scratch_worker
    table = sums + 4 * SUMS
    partial = o.partials + 4 * part * o.part_size
    group, band = divmod(part, o.bands)
    first_block, last_block = group * o.group, min((group + 1) * o.group, _blocks(words(o.batch, 1)[0]))
    row_first, row_end = share(o.out_rows, o.bands, band), share(o.out_rows, o.bands, band + 1)
    left_step = o.image_blocks * o.height * o.width * BLOCK_BYTES
    right_step = o.image_blocks * o.out_rows * o.out_columns * BLOCK_BYTES
    free, stride = np.float32(-np.inf), 4 * o.out_channels
    configure_tiles()
    for panel in range(first, last):
        right, columns = o.gradient_columns + panel * right_step, o.out_channels - BLOCK * panel
        for c in range(_blocks(o.channels)):
            left, rows = o.turned_input + c * left_step, min(BLOCK, o.channels - BLOCK * c)
            for tap in range(o.kernel_rows * o.kernel_columns):
                tap_y, tap_x = divmod(tap, o.kernel_columns)
                count = _by_filter_table(operation, table, tap_y, tap_x, row_first, row_end, first_block, last_block)
                multiply_blocks(table, count, left, right, sums)
                target = partial + 4 * ((tap * o.channels + BLOCK * c) * o.out_channels + BLOCK * panel)
                store_block(sums, rows, columns, 0, free, target, stride, 0)
        if o.bias:
            count = _ones_table(operation, table, row_first, row_end, first_block, last_block)
            multiply_blocks(table, count, o.ones, right, sums)
            target = partial + 4 * (o.part_size - o.out_channels + BLOCK * panel)
            store_block(sums, 1, columns, 0, free, target, stride, 0)
    release_tiles()
    return 0
