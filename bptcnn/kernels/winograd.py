"""Winograd convolution, 3x3 with stride 1: forward, and the gradient by input, which is one with rotated filters.

Tiles of a block, gathered over (image, tile row, tile column), are transformed to inputs[point][tile][channel]; per
point of the transform the register tile multiplies them by the transformed filters to products[point][tile][channel];
and the products are transformed back, with bias, rectifier and pooling. A block's scratch is meant to stay in the
second-level cache; sizes are in winograd_sizes.

Tiles reach over the edges where an image is no multiple of the tile: such tiles go through a copy, padded with zeros on
the way in, clipped on the way out.
"""

import numpy as np
from numba import njit

from bptcnn.kernels.compilation import compiled, linked, task_kernel
from bptcnn.kernels.convolution import share
from bptcnn.kernels.pointers import floats, prefetch, record_at, words
from bptcnn.kernels.pooling import pool_image
from bptcnn.kernels.tile import tile_ahead
from bptcnn.kernels.unit import COLUMNS, LANES, ROWS
from bptcnn.kernels.winograd_sizes import FILTER_BLOCK
from bptcnn.kernels.winograd_transforms import FILTER, INPUT, OUTPUT, transform, transpose

WINOGRAD = np.dtype(
    [
        (name, np.int64)
        for name in (
            "batch",  # address of the number of images in this step
            "size",  # outputs per row of a tile: 2 or 4
            "input",  # address of the window of output pixel (0, 0) in image 0
            "input_image",  # strides in elements from image to image, row to row
            "input_row",
            "channels",
            "reach_rows",  # rows and columns from that window on that may be read; what lies beyond counts as zero
            "reach_columns",
            "filters",  # address, HWIO: (3, 3, channels, out channels), or the layer's where `rotated`
            "rotated",  # 1: for the gradient by input: taps reversed, HWIO is (3, 3, out channels, channels)
            "panels",  # transformed filters: [point][panel of out channels][channel][COLUMNS]
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
            "edge",  # one tile of inputs or outputs
            "band",  # rows of outputs before pooling
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


@compiled("void(int64, int64, int64, int64, int64, int64)")
def copy_rows(source, source_row, target, target_row, count, rows):
    """Copy `rows` rows of `count` floats."""
    for y in range(rows):
        given, wanted = floats(source + 4 * y * source_row, count), floats(target + 4 * y * target_row, count)
        for i in range(count):
            wanted[i] = given[i]


@linked("void(int64, int64, int64, int64, int64, int64, int64, int64)")
def transform_inputs(operation, source, first, count, target, target_row, target_point, edge):
    """Transform tiles [first, first + count), counted from image 0 at `source`, to target[point][tile][channel]."""
    o = winograd_at(operation)
    rows, columns = tile_grid(o)
    channels, size, reach = o.channels, o.size, o.size + 2
    points_row = reach * target_point
    done = 0
    while done < count:
        place = first + done
        image, y, x = place // (rows * columns), place // columns % rows, place % columns
        here = min(count - done, columns - x)
        window = source + 4 * (image * o.input_image + y * size * o.input_row + x * size * channels)
        written = target + 4 * done * target_row
        inner = min(here, max(0, (o.reach_columns - reach) // size + 1 - x)) if y * size + reach <= o.reach_rows else 0
        if inner:
            transform(
                INPUT, size, window, o.input_row, channels, size * channels,
                written, points_row, target_point, target_row, 0, 0, 0, 0, inner, channels, np.float32(0),
            )  # fmt: skip
        for t in range(inner, here):  # over the edge: through a copy with zeros behind
            copied = floats(edge, reach * reach * channels)
            for i in range(copied.size):
                copied[i] = np.float32(0)
            copy_rows(
                window + 4 * t * size * channels, o.input_row, edge, reach * channels,
                channels * max(0, min(reach, o.reach_columns - (x + t) * size)),
                max(0, min(reach, o.reach_rows - y * size)),
            )  # fmt: skip
            transform(
                INPUT, size, edge, reach * channels, channels, 0, written + 4 * t * target_row,
                points_row, target_point, target_row, 0, 0, 0, 0, 1, channels, np.float32(0),
            )  # fmt: skip
        done += here


@njit(inline="always")
def fetch_share(address, size, parts, index):
    """Fetch the index-th share of `size` bytes into the second-level cache."""
    for line in range(share(size // _LINE, parts, index), share(size // _LINE, parts, index + 1)):
        prefetch(address + line * _LINE)


@compiled("void(int64, int64, int64, int64, int64, int64, int64, int64)")
def multiply_tiles(operation, inputs, products, count, needed, needed_size, coming, coming_size):
    """Multiply `count` transformed tiles by the transformed filters, point by point.

    Meanwhile fetch what is worked on next: two pieces of memory, of so many bytes.
    """
    o = winograd_at(operation)
    out_padded = whole_vectors(o.out_channels)
    tiles = (count + ROWS - 1) // ROWS
    calls, call = (o.size + 2) * (o.size + 2) * ((o.out_channels + COLUMNS - 1) // COLUMNS) * tiles, 0
    for point in range((o.size + 2) * (o.size + 2)):
        for channel in range(0, o.out_channels, COLUMNS):
            vectors = (min(COLUMNS, o.out_channels - channel) + LANES - 1) // LANES
            panel = o.panels + 4 * (point * o.panels_point + channel * o.channels)
            following = panel + 4 * COLUMNS * o.channels
            for t in range(tiles):
                row = share(count, tiles, t)
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
                    0,
                    0,
                    products + 4 * (point * o.products_point + row * out_padded + channel),
                    out_padded,
                    o.channels,
                    1,
                    np.float32(-np.inf),
                    LANES,
                    following + 4 * t * (COLUMNS // tiles) * o.channels,
                    COLUMNS // tiles,
                )


@compiled("void(int64, int64, int64, int64, int64, int64, int64)")
def _transform_outputs(operation, products, products_point, image, first, count, edge):
    """Write the outputs of tiles [first, first + count), counted from `image` on."""
    o = winograd_at(operation)
    rows, columns = tile_grid(o)
    channels, size = o.out_channels, o.size
    padded = whole_vectors(channels)
    done = 0
    while done < count:
        place = first + done
        y, x = place // columns % rows * size, place % columns
        here = min(count - done, columns - x)
        given = products + 4 * done * padded
        target = o.output + 4 * (
            (image + place // (rows * columns)) * o.output_image + y * o.output_row + x * size * channels
        )
        inner = min(here, max(0, o.out_columns // size - x)) if y + size <= o.out_rows else 0
        if inner:
            init, init_row, init_column, init_step = o.bias, 0, 0, 0
            if o.accumulate:
                init, init_row, init_column, init_step = target, o.output_row, channels, size * channels
            transform(
                OUTPUT, size, given, (size + 2) * products_point, products_point, padded,
                target, o.output_row, channels, size * channels, init, init_row, init_column, init_step,
                inner, channels, o.floor,
            )  # fmt: skip
        for t in range(inner, here):  # over the edge: through a copy, of which only what is inside counts
            inside = target + 4 * t * size * channels
            count_inside = channels * min(size, o.out_columns - (x + t) * size)
            rows_inside = min(size, o.out_rows - y)
            init, init_row, init_column = o.bias, 0, 0
            if o.accumulate:
                init, init_row, init_column = edge, size * channels, channels
                copy_rows(inside, o.output_row, edge, size * channels, count_inside, rows_inside)
            transform(
                OUTPUT, size, given + 4 * t * padded, (size + 2) * products_point, products_point, padded,
                edge, size * channels, channels, 0, init, init_row, init_column, 0, 1, channels, o.floor,
            )  # fmt: skip
            copy_rows(edge, size * channels, inside, o.output_row, count_inside, rows_inside)
        done += here


@compiled("void(int64, int64, int64, int64, int64, int64, int64)")
def _pool_outputs(operation, products, products_point, image, first, count, band):
    """Pool the outputs of whole rows of tiles, [first, first + count), counted from `image` on.

    A row of tiles is no multiple of the window: what it leaves over waits at the beginning of the band.
    """
    o = winograd_at(operation)
    rows, columns = tile_grid(o)
    channels, size = o.out_channels, o.size
    padded, line, pooled_line = whole_vectors(channels), columns * size * channels, o.pooled_columns * channels
    for done in range(0, count, columns):
        place = first + done
        here, y = image + place // (rows * columns), place // columns % rows * size
        end = min(y + size, o.out_rows)
        begin, ready = y // o.pool_rows, end // o.pool_rows
        transform(
            OUTPUT, size, products + 4 * done * padded, (size + 2) * products_point, products_point, padded,
            band + 4 * (y - begin * o.pool_rows) * line, line, channels, size * channels,
            o.bias, 0, 0, 0, columns, channels, o.floor,
        )  # fmt: skip
        pool_image(
            band, line, channels, o.pool_rows, o.pool_columns, o.pool_rows, o.pool_columns, ready - begin,
            o.pooled_columns, o.output + 4 * (here * o.output_image + begin * o.output_row), o.output_row,
            o.choice + (here * o.pooled_rows + begin) * pooled_line if o.choice else 0, o.rectified,
        )  # fmt: skip
        copy_rows(
            band + 4 * (ready - begin) * o.pool_rows * line, line, band, line, line, end - ready * o.pool_rows
        )  # fmt: skip


@linked("void(int64, int64, int64, int64, int64)")
def convolve_images(operation, source, first, last, worker):
    """Convolve images [first, last); `source` is the address of the first one's window of output pixel (0, 0)."""
    o = winograd_at(operation)
    rows, columns = tile_grid(o)
    scratch = o.scratch + 4 * worker * o.scratch_worker
    products, edge, band = scratch + 4 * o.products, scratch + 4 * o.edge, scratch + 4 * o.band
    block = o.block // columns * columns if o.pool_rows else o.block
    tiles = rows * columns
    total = (last - first) * tiles
    for begin in range(0, total, block):
        count = min(block, total - begin)
        transform_inputs(operation, source, begin, count, scratch, o.inputs_row, o.inputs_point, edge)
        # what comes next lies about here: the block's outputs and the next one's inputs
        written, coming = 4 * o.output_image * begin // tiles, 4 * o.input_image * (begin + count) // tiles
        following = min(begin + count + block, total)
        multiply_tiles(
            operation, scratch, products, count,
            o.output + 4 * first * o.output_image + written, 4 * o.output_image * (begin + count) // tiles - written,
            source + coming, 4 * o.input_image * following // tiles - coming,
        )  # fmt: skip
        if o.pool_rows:
            _pool_outputs(operation, products, o.products_point, first, begin, count, band)
        else:
            _transform_outputs(operation, products, o.products_point, first, begin, count, edge)


@task_kernel
def winograd(operation, first, last, part, worker):
    """Forward of images [first, last): convolution, bias, rectifier and, where it follows, max pooling."""
    o = winograd_at(operation)
    last = min(last, words(o.batch, 1)[0])
    if first < last:
        convolve_images(operation, o.input + 4 * first * o.input_image, first, last, worker)
    return 0


@compiled("void(int64, int64, int64)")
def _transform_rotated(operation, panel, edge):
    """Transform a panel of rotated filters: blocks of them are transposed to [tap][channel][COLUMNS] at `edge`."""
    o = winograd_at(operation)
    reach, here = o.size + 2, min(COLUMNS, o.out_channels - panel * COLUMNS)
    for begin in range(0, o.channels, FILTER_BLOCK):
        count = min(FILTER_BLOCK, o.channels - begin)
        for tap in range(9):
            for c in range(0, here, LANES):
                transpose(
                    o.filters + 4 * ((tap * o.out_channels + panel * COLUMNS + c) * o.channels + begin), o.channels,
                    edge + 4 * (tap * FILTER_BLOCK * COLUMNS + c), COLUMNS, min(LANES, here - c),
                )  # fmt: skip
        transform(
            FILTER, o.size, edge + 4 * 8 * FILTER_BLOCK * COLUMNS, -3 * FILTER_BLOCK * COLUMNS, -FILTER_BLOCK * COLUMNS,
            COLUMNS, o.panels + 4 * (panel * o.channels + begin) * COLUMNS, reach * o.panels_point, o.panels_point,
            COLUMNS, 0, 0, 0, 0, count, here, np.float32(0),
        )  # fmt: skip


@task_kernel
def transform_filters(operation, first, last, part, worker):
    """Transform the filters' panels [first, last) of COLUMNS output channels."""
    o = winograd_at(operation)
    for panel in range(first, last):
        if o.rotated:
            _transform_rotated(operation, panel, o.scratch + 4 * (worker * o.scratch_worker + o.edge))
            continue
        tap = o.channels * o.out_channels
        transform(
            FILTER, o.size, o.filters + 4 * panel * COLUMNS, 3 * tap, tap, o.out_channels,
            o.panels + 4 * panel * o.channels * COLUMNS, (o.size + 2) * o.panels_point, o.panels_point, COLUMNS,
            0, 0, 0, 0, o.channels, min(COLUMNS, o.out_channels - panel * COLUMNS), np.float32(0),
        )  # fmt: skip
    return 0
