"""Direct convolution on the register tile, with bias, rectifier and max pooling. Gradients: convolution_gradients.

Images are NHWC in buffers that hold the padding as a halo of zeros; filters are HWIO. A row of the filter window
(kw, c) is contiguous in NHWC, so one tile call covers a row of output pixels x a panel of output channels with depth
KW * C, repeated over the KH window rows. No im2col.
"""

import numpy as np
from numba import njit

from bptcnn.kernels.compilation import compiled, task_kernel
from bptcnn.kernels.pointers import floats, record_at, words
from bptcnn.kernels.pooling import pool_image
from bptcnn.kernels.tile import tile
from bptcnn.kernels.unit import COLUMNS, LANES, ROWS

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
            "tap_offsets",  # int64 table: the KH * KW * C taps of the filter window in the input buffer
            "filters",  # address in the weight vector, HWIO
            "forward_panels",  # packed filters: [panel of output channels][KH * KW * C][COLUMNS]
            "backward_panels",  # per phase: [panel of gradient channels][filter row][filter column * K][COLUMNS]
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
            "accumulate",  # 1: add to the input gradient
            "folded",  # 1: the gradient by input is computed by window rows, then folded (see convolution_gradients)
            "folding",  # its scratch: one image of window rows, then a row of the input; per worker `folding_worker`
            "folding_worker",
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
def share(total, parts, index):
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
                x = share(o.out_columns, tiles, t)
                tile(
                    share(o.out_columns, tiles, t + 1) - x,
                    vectors,
                    line + 4 * x * o.stride_columns * o.channels,
                    o.stride_columns * o.channels,
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
                channels,
                choice,
                o.rectified,
            )
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
