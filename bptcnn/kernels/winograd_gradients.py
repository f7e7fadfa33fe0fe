"""Winograd's gradient by filter, and the backward pass of a convolution: both gradients over groups of images.

The gradient by filter is G^T [sum over tiles of (B^T d B) * (A y A^T)] G with inputs d and output gradients y: per
point of the transform a product of two matrices, [channel][tile] x [tile][out channel], on the register tile. The sums
stay in the worker's scratch until the task's images are done.
"""

import numpy as np

from bptcnn.kernels.compilation import compiled, linked, task_kernel
from bptcnn.kernels.convolution import share
from bptcnn.kernels.convolution_gradients import expand_gradient
from bptcnn.kernels.pointers import record_at, words
from bptcnn.kernels.runs import clear
from bptcnn.kernels.tile import tile_ahead
from bptcnn.kernels.unit import COLUMNS, LANES, ROWS
from bptcnn.kernels.winograd import convolve_images, tile_grid, transform_inputs, winograd_at
from bptcnn.kernels.winograd_transforms import FILTER_GRADIENT, GRADIENT, transform

FILTER_SUMS = np.dtype(
    [
        (name, np.int64)
        for name in (
            "layer",  # address of the forward pass's WINOGRAD record: what is convolved
            "gradient",  # address of the output gradient's pixel (0, 0); zeros follow up to whole tiles
            "gradient_image",  # strides in elements from image to image, row to row
            "gradient_row",
            "block",  # tiles in a block
            "scratch",  # per worker `scratch_worker` elements, the parts at these offsets:
            "scratch_worker",
            "inputs_row",  # transformed inputs [point][tile][channel] are at 0: elements from tile to tile,
            "inputs_point",  # from point to point
            "gradients",  # transformed output gradients [point][tile][out channel]
            "gradients_row",
            "gradients_point",
            "sums",  # [point][panel of out channels][channel][COLUMNS]
            "sums_point",
            "edge",  # one tile of inputs
            "partials",  # per part: `part_size` elements, of which the filters' gradient (HWIO) is the beginning
            "part_size",
        )
    ],
    align=True,
)
filter_sums_at = record_at(FILTER_SUMS)

BACKWARD = np.dtype(
    [
        (name, np.int64)
        for name in (
            "convolution",  # address of the CONVOLUTION record; its gradient_row is that of the images in the scratch
            "by_input",  # address of the WINOGRAD record for the gradient by input, or 0 where nobody wants it
            "by_filter",  # address of the FILTER_SUMS record
            "group",  # images whose output gradients the scratch holds
            "scratch",  # per worker `scratch_worker` elements, zeros outside the images' pixels
            "scratch_worker",
            "scratch_image",  # elements from image to image
            "inside",  # offsets in the scratch: pixel (0, 0) of the first image,
            "window",  # and the window of the input gradient's pixel (0, 0)
        )
    ],
    align=True,
)
_backward_at = record_at(BACKWARD)


@compiled("void(int64, int64, int64, int64, int64)")
def _transform_gradients(operation, gradient, first, count, target):
    """Transform the output gradients of tiles [first, first + count), counted from the image at `gradient` on."""
    o = filter_sums_at(operation)
    layer = winograd_at(o.layer)
    rows, columns = tile_grid(layer)
    size, channels = layer.size, layer.out_channels
    done = 0
    while done < count:
        place = first + done
        image, y, x = place // (rows * columns), place // columns % rows, place % columns
        here = min(count - done, columns - x)
        transform(
            GRADIENT, size,
            gradient + 4 * (image * o.gradient_image + y * size * o.gradient_row + x * size * channels),
            o.gradient_row, channels, size * channels, target + 4 * done * o.gradients_row,
            (size + 2) * o.gradients_point, o.gradients_point, o.gradients_row,
            0, 0, 0, 0, here, channels, np.float32(0),
        )  # fmt: skip
        done += here


