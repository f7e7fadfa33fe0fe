"""Winograd convolution, 3x3 with stride 1: forward, and the gradient by input, which is one with rotated filters.

Tiles of a block, gathered over (image, tile row, tile column), are transformed to inputs[point][tile][channel]; per
point of the transform the register tile multiplies them by the transformed filters to products[point][tile][channel];
and the products are transformed back, with bias, rectifier and pooling. A block's scratch is meant to stay in the
second-level cache; sizes are in winograd_sizes.

The filters of few channels are transformed once a step, for all tasks. Those of many would be streamed through the
caches for every block, at four times their size: there a task makes a range of the output channels only, takes the
input channels range by range, and transforms the filters from one range to the other when it gets there.

Tiles reach over the edges where an image is no multiple of the tile: there transforms read zeros and write nothing.
"""

import numpy as np
from numba import njit

from bptcnn.kernels.compilation import compiled, linked, task_kernel
from bptcnn.kernels.convolution import share
from bptcnn.kernels.pointers import prefetch, record_at, words
from bptcnn.kernels.pooling import pool_image
from bptcnn.kernels.runs import add_runs
from bptcnn.kernels.tile import tile_ahead
from bptcnn.kernels.unit import COLUMNS, LANES, ROWS
from bptcnn.kernels.winograd_sizes import FILTER_BLOCK
from bptcnn.kernels.winograd_transforms import FILTER, INPUT, OUTPUT, transform, transform_inside, transpose

WINOGRAD = np.dtype(
    [
        (name, np.int64)
        for name in (
            "batch",  # address of the number of images in this step
            "size",  # outputs per row of a tile
            "input",  # address of the window of output pixel (0, 0) in image 0
            "input_image",  # strides in elements from image to image, row to row
            "input_row",
            "channels",
            "reach_rows",  # rows and columns from that window on that may be read; what lies beyond counts as zero
            "reach_columns",
            "filters",  # address, HWIO: (3, 3, channels, out channels), or the layer's where `rotated`
            "rotated",  # 1: for the gradient by input: taps reversed, HWIO is (3, 3, out channels, channels)
            "channel_block",  # input channels that are multiplied in one go, and output channels of a task
            "out_block",
            "panels",  # transformed filters: [point][panel of out channels][channel][COLUMNS]; 0: in the scratch
            "panels_point",  # elements from point to point
            "bias",  # address, or 0
            "out_channels",
            "out_rows",  # before pooling
            "out_columns",
            "output",  # address of pixel (0, 0) of image 0: pooled where it pools
            "output_image",
            "output_row",
            "accumulate",  # 1: add to what is there
            "pool_rows",  # 0: no pooling
            "pool_columns",
            "pooled_rows",
            "pooled_columns",
            "choice",  # address of the pooling choices (uint8, pooled layout), or 0
            "rectified",  # 1: a rectifier follows the bias
            "block",  # tiles in a block; where it pools at least a row of tiles
            "scratch",  # per worker `scratch_worker` elements, the parts at these offsets:
            "scratch_worker",
            "inputs_row",  # transformed inputs are at 0: elements from tile to tile, point to point
            "inputs_point",
            "products",
            "products_point",
            "edge",  # one tile of rotated filters
            "band",  # rows of outputs before pooling
            "own_panels",  # a task's own transformed filters
        )
    ]
    + [("floor", np.float32)],
    align=True,
)
winograd_at = record_at(WINOGRAD)

_LINE = 64  # bytes of a cache line


@njit(inline="always")
def whole_vectors(channels):
    """Round a number of channels up to whole vectors."""
    return (channels + LANES - 1) // LANES * LANES


@njit(inline="always")
def tile_grid(o):
    """Rows and columns of tiles in an image."""
    return (o.out_rows + o.size - 1) // o.size, (o.out_columns + o.size - 1) // o.size


@linked("void(" + "int64, " * 8 + "int64)")
def transform_inputs(operation, source, first, count, channel, channels, target, target_row, target_point):
    """Transform tiles [first, first + count), counted from image 0 at `source`, to target[point][tile][channel].

    Of the channels those of [channel, channel + channels).
    """
    o = winograd_at(operation)
    rows, columns = tile_grid(o)
    size, step = o.size, o.size * o.channels
    done = 0
    while done < count:
        place = first + done
        image, y, x = place // (rows * columns), place // columns % rows, place % columns
        here = min(count - done, columns - x)
        transform_inside(
            INPUT, size, source + 4 * (image * o.input_image + y * size * o.input_row + x * step + channel),
            o.input_row, o.channels, step,
            target + 4 * done * target_row, (size + 2) * target_point, target_point, target_row,
            0, 0, 0, 0, here, channels, np.float32(0), o.reach_rows - y * size, o.reach_columns - x * size,
        )  # fmt: skip
        done += here


