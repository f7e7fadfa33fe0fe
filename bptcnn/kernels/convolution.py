"""Direct convolution on the register tile, with bias, rectifier and max pooling. Gradients: convolution_gradients.

Images are NHWC in buffers that hold the padding as a halo of zeros; filters are HWIO. A row of the filter window
(kw, c) is contiguous in NHWC, so one tile call covers a row of output pixels x a panel of output channels with depth
KW * C, repeated over the KH window rows. No im2col.
"""

import numpy as np
from numba import njit

from bptcnn.kernels.compilation import compiled, task_kernel
from bptcnn.kernels.pointers import floats, prefetch, record_at, words
from bptcnn.kernels.pooling import pool_image
from bptcnn.kernels.tile import tile
from bptcnn.kernels.unit import COLUMNS, LANES, ROWS

MOST_ABREAST = 8
ABREAST_GAIN = 0.85  # of the cost: packing zeros costs, too

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
            "abreast",  # output pixels that share a row of the tile (see `pixels_abreast`)
            "forward_panels",  # packed filters: [panel of abreast * K columns][KH * depth][COLUMNS]; then their biases
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
            "folding",  # its scratch: one image of window rows, then one of the input; per worker `folding_worker`
            "folding_worker",
            "gradient_scratch",  # one image of the convolution's output gradient with halo, per worker
            "gradient_scratch_worker",
            "halo_top",
            "halo_left",
            "gradient_row",  # row stride of that image
            "window_line",  # not 0: the gradient by weight follows the pooling's choices (see pooled_gradients)
            "places",  # its table of the choices' places
            "chosen_sums",  # its sums, per worker `chosen_sums_worker`
            "chosen_sums_worker",
            "partials",  # per part: filter gradient (HWIO), then bias gradient
            "part_size",
        )
    ]
    + [("floor", np.float32)],
    align=True,
)
convolution_at = record_at(CONVOLUTION)
_AHEAD = 24  # rows of a filter from fetching to packing them: they lie too far apart for the CPU to foresee


