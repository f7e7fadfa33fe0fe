"""Winograd's gradient by filter, and the backward pass of a convolution: both gradients over groups of images.

The gradient by filter is G^T [sum over tiles of (B^T d B) * (A y A^T)] G with inputs d and output gradients y: per
point of the transform a product of two matrices, [channel][tile] x [tile][out channel], on the register tile. The sums
stay in the worker's scratch until the task's images are done.

With few channels a task takes both gradients of a range of images: the filters' is a partial sum. With many, the sums
would be streamed through the caches for every block of tiles. Then the tasks over images only transform; the products
are left to tasks over blocks of input and output channels, each of which takes all images (or a slab of them, where
memory for the transformed ones is short) and so completes its block.
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
            "gradient_image",  # of output gradients: strides in elements from image to image, row to row
            "gradient_row",
            "block",  # tiles in a block
            "channel_block",  # input and output channels of a task
            "out_block",
            "slab",  # images whose transformed tiles are held for tasks over channels, or 0: tasks go over images only
            "inputs",  # address of a slab's transformed inputs [point][tile][channel]; without slabs, they lie at 0
            "inputs_row",  # in the scratch: elements from tile to tile, from point to point
            "inputs_point",
            "gradients",  # transformed output gradients [point][tile][out channel]: address, or offset in the scratch
            "gradients_row",
            "gradients_point",
            "scratch",  # per worker `scratch_worker` elements, the parts at these offsets:
            "scratch_worker",
            "sums",  # [point][panel of out channels][channel][COLUMNS]
            "sums_point",
            "edge",  # one tile of inputs
            "target",  # the filters' gradient (HWIO): without slabs, that of the first of the parts, which are
            "part_size",  # so many elements apart
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
            "held",  # output gradients, zeros outside the images' pixels; per worker `held_worker` elements,
            "held_worker",  # or 0: those of all images
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


@compiled("void(" + "int64, " * 10 + "int64)")
def _add_products(operation, inputs, gradients, sums, first, count, channel, channels, out, outs, continued):
    """Add the products of transformed tiles [first, first + count), of a block of channels, to the sums, or begin them."""
    o = filter_sums_at(operation)
    layer = winograd_at(o.layer)
    tiles = (channels + ROWS - 1) // ROWS
    inputs += 4 * (first * o.inputs_row + channel)
    gradients += 4 * (first * o.gradients_row + out)
    for point in range((layer.size + 2) * (layer.size + 2)):
        for column in range(0, outs, COLUMNS):
            vectors = (min(COLUMNS, outs - column) + LANES - 1) // LANES
            panel = sums + 4 * (point * o.sums_point + column * channels)
            for t in range(tiles):
                row = share(channels, tiles, t)
                source, target = inputs + 4 * (point * o.inputs_point + row), panel + 4 * row * COLUMNS
                # meanwhile fetch what comes from beyond the second-level cache: the next channels, or the next sums
                ahead, step = target + 4 * ROWS * COLUMNS, max(1, ROWS * COLUMNS // count)
                if o.slab:
                    ahead, step = source + 4 * ROWS, o.inputs_row
                tile_ahead(
                    share(channels, tiles, t + 1) - row,
                    vectors,
                    source,
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
                    ahead,
                    step,
                )


@linked("void(int64, int64, int64, int64, int64, int64)")
def sum_images(operation, source, gradient, images, continued, worker):
    """Add the products of some images to a worker's sums, or begin the sums with them.

    `source` and `gradient` are the addresses of the first image's window of output pixel (0, 0) and of its output
    gradient's pixel (0, 0).
    """
    o = filter_sums_at(operation)
    layer = winograd_at(o.layer)
    rows, columns = tile_grid(layer)
    channels, outs = layer.channels, layer.out_channels
    scratch = o.scratch + 4 * worker * o.scratch_worker
    gradients, sums = scratch + 4 * o.gradients, scratch + 4 * o.sums
    total = images * rows * columns
    blocks = (total + o.block - 1) // o.block
    for b in range(blocks):
        first = share(total, blocks, b)
        count = share(total, blocks, b + 1) - first
        transform_inputs(
            o.layer, source, first, count, 0, channels, scratch, o.inputs_row, o.inputs_point, scratch + 4 * o.edge
        )  # fmt: skip
        _transform_gradients(operation, gradient, first, count, outs, gradients)
        _add_products(operation, scratch, gradients, sums, 0, count, 0, channels, 0, outs, continued or b > 0)


@compiled("void(int64, int64, int64, int64, int64, int64)")
def _transform_images(operation, source, gradient, first, images, worker):
    """Transform images [first, first + images) and their output gradients, for tasks over channels."""
    o = filter_sums_at(operation)
    layer = winograd_at(o.layer)
    rows, columns = tile_grid(layer)
    place, count = first % o.slab * rows * columns, images * rows * columns
    transform_inputs(
        o.layer, source, 0, count, 0, layer.channels, o.inputs + 4 * place * o.inputs_row, o.inputs_row,
        o.inputs_point, o.scratch + 4 * (worker * o.scratch_worker + o.edge),
    )  # fmt: skip
    target = o.gradients + 4 * place * o.gradients_row
    _transform_gradients(operation, gradient, 0, count, layer.out_channels, target)


@compiled("void(int64, int64, int64, int64, int64, int64, int64, int64)")
def _finish_sums(operation, target, channel, channels, out, outs, adds, worker):
    """Transform a worker's sums back: write, or add, a block of channels of the filters' gradient (HWIO) at `target`."""
    o = filter_sums_at(operation)
    layer = winograd_at(o.layer)
    line = layer.out_channels
    tap = layer.channels * line
    sums = o.scratch + 4 * (worker * o.scratch_worker + o.sums)
    init_row, init_column, init_step = (3 * tap, tap, line) if adds else (0, 0, 0)
    for column in range(0, outs, COLUMNS):
        place = target + 4 * (channel * line + out + column)
        transform(
            FILTER_GRADIENT, layer.size, sums + 4 * column * channels, (layer.size + 2) * o.sums_point, o.sums_point,
            COLUMNS, place, 3 * tap, tap, line, place if adds else 0, init_row, init_column, init_step,
            channels, min(COLUMNS, outs - column), np.float32(0),
        )  # fmt: skip


@task_kernel
def winograd_by_filter(operation, first, last, part, worker):
    """Block `part` of channels of the filters' gradient, from the slab of images [first, last), which are transformed.

    Written from the first slab, added from the others.
    """
    o = filter_sums_at(operation)
    layer = winograd_at(o.layer)
    rows, columns = tile_grid(layer)
    blocks = (layer.out_channels + o.out_block - 1) // o.out_block
    channel, out = part // blocks * o.channel_block, part % blocks * o.out_block
    channels, outs = min(o.channel_block, layer.channels - channel), min(o.out_block, layer.out_channels - out)
    total = (min(last, words(layer.batch, 1)[0]) - first) * rows * columns
    if total <= 0:
        return 0
    sums = o.scratch + 4 * (worker * o.scratch_worker + o.sums)
    deep = (total + o.block - 1) // o.block
    for b in range(deep):
        begin = share(total, deep, b)
        count = share(total, deep, b + 1) - begin
        _add_products(operation, o.inputs, o.gradients, sums, begin, count, channel, channels, out, outs, b > 0)
    _finish_sums(operation, o.target, channel, channels, out, outs, first > 0, worker)
    return 0


@task_kernel
def winograd_backward(operation, first, last, part, worker):
    """Backward of images [first, last), as far as tasks over images do it.

    The bias gradient as partial sum `part`; the input gradient, unless tasks over channels do it, which then find the
    output gradients held; the filters' gradient as partial sum, or all that tasks over channels need to compute it.
    """
    o = _backward_at(operation)
    sums = filter_sums_at(o.by_filter)
    layer = winograd_at(sums.layer)
    channels, outs = layer.channels, layer.out_channels
    last = min(last, words(layer.batch, 1)[0])
    partial = sums.target + 4 * part * sums.part_size
    bias_gradient = o.bias_sums + 4 * part * o.bias_sums_step
    clear(bias_gradient, outs)
    if first >= last and not sums.slab:
        clear(partial, 9 * channels * outs)
        return 0
    for begin in range(first, last, o.group):
        end = min(begin + o.group, last)
        held = o.held + 4 * (worker * o.held_worker if o.held_worker else begin * o.held_image)
        for image in range(begin, end):
            inside = held + 4 * (o.inside + (image - begin) * o.held_image)
            expand_gradient(o.convolution, image, inside, bias_gradient)
        if o.by_input:
            convolve_images(o.by_input, held + 4 * o.window, begin, end, 0, worker)
        source, gradient = layer.input + 4 * begin * layer.input_image, held + 4 * o.inside
        if sums.slab:
            _transform_images(o.by_filter, source, gradient, begin, end - begin, worker)
        else:
            sum_images(o.by_filter, source, gradient, end - begin, begin > first, worker)
    if not sums.slab:
        _finish_sums(o.by_filter, partial, 0, channels, 0, outs, 0, worker)
    return 0
