"""Dense layers on the register tile: output = floor_at(input @ weights + bias), and its gradients.

Weights are (in, out), row-major, read in place. The gradient by input computes its transpose, weights @ gradient^T, so
that the weights need no transposed copy: the batch is smaller than the weights.
"""

import numpy as np

from bptcnn.kernels.compilation import task_kernel
from bptcnn.kernels.pointers import floats, record_at, words
from bptcnn.kernels.tile import tile
from bptcnn.kernels.unit import COLUMNS, LANES, ROWS

DENSE = np.dtype(
    [
        (name, np.int64)
        for name in (
            "batch",
            "input",  # (images, inputs)
            "input_image",  # elements from image to image
            "inputs",
            "weights",  # (inputs, outputs)
            "outputs",
            "bias",  # address, or 0
            "output",  # (images, outputs)
            "output_image",
            "rectified",
            "output_gradient",  # (images, outputs); the rectifier is undone in place
            "gradient_panels",  # its transpose: [panel of COLUMNS images][outputs][COLUMNS]
            "input_gradient",  # (images, inputs), or 0
            "accumulate",  # 1: add to the input gradient
            "weight_gradient",  # (inputs, outputs)
            "bias_gradient",
            "scratch",  # per worker BLOCK x COLUMNS
            "scratch_worker",
        )
    ]
    + [("floor", np.float32)],
    align=True,
)
_at = record_at(DENSE)

DEPTH_BLOCK = 512  # rows of the weights in one pass: 512 x 128 bytes stay in the second-level cache
GRADIENT_BLOCK = 8192  # elements of the output gradient that stay in the first-level cache beside a tile's inputs
BLOCK = 4 * ROWS  # rows of the transposed input gradient in one pass: its block stays in the first-level cache


@task_kernel
def dense(operation, first, last, part, worker):
    """Forward of the panels [first, last) of COLUMNS outputs, for all images."""
    o = _at(operation)
    images = words(o.batch, 1)[0]
    tiles = (images + ROWS - 1) // ROWS
    for channel in range(first * COLUMNS, min(last * COLUMNS, o.outputs), COLUMNS):
        here = min(COLUMNS, o.outputs - channel)
        vectors = (here + LANES - 1) // LANES
        tail = here - (vectors - 1) * LANES
        for begin in range(0, o.inputs, DEPTH_BLOCK):
            depth = min(DEPTH_BLOCK, o.inputs - begin)
            final = begin + depth == o.inputs
            for t in range(tiles):
                image = images * t // tiles
                target = o.output + 4 * (image * o.output_image + channel)
                init, init_row = target, o.output_image
                if begin == 0:
                    init = o.bias + 4 * channel if o.bias else 0
                    init_row = 0
                tile(
                    images * (t + 1) // tiles - image,
                    vectors,
                    o.input + 4 * (image * o.input_image + begin),
                    o.input_image,
                    1,
                    0,
                    o.weights + 4 * (begin * o.outputs + channel),
                    o.outputs,
                    0,
                    init,
                    init_row,
                    target,
                    o.output_image,
                    depth,
                    1,
                    o.floor if final else np.float32(-np.inf),
                    tail,
                )
    return 0


@task_kernel
def dense_gradient(operation, first, last, part, worker):
    """Undo the rectifier in the output gradient of all images, pack its transpose, sum up the bias gradient."""
    o = _at(operation)
    images, outputs = words(o.batch, 1)[0], o.outputs
    if o.bias:
        sums = floats(o.bias_gradient, outputs)
        for c in range(outputs):
            sums[c] = np.float32(0)
    for panel in range((images + COLUMNS - 1) // COLUMNS):
        packed = floats(o.gradient_panels + 4 * panel * outputs * COLUMNS, outputs * COLUMNS)
        for n in range(COLUMNS):
            image = panel * COLUMNS + n
            if image >= images:
                for c in range(outputs):
                    packed[c * COLUMNS + n] = np.float32(0)
                continue
            gradient = floats(o.output_gradient + 4 * image * outputs, outputs)
            if o.rectified:
                output = floats(o.output + 4 * image * o.output_image, outputs)
                for c in range(outputs):
                    gradient[c] = gradient[c] if output[c] > 0 else np.float32(0)
            if o.bias:
                sums = floats(o.bias_gradient, outputs)
                for c in range(outputs):
                    sums[c] += gradient[c]
            for c in range(outputs):
                packed[c * COLUMNS + n] = gradient[c]
    return 0


@task_kernel
def dense_gradient_by_weight(operation, first, last, part, worker):
    """Gradient of the weights' rows [first, last)."""
    o = _at(operation)
    images = words(o.batch, 1)[0]
    count = last - first
    tiles, panels = (count + ROWS - 1) // ROWS, (o.outputs + COLUMNS - 1) // COLUMNS
    by_rows = images * o.outputs <= GRADIENT_BLOCK
    for index in range(tiles * panels):
        t, panel = (index // panels, index % panels) if by_rows else (index % tiles, index // tiles)
        channel, row = panel * COLUMNS, first + count * t // tiles
        here = min(COLUMNS, o.outputs - channel)
        vectors = (here + LANES - 1) // LANES
        tile(
            count * (t + 1) // tiles - count * t // tiles,
            vectors,
            o.input + 4 * row,
            1,
            o.input_image,
            0,
            o.output_gradient + 4 * channel,
            o.outputs,
            0,
            0,
            0,
            o.weight_gradient + 4 * (row * o.outputs + channel),
            o.outputs,
            images,
            1,
            np.float32(-np.inf),
            here - (vectors - 1) * LANES,
        )
    return 0


@task_kernel
def dense_gradient_by_input(operation, first, last, part, worker):
    """Gradient of the inputs [first, last), for all images."""
    o = _at(operation)
    images = words(o.batch, 1)[0]
    scratch = o.scratch + 4 * worker * o.scratch_worker
    block = floats(scratch, BLOCK * COLUMNS)
    for panel in range((images + COLUMNS - 1) // COLUMNS):
        here = min(COLUMNS, images - panel * COLUMNS)
        for begin in range(first, last, BLOCK):
            count = min(BLOCK, last - begin)
            tiles = (count + ROWS - 1) // ROWS
            for t in range(tiles):
                row = count * t // tiles
                tile(
                    count * (t + 1) // tiles - row,
                    COLUMNS // LANES,
                    o.weights + 4 * (begin + row) * o.outputs,
                    o.outputs,
                    1,
                    0,
                    o.gradient_panels + 4 * panel * o.outputs * COLUMNS,
                    COLUMNS,
                    0,
                    0,
                    0,
                    scratch + 4 * row * COLUMNS,
                    COLUMNS,
                    o.outputs,
                    1,
                    np.float32(-np.inf),
                    LANES,
                )
            for n in range(here):
                target = floats(o.input_gradient + 4 * ((panel * COLUMNS + n) * o.inputs + begin), count)
                if o.accumulate:
                    for i in range(count):
                        target[i] += block[i * COLUMNS + n]
                else:
                    for i in range(count):
                        target[i] = block[i * COLUMNS + n]
    return 0