def pixels_abreast(kernel_columns: int, channels: int, stride: int, filters: int, columns: int) -> int:
    """Return how many neighbouring output pixels should share a row of the tile: more than 1 for few filters.

    Then what the tile computes is a convolution with a wider window and a filter for each pixel and output channel,
    zero where a pixel's window does not reach; fewer lanes idle. `columns`: output pixels in a row, of which it is a
    divisor.
    """

    def cost(abreast: int) -> float:
        lanes, rows = abreast * filters, columns // abreast
        depth = (kernel_columns + (abreast - 1) * stride) * channels
        tiles = -(-rows // ROWS)
        found = 0
        for column in range(0, lanes, COLUMNS):
            vectors = -(-min(COLUMNS, lanes - column) // LANES)
            found += max(rows * vectors, rows + tiles * vectors)  # multiply-adds or loads
        return found * depth

    best = min((n for n in range(1, MOST_ABREAST + 1) if columns % n == 0), key=cost)
    return best if cost(best) < ABREAST_GAIN * cost(1) else 1


@njit(inline="always")
def share(total, parts, index):
    """Start of the index-th of `parts` nearly equal shares of `total`."""
    return total * index // parts


@njit(inline="always")
def panel_depth(o):
    """Elements of a window row as the forward panels hold it: that of `abreast` neighbouring windows."""
    return (o.kernel_columns + (o.abreast - 1) * o.stride_columns) * o.channels


@njit(inline="always")
def window_rows_inside(o, y):
    """The kernel rows that meet the image, not its padding alone, at output row y: first, and one behind the last."""
    top = y * o.stride_rows - o.padding_top
    first, end = max(np.int64(0), -top), min(o.kernel_rows, o.height - top)
    return (first, end) if first < end else (np.int64(0), np.int64(1))  # a tile has at least one


@compiled("void(int64, int64, int64, int64, int64, int64, int64)")
def convolve_rows(operation, image, target, target_row, target_pixel, row, rows):
    """Convolve `rows` output rows from `row` on of one image into `target`, with bias and rectifier."""
    o = convolution_at(operation)
    depth = panel_depth(o)
    columns, groups = o.abreast * o.out_channels, o.out_columns // o.abreast
    step, group = o.abreast * o.stride_columns * o.channels, o.abreast * target_pixel
    panel_size = o.kernel_rows * depth * COLUMNS
    biases = o.bias
    if o.bias and o.abreast > 1:
        biases = o.forward_panels + 4 * ((columns + COLUMNS - 1) // COLUMNS) * panel_size
    tiles = (groups + ROWS - 1) // ROWS
    source = o.input + 4 * image * o.input_image
    for channel in range(0, columns, COLUMNS):
        here = min(COLUMNS, columns - channel)
        vectors = (here + LANES - 1) // LANES
        tail = here - (vectors - 1) * LANES
        panel = o.forward_panels + 4 * (channel // COLUMNS) * panel_size
        bias = biases + 4 * channel if o.bias else 0
        for y in range(rows):
            first, end = window_rows_inside(o, row + y)
            line = source + 4 * ((row + y) * o.stride_rows + first) * o.input_row
            for t in range(tiles):
                x = share(groups, tiles, t)
                tile(
                    share(groups, tiles, t + 1) - x,
                    vectors,
                    line + 4 * x * step,
                    step,
                    1,
                    o.input_row,
                    panel + 4 * first * depth * COLUMNS,
                    COLUMNS,
                    depth * COLUMNS,
                    bias,
                    0,
                    target + 4 * (y * target_row + x * group + channel),
                    group,
                    depth,
                    end - first,
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


@compiled("void(int64, int64, int64)")
def _pack_abreast(operation, first, last):
    """Pack the panels [first, last) of filters for neighbouring pixels, each at its place in the wider window."""
    o = convolution_at(operation)
    depth, line, columns = panel_depth(o), o.kernel_columns * o.channels, o.abreast * o.out_channels
    panels = (columns + COLUMNS - 1) // COLUMNS
    filters = floats(o.filters, o.kernel_rows * line * o.out_channels)
    packed = floats(o.forward_panels, panels * (o.kernel_rows * depth + 1) * COLUMNS)
    for column in range(first * COLUMNS, last * COLUMNS):
        pixel, k = column // o.out_channels, column % o.out_channels
        inside = column < columns
        if inside and o.bias:
            packed[panels * o.kernel_rows * depth * COLUMNS + column] = floats(o.bias, o.out_channels)[k]
        before = pixel * o.stride_columns * o.channels
        target = column // COLUMNS * o.kernel_rows * depth * COLUMNS + column % COLUMNS
        for row in range(o.kernel_rows):
            for e in range(depth):
                value = np.float32(0)
                if inside and before <= e < before + line:
                    value = filters[(row * line + e - before) * o.out_channels + k]
                packed[target + (row * depth + e) * COLUMNS] = value


@task_kernel
def pack_forward(operation, first, last, part, worker):
    """Pack the filters' panels [first, last) for `convolve`: COLUMNS output channels side by side, zeros behind."""
    o = convolution_at(operation)
    if o.abreast > 1:
        _pack_abreast(operation, first, last)
        return 0
    rows = o.kernel_rows * o.kernel_columns * o.channels
    filters = floats(o.filters, rows * o.out_channels)
    for panel in range(first, last):
        here = min(COLUMNS, o.out_channels - panel * COLUMNS)
        packed = floats(o.forward_panels + 4 * panel * rows * COLUMNS, rows * COLUMNS)
        for row in range(rows):
            start = row * o.out_channels + panel * COLUMNS
            ahead = o.filters + 4 * (start + _AHEAD * o.out_channels)
            prefetch(ahead)
            prefetch(ahead + 4 * (COLUMNS - 1))
            for c in range(here):
                packed[row * COLUMNS + c] = filters[start + c]
            for c in range(here, COLUMNS):
                packed[row * COLUMNS + c] = np.float32(0)
    return 0