@njit(inline="always")
def fetch_share(address, size, parts, index):
    """Fetch the index-th share of `size` bytes into the second-level cache."""
    for line in range(share(size // _LINE, parts, index), share(size // _LINE, parts, index + 1)):
        prefetch(address + line * _LINE)


@compiled("void(" + "int64, " * 11 + "int64)")
def _multiply_tiles(
    operation, inputs, panels, products, count, channels, outs, continued, needed, needed_size, coming, coming_size
):
    """Multiply `count` transformed tiles by transformed filters, from `channels` to `outs` channels, point by point.

    Where `continued`, add to the products that are there. Meanwhile fetch what is worked on next: two pieces of memory,
    of so many bytes.
    """
    o = winograd_at(operation)
    out_padded = whole_vectors(outs)
    tiles = (count + ROWS - 1) // ROWS
    calls, call = (o.size + 2) * (o.size + 2) * ((outs + COLUMNS - 1) // COLUMNS) * tiles, 0
    for point in range((o.size + 2) * (o.size + 2)):
        for channel in range(0, outs, COLUMNS):
            vectors = (min(COLUMNS, outs - channel) + LANES - 1) // LANES
            panel = panels + 4 * (point * o.panels_point + channel * channels)
            following = panel + 4 * COLUMNS * channels
            for t in range(tiles):
                row = share(count, tiles, t)
                product = products + 4 * (point * o.products_point + row * out_padded + channel)
                fetch_share(needed, needed_size, calls, call)
                fetch_share(coming, coming_size, calls, call)
                call += 1
                tile_ahead(
                    share(count, tiles, t + 1) - row,
                    vectors,
                    inputs + 4 * (point * o.inputs_point + row * o.inputs_row),
                    o.inputs_row,
                    1,
                    0,
                    panel,
                    COLUMNS,
                    0,
                    product if continued else 0,
                    out_padded,
                    product,
                    out_padded,
                    channels,
                    1,
                    np.float32(-np.inf),
                    LANES,
                    following + 4 * t * (COLUMNS // tiles) * channels,
                    COLUMNS // tiles,
                )


@compiled("void(int64, int64, int64, int64, int64, int64, int64)")
def _transform_outputs(operation, products, image, first, count, channel, channels):
    """Write channels [channel, channel + channels) of the outputs of tiles [first, first + count), from `image` on."""
    o = winograd_at(operation)
    rows, columns = tile_grid(o)
    size, products_point = o.size, o.products_point
    step = size * o.out_channels
    padded = whole_vectors(channels)
    bias = o.bias + 4 * channel if o.bias else 0
    done = 0
    while done < count:
        place = first + done
        y, x = place // columns % rows * size, place % columns
        here = min(count - done, columns - x)
        target = o.output + 4 * (
            (image + place // (rows * columns)) * o.output_image + y * o.output_row + x * step + channel
        )
        init, init_row, init_column, init_step = bias, 0, 0, 0
        if o.accumulate:
            init, init_row, init_column, init_step = target, o.output_row, o.out_channels, step
        transform_inside(
            OUTPUT, size, products + 4 * done * padded, (size + 2) * products_point, products_point, padded,
            target, o.output_row, o.out_channels, step, init, init_row, init_column, init_step,
            here, channels, o.floor, o.out_rows - y, o.out_columns - x * size,
        )  # fmt: skip
        done += here


@compiled("void(int64, int64, int64, int64, int64, int64, int64, int64)")
def _pool_outputs(operation, products, image, first, count, channel, channels, band):
    """Pool channels [channel, channel + channels) of whole rows of tiles, [first, first + count), from `image` on.

    A row of tiles is no multiple of the window: what it leaves over waits at the beginning of the band.
    """
    o = winograd_at(operation)
    rows, columns = tile_grid(o)
    size, products_point = o.size, o.products_point
    padded, line, pooled_line = whole_vectors(channels), columns * size * channels, o.pooled_columns * o.out_channels
    bias = o.bias + 4 * channel if o.bias else 0
    for done in range(0, count, columns):
        place = first + done
        here, y = image + place // (rows * columns), place // columns % rows * size
        end = min(y + size, o.out_rows)
        begin, ready = y // o.pool_rows, end // o.pool_rows
        transform(
            OUTPUT, size, products + 4 * done * padded, (size + 2) * products_point, products_point, padded,
            band + 4 * (y - begin * o.pool_rows) * line, line, channels, size * channels,
            bias, 0, 0, 0, columns, channels, o.floor,
        )  # fmt: skip
        pool_image(
            band, line, channels, o.pool_rows, o.pool_columns, o.pool_rows, o.pool_columns, ready - begin,
            o.pooled_columns, o.output + 4 * (here * o.output_image + begin * o.output_row + channel), o.output_row,
            o.out_channels, o.choice + (here * o.pooled_rows + begin) * pooled_line + channel if o.choice else 0,
            o.rectified,
        )  # fmt: skip
        over = band + 4 * (ready - begin) * o.pool_rows * line
        add_runs(over, line, band, line, end - ready * o.pool_rows, line, np.float32(1), 0)


@compiled("void(int64, int64, int64, int64, int64, int64)")
def _transform_panel(operation, panel, channel, channels, target, edge):
    """Transform one panel of filters, input channels [channel, channel + channels), to target[point][...][COLUMNS].

    Rotated ones are transposed before, in blocks, to [tap][channel][COLUMNS] at `edge`.
    """
    o = winograd_at(operation)
    reach, here = o.size + 2, min(COLUMNS, o.out_channels - panel * COLUMNS)
    if not o.rotated:
        tap = o.channels * o.out_channels
        transform(
            FILTER, o.size, o.filters + 4 * (channel * o.out_channels + panel * COLUMNS), 3 * tap, tap, o.out_channels,
            target, reach * o.panels_point, o.panels_point, COLUMNS, 0, 0, 0, 0, channels, here, np.float32(0),
        )  # fmt: skip
        return
    for begin in range(0, channels, FILTER_BLOCK):
        for tap in range(9):
            for c in range(0, here, LANES):
                transpose(
                    o.filters + 4 * ((tap * o.out_channels + panel * COLUMNS + c) * o.channels + channel + begin),
                    o.channels, edge + 4 * (tap * FILTER_BLOCK * COLUMNS + c), COLUMNS, min(LANES, here - c),
                )  # fmt: skip
        transform(
            FILTER, o.size, edge + 4 * 8 * FILTER_BLOCK * COLUMNS, -3 * FILTER_BLOCK * COLUMNS, -FILTER_BLOCK * COLUMNS,
            COLUMNS, target + 4 * begin * COLUMNS, reach * o.panels_point, o.panels_point,
            COLUMNS, 0, 0, 0, 0, min(FILTER_BLOCK, channels - begin), here, np.float32(0),
        )  # fmt: skip


@linked("void(int64, int64, int64, int64, int64, int64)")
def convolve_images(operation, source, first, last, part, worker):
    """Convolve images [first, last) to the output channels of block `part`.

    `source` is the address of the first image's window of output pixel (0, 0).
    """
    o = winograd_at(operation)
    rows, columns = tile_grid(o)
    scratch = o.scratch + 4 * worker * o.scratch_worker
    products, edge, band = scratch + 4 * o.products, scratch + 4 * o.edge, scratch + 4 * o.band
    panels = o.panels if o.panels else scratch + 4 * o.own_panels
    out = part * o.out_block
    outs = min(o.out_block, o.out_channels - out)
    tiles = rows * columns
    together = columns if o.pool_rows else 1  # tiles that a block may not part
    total, most = (last - first) * tiles, o.block // together * together
    blocks = (total + most - 1) // most
    for b in range(blocks):
        begin = share(total // together, blocks, b) * together
        end = share(total // together, blocks, b + 1) * together
        # what comes next lies about here: the block's outputs and the next one's inputs
        written, coming = 4 * o.output_image * begin // tiles, 4 * o.input_image * end // tiles
        following = min(end + most, total)
        for channel in range(0, o.channels, o.channel_block):
            channels = min(o.channel_block, o.channels - channel)
            if not o.panels and (b == 0 or o.channel_block < o.channels):
                for panel in range((outs + COLUMNS - 1) // COLUMNS):
                    _transform_panel(
                        operation, out // COLUMNS + panel, channel, channels, panels + 4 * panel * channels * COLUMNS,
                        edge,
                    )  # fmt: skip
            transform_inputs(
                operation, source, begin, end - begin, channel, channels, scratch, o.inputs_row, o.inputs_point
            )  # fmt: skip
            _multiply_tiles(
                operation, scratch, panels, products, end - begin, channels, outs, channel > 0,
                o.output + 4 * first * o.output_image + written,
                4 * o.output_image * end // tiles - written if o.panels else 0,
                source + coming,
                4 * o.input_image * following // tiles - coming if o.panels else 0,
            )  # fmt: skip
        if o.pool_rows:
            _pool_outputs(operation, products, first, begin, end - begin, out, outs, band)
        else:
            _transform_outputs(operation, products, first, begin, end - begin, out, outs)


@task_kernel
def winograd(operation, first, last, part, worker):
    """Convolve images [first, last) to the output channels of block `part`: with bias, rectifier and max pooling."""
    o = winograd_at(operation)
    last = min(last, words(o.batch, 1)[0])
    if first < last:
        convolve_images(operation, o.input + 4 * first * o.input_image, first, last, part, worker)
    return 0


@task_kernel
def transform_filters(operation, first, last, part, worker):
    """Transform the filters' panels [first, last) of COLUMNS output channels."""
    o = winograd_at(operation)
    for panel in range(first, last):
        edge = o.scratch + 4 * (worker * o.scratch_worker + o.edge)
        _transform_panel(operation, panel, 0, o.channels, o.panels + 4 * panel * o.channels * COLUMNS, edge)
    return 0
