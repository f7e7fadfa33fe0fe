"""Winograd's gradient by filter, and the backward pass of a convolution: both gradients over groups of images.

The gradient by filter is G^T [sum over tiles of (B^T d B) * (A y A^T)] G with inputs d and output gradients y: per
point of the transform a product of two matrices, [channel][tile] x [tile][out channel], on the register tile. The sums
stay in the worker's scratch until the task's images are done.

Where a range of images has many tiles, a task takes both gradients of it: the filters' is a partial sum. Where it has
few, the sums of all channels would be streamed through the caches for those. Then tasks over images leave the output
gradients, pooling and rectifier undone, to tasks over blocks of input and output channels. The sums of a block stay in
the second-level cache, over all images, so that it is complete; its tiles are transformed once more for every block.
"""

import numpy as np
from numba import njit

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
            "gradient",  # for tasks over channels: address of the output gradient's pixel (0, 0)
            "gradient_image",  # strides in elements from image to image, row to row; zeros follow up to whole tiles
            "gradient_row",
            "block",  # tiles in a block
            "channel_block",  # input and output channels of a task
            "out_block",
            "scratch",  # per worker `scratch_worker` elements, the parts at these offsets:
            "scratch_worker",
            "inputs_row",  # transformed inputs [point][tile][channel] are at 0: elements from tile to tile,
            "inputs_point",  # from point to point
            "gradients",  # transformed output gradients [point][tile][out channel]
            "gradients_row",
            "gradients_point",
            "sums",  # [point][panel of out channels][channel][COLUMNS]
            "sums_point",
            "target",  # the filters' gradient (HWIO), or the first of the partial sums,
            "part_size",  # which are so many elements apart
        )
    ],
    align=True,
)
filter_sums_at = record_at(FILTER_SUMS)

BACKWARD = np.dtype(
    [
        (name, np.int64)
        for name in (
            "convolution",  # address of the CONVOLUTION record; its gradient_row is that of the images below
            "by_input",  # address of the WINOGRAD record for the gradient by input, or 0: not in these tasks
            "by_filter",  # address of the FILTER_SUMS record
            "group",  # images whose output gradients a worker holds
            "held",  # output gradients, zeros outside the images' pixels: per worker `held_worker` elements,
            "held_worker",  # or 0: those of all images, for tasks over channels
            "held_image",  # elements from image to image
            "inside",  # offsets from there: pixel (0, 0) of the first image,
            "window",  # and the window of the input gradient's pixel (0, 0)
            "bias_sums",  # per part, `bias_sums_step` elements apart
            "bias_sums_step",
        )
    ],
    align=True,
)
_backward_at = record_at(BACKWARD)


@compiled("void(int64, int64, int64, int64, int64, int64)")
def _transform_gradients(operation, gradient, first, count, channels, target):
    """Transform the output gradients of tiles [first, first + count), counted from the image at `gradient` on.

    `gradient` is the address of the first of `channels` channels in pixel (0, 0).
    """
    o = filter_sums_at(operation)
    layer = winograd_at(o.layer)
    rows, columns = tile_grid(layer)
    size = layer.size
    step = size * layer.out_channels
    done = 0
    while done < count:
        place = first + done
        image, y, x = place // (rows * columns), place // columns % rows, place % columns
        here = min(count - done, columns - x)
        transform(
            GRADIENT, size, gradient + 4 * (image * o.gradient_image + y * size * o.gradient_row + x * step),
            o.gradient_row, layer.out_channels, step, target + 4 * done * o.gradients_row,
            (size + 2) * o.gradients_point, o.gradients_point, o.gradients_row,
            0, 0, 0, 0, here, channels, np.float32(0),
        )  # fmt: skip
        done += here


@compiled("void(int64, int64, int64, int64, int64, int64, int64, int64)")
def _add_products(operation, inputs, gradients, sums, count, channels, outs, continued):
    """Add the products of `count` transformed tiles to the sums, or begin the sums with them."""
    o = filter_sums_at(operation)
    layer = winograd_at(o.layer)
    tiles = (channels + ROWS - 1) // ROWS
    ahead = max(1, ROWS * COLUMNS // count)  # the next tile's sums, over the depth of this one
    for point in range((layer.size + 2) * (layer.size + 2)):
        for column in range(0, outs, COLUMNS):
            vectors = (min(COLUMNS, outs - column) + LANES - 1) // LANES
            panel = sums + 4 * (point * o.sums_point + column * channels)
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
                    gradients + 4 * (point * o.gradients_point + column),
                    o.gradients_row,
                    0,
                    target if continued else 0,
                    COLUMNS,
                    target,
                    COLUMNS,
                    count,
                    1,
                    np.float32(-np.inf),
                    LANES,
                    target + 4 * ROWS * COLUMNS,
                    ahead,
                )