@compiled("void(int64, int64, int64, int64, int64)")
def _add_products(operation, inputs, gradients, sums, count):
    """Add the products of `count` transformed tiles to the sums; count < 0: begin the sums with those of -count."""
    o = filter_sums_at(operation)
    layer = winograd_at(o.layer)
    channels, out_channels = layer.channels, layer.out_channels
    tiles = (channels + ROWS - 1) // ROWS
    depth = abs(count)
    ahead = max(1, ROWS * COLUMNS // depth)  # the next tile's sums, over the depth of this one
    for point in range((layer.size + 2) * (layer.size + 2)):
        for channel in range(0, out_channels, COLUMNS):
            vectors = (min(COLUMNS, out_channels - channel) + LANES - 1) // LANES
            panel = sums + 4 * (point * o.sums_point + channel * channels)
            for t in range(tiles):
                row = share(channels, tiles, t)
                target = panel + 4 * row * COLUMNS
                tile_ahead(
                    share(channels, tiles, t + 1) - row,
                    vectors,
                    inputs + 4 * (point * o.inputs_point + row),
                    1,
                    o.inputs_row,
                    0,
                    gradients + 4 * (point * o.gradients_point + channel),
                    o.gradients_row,
                    0,
                    target if count > 0 else 0,
                    COLUMNS,
                    target,
                    COLUMNS,
                    depth,
                    1,
                    np.float32(-np.inf),
                    LANES,
                    target + 4 * ROWS * COLUMNS,
                    ahead,
                )


@linked("void(int64, int64, int64, int64, int64, int64)")
def sum_images(operation, source, gradient, images, begin, worker):
    """Add the products of some images to a worker's sums, or begin the sums with them.

    `source` and `gradient` are the addresses of the first image's window of output pixel (0, 0) and of its output
    gradient's pixel (0, 0).
    """
    o = filter_sums_at(operation)
    layer = winograd_at(o.layer)
    rows, columns = tile_grid(layer)
    scratch = o.scratch + 4 * worker * o.scratch_worker
    gradients, sums = scratch + 4 * o.gradients, scratch + 4 * o.sums
    total = images * rows * columns
    blocks = (total + o.block - 1) // o.block
    for b in range(blocks):
        first = share(total, blocks, b)
        count = share(total, blocks, b + 1) - first
        transform_inputs(
            o.layer, source, first, count, scratch, o.inputs_row, o.inputs_point, scratch + 4 * o.edge
        )  # fmt: skip
        _transform_gradients(operation, gradient, first, count, gradients)
        _add_products(operation, scratch, gradients, sums, -count if begin and b == 0 else count)


@compiled("void(int64, int64, int64)")
def finish_sums(operation, target, worker):
    """Transform a worker's sums back: write the filters' gradient (HWIO) to `target`."""
    o = filter_sums_at(operation)
    layer = winograd_at(o.layer)
    channels, out_channels = layer.channels, layer.out_channels
    tap = channels * out_channels
    sums = o.scratch + 4 * (worker * o.scratch_worker + o.sums)
    for channel in range(0, out_channels, COLUMNS):
        transform(
            FILTER_GRADIENT, layer.size, sums + 4 * channel * channels, (layer.size + 2) * o.sums_point, o.sums_point,
            COLUMNS, target + 4 * channel, 3 * tap, tap, out_channels, 0, 0, 0, 0,
            channels, min(COLUMNS, out_channels - channel), np.float32(0),
        )  # fmt: skip


@task_kernel
def winograd_by_filter(operation, first, last, part, worker):
    """Filters' gradient of images [first, last), written to partial sum `part`."""
    o = filter_sums_at(operation)
    layer = winograd_at(o.layer)
    last = min(last, words(layer.batch, 1)[0])
    partial = o.partials + 4 * part * o.part_size
    if first >= last:
        clear(partial, 9 * layer.channels * layer.out_channels)
        return 0
    source, gradient = layer.input + 4 * first * layer.input_image, o.gradient + 4 * first * o.gradient_image
    sum_images(operation, source, gradient, last - first, 1, worker)
    finish_sums(operation, partial, worker)
    return 0


@task_kernel
def winograd_backward(operation, first, last, part, worker):
    """Backward of images [first, last): input gradient, and the filter and bias gradients as partial sum `part`."""
    o = _backward_at(operation)
    sums = filter_sums_at(o.by_filter)
    layer = winograd_at(sums.layer)
    last = min(last, words(layer.batch, 1)[0])
    partial = sums.partials + 4 * part * sums.part_size
    if first >= last:
        clear(partial, sums.part_size)
        return 0
    bias_gradient = partial + 4 * 9 * layer.channels * layer.out_channels
    clear(bias_gradient, layer.out_channels)
    scratch = o.scratch + 4 * worker * o.scratch_worker
    for begin in range(first, last, o.group):
        end = min(begin + o.group, last)
        for image in range(begin, end):
            inside = scratch + 4 * (o.inside + (image - begin) * o.scratch_image)
            expand_gradient(o.convolution, image, inside, bias_gradient)
        if o.by_input:
            convolve_images(o.by_input, scratch + 4 * o.window, begin, end, worker)
        source = layer.input + 4 * begin * layer.input_image
        sum_images(o.by_filter, source, scratch + 4 * o.inside, end - begin, 1 if begin == first else 0, worker)
    finish_sums(o.by_filter, partial, worker)
    return 0