@njit(inline="always")
def _channel_block(o, layer, block):
    """The channels of a block: first input channel and how many, first output channel and how many."""
    blocks = (layer.out_channels + o.out_block - 1) // o.out_block
    channel, out = block // blocks * o.channel_block, block % blocks * o.out_block
    return channel, min(o.channel_block, layer.channels - channel), out, min(o.out_block, layer.out_channels - out)


@linked("void(int64, int64, int64, int64, int64, int64, int64)")
def sum_images(operation, source, gradient, images, block, continued, worker):
    """Add the products of some images, of a block of channels, to a worker's sums, or begin the sums with them.

    `source` and `gradient` are the addresses of the first image's window of output pixel (0, 0) and of its output
    gradient's pixel (0, 0).
    """
    o = filter_sums_at(operation)
    layer = winograd_at(o.layer)
    rows, columns = tile_grid(layer)
    channel, channels, out, outs = _channel_block(o, layer, block)
    scratch = o.scratch + 4 * worker * o.scratch_worker
    gradients, sums = scratch + 4 * o.gradients, scratch + 4 * o.sums
    total = images * rows * columns
    blocks = (total + o.block - 1) // o.block
    for b in range(blocks):
        first = share(total, blocks, b)
        count = share(total, blocks, b + 1) - first
        transform_inputs(o.layer, source, first, count, channel, channels, scratch, o.inputs_row, o.inputs_point)
        _transform_gradients(operation, gradient + 4 * out, first, count, outs, gradients)
        _add_products(operation, scratch, gradients, sums, count, channels, outs, continued or b > 0)


@compiled("void(int64, int64, int64, int64)")
def _finish_sums(operation, target, block, worker):
    """Transform a worker's sums back: write a block of channels of the filters' gradient (HWIO) at `target`."""
    o = filter_sums_at(operation)
    layer = winograd_at(o.layer)
    channel, channels, out, outs = _channel_block(o, layer, block)
    tap = layer.channels * layer.out_channels
    sums = o.scratch + 4 * (worker * o.scratch_worker + o.sums)
    for column in range(0, outs, COLUMNS):
        transform(
            FILTER_GRADIENT, layer.size, sums + 4 * column * channels, (layer.size + 2) * o.sums_point, o.sums_point,
            COLUMNS, target + 4 * (channel * layer.out_channels + out + column), 3 * tap, tap, layer.out_channels,
            0, 0, 0, 0, channels, min(COLUMNS, outs - column), np.float32(0),
        )  # fmt: skip


@task_kernel
def winograd_by_filter(operation, first, last, part, worker):
    """Block `part` of channels of the filters' gradient of images [first, last), at least one."""
    o = filter_sums_at(operation)
    layer = winograd_at(o.layer)
    images = min(last, words(layer.batch, 1)[0]) - first
    source, gradient = layer.input + 4 * first * layer.input_image, o.gradient + 4 * first * o.gradient_image
    sum_images(operation, source, gradient, images, part, 0, worker)
    _finish_sums(operation, o.target, part, worker)
    return 0


@task_kernel
def winograd_backward(operation, first, last, part, worker):
    """Backward of images [first, last), as far as tasks over images do it.

    The bias gradient as partial sum `part`; the input gradient, where it is wanted here; and the filters' gradient as
    partial sum, unless tasks over channels compute it: then they find the output gradients held.
    """
    o = _backward_at(operation)
    sums = filter_sums_at(o.by_filter)
    layer = winograd_at(sums.layer)
    last = min(last, words(layer.batch, 1)[0])
    partial = sums.target + 4 * part * sums.part_size
    bias_gradient = o.bias_sums + 4 * part * o.bias_sums_step
    clear(bias_gradient, layer.out_channels)
    if first >= last and o.held_worker:
        clear(partial, 9 * layer.channels * layer.out_channels)
        return 0
    for begin in range(first, last, o.group):
        end = min(begin + o.group, last)
        held = o.held + 4 * (worker * o.held_worker if o.held_worker else begin * o.held_image)
        for image in range(begin, end):
            inside = held + 4 * (o.inside + (image - begin) * o.held_image)
            expand_gradient(o.convolution, image, inside, bias_gradient)
        if o.by_input:
            convolve_images(o.by_input, held + 4 * o.window, begin, end, 0, worker)
        if o.held_worker:
            source = layer.input + 4 * begin * layer.input_image
            sum_images(o.by_filter, source, held + 4 * o.inside, end - begin, 0, begin > first, worker)
    if o.held_worker:
        _finish_sums(o.by_filter, partial, 0, worker)
    return 0
