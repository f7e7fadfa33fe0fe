"""Batch normalisation over images and pixels, with the addition and the rectifier that may follow it, and its gradient.

    y = floor(factor * (x - mean) + offset + addend),  factor = scale / sqrt(variance + epsilon)

Forward: `statistics` sums up each range of images, `finish_statistics` puts the sums together in fixed order,
`normalise` applies them. Backward: `gradient_sums` undoes the rectifier and sums up, `finish_gradients` puts together,
`normalise_backward` gives the gradient by the input. Where something is added the rectifier is undone in place, for
what is added wants that gradient, too; else both sweeps see from the input what the rectifier let through, so that
the first one writes nothing and neither reads the output. (S. Ioffe, C. Szegedy, 2015, arXiv 1502.03167.)

No digits are lost where the mean is far above the deviation, or the first pixel far from the mean:
- Sums of squares are taken in chunks of pixels, of the distance from the chunk's first pixel, whose own distance from
  the chunk's mean bounds what cancels; chunks and ranges are put together in float64 (T. F. Chan et al., 1983).
- Every sweep subtracts the mean as float32 holds it, which of inputs near the mean is exact. What that rounding has
  left of the mean, the `rest`, is in the offset, and in the sums and terms of the backward pass.
"""

import math

import numpy as np
from numba import njit

from bptcnn.kernels.compilation import compiled, task_kernel
from bptcnn.kernels.normalisation_forward import normalise_pixels, sum_distances
from bptcnn.kernels.normalisation_gradients import sum_pixels, turn_pixels
from bptcnn.kernels.pointers import doubles, floats, record_at, words
from bptcnn.kernels.runs import clear

NORMALISATION = np.dtype(
    [
        (name, np.int64)
        for name in (
            "batch",  # address of the number of images in this step
            "input",  # address of pixel (0, 0) of image 0; strides in elements; pixels lie one behind the other
            "input_image",
            "input_row",
            "rows",
            "columns",
            "channels",
            "output",
            "output_image",
            "output_row",
            "addend",  # what is added before the rectifier, or 0
            "addend_image",
            "addend_row",
            "rectified",
            "scale",  # addresses in the weight vector, `channels` elements each
            "offset",
            "mean",  # running statistics
            "log_variance",
            "scale_gradient",
            "offset_gradient",
            "ranges",  # int64 (parts, 2): the images of each partial sum
            "parts",
            "sums",  # (parts, SUMS, channels) float32: see `statistics` and `gradient_sums`
            "forward_terms",  # (FORWARD_TERMS, channels) float32: factor, offset, mean, 1 / deviation, rest of the mean
            "backward_terms",  # (3, channels) float32: of the gradient, of the input's distance from the mean, constant
            "output_gradient",  # (images, rows, columns, channels) without halo
            "input_gradient",  # likewise, or 0
            "accumulate",  # 1: add to the input gradient
            "settings",  # address of the learning rate (float32): NaN leaves the running statistics alone
        )
    ]
    + [("momentum", np.float32), ("epsilon", np.float32)],
    align=True,
)
_at = record_at(NORMALISATION)
SUMS = 6
"""Rows of `channels` float32 numbers in a partial sum."""

FORWARD_TERMS = 5
"""Rows of `channels` float32 numbers in the forward terms."""

_CHUNK = 128  # pixels: few enough for float32 sums, and enough that putting them together takes little
_LEAST_VARIANCE = 1e-38  # whose logarithm is finite


@compiled("void(int64, int64, int64, int64, float64, float64)")
def _put_together(part, sums, shift, channels, before, here):
    """Add a chunk of `here` pixels, whose sums of distances and of squares are given, to the `before` of a part."""
    mean, spread = doubles(part, channels), doubles(part + 8 * channels, channels)
    total, squares = floats(sums, channels), floats(sums + 4 * channels, channels)
    start = floats(shift, channels)
    each, weight = 1.0 / here, here / (before + here)
    between = before * weight
    for c in range(channels):
        all_here = np.float64(total[c])
        beside = all_here * each
        distance = np.float64(start[c]) + beside - mean[c]
        mean[c] += distance * weight
        spread[c] += np.float64(squares[c]) - all_here * beside + distance * distance * between


@task_kernel
def statistics(operation, first, last, part, worker):
    """Sum up images [first, last) as partial sum `part`: mean and sum of squared distances from it, in float64."""
    o = _at(operation)
    last = min(last, words(o.batch, 1)[0])
    channels = o.channels
    base = o.sums + 4 * part * SUMS * channels
    sums = base + 16 * channels
    clear(base, SUMS * channels)
    shift, count, before = np.int64(0), 0, 0
    for image in range(first, last):
        for row in range(o.rows):
            line = o.input + 4 * (image * o.input_image + row * o.input_row)
            column = 0
            while column < o.columns:
                source = line + 4 * column * channels
                shift = source if count == 0 else shift
                taken = min(o.columns - column, _CHUNK - count)
                sum_distances(source, channels, taken, shift, sums, sums + 4 * channels)
                column += taken
                count += taken
                if count == _CHUNK:
                    _put_together(base, sums, shift, channels, float(before), float(count))
                    clear(sums, 2 * channels)
                    before, count = before + count, 0
    if count:
        _put_together(base, sums, shift, channels, float(before), float(count))
    return 0


@njit(inline="always")
def _images(o, part):
    """How many images of this step are in a part."""
    ends = words(o.ranges + 16 * part, 2)
    return max(np.int64(0), min(ends[1], words(o.batch, 1)[0]) - ends[0])


@task_kernel
def finish_statistics(operation, first, last, part, worker):
    """Put the partial sums of channels [first, last) together; move the running statistics in a step with update."""
    o = _at(operation)
    channels = o.channels
    pixels = o.rows * o.columns
    terms = floats(o.forward_terms, FORWARD_TERMS * channels)
    scale, offset = floats(o.scale, channels), floats(o.offset, channels)
    running, logarithm = floats(o.mean, channels), floats(o.log_variance, channels)
    rate = floats(o.settings, 1)[0]
    for c in range(first, last):
        count, mean, spread = 0.0, 0.0, 0.0
        for index in range(o.parts):
            here = float(_images(o, index) * pixels)
            if here == 0.0:
                continue
            own = doubles(o.sums + 4 * index * SUMS * channels, 2 * channels)
            distance = own[c] - mean
            mean += distance * here / (count + here)
            spread += own[channels + c] + distance * distance * count * here / (count + here)
            count += here
        variance = spread / count
        variance = variance if variance > 0.0 or variance != variance else 0.0
        inverse = 1.0 / math.sqrt(variance + o.epsilon)
        factor = scale[c] * inverse
        rest = mean - np.float64(np.float32(mean))
        terms[c] = factor
        terms[channels + c] = offset[c] - rest * factor
        terms[2 * channels + c] = np.float32(mean)
        terms[3 * channels + c] = inverse
        terms[4 * channels + c] = rest
        if rate == rate:
            moved = o.momentum * math.exp(np.float64(logarithm[c])) + (1.0 - o.momentum) * variance
            running[c] = o.momentum * running[c] + (1.0 - o.momentum) * mean
            logarithm[c] = math.log(max(moved, _LEAST_VARIANCE)) if moved == moved else moved
    return 0


@task_kernel
def use_running_statistics(operation, first, last, part, worker):
    """For inference: the terms of channels [first, last) from the running statistics."""
    o = _at(operation)
    channels = o.channels
    terms = floats(o.forward_terms, FORWARD_TERMS * channels)
    for c in range(first, last):
        inverse = 1.0 / math.sqrt(math.exp(np.float64(floats(o.log_variance, channels)[c])) + o.epsilon)
        terms[c] = floats(o.scale, channels)[c] * inverse
        terms[channels + c] = floats(o.offset, channels)[c]
        terms[2 * channels + c] = floats(o.mean, channels)[c]
        terms[3 * channels + c] = inverse
        terms[4 * channels + c] = np.float32(0)
    return 0


@task_kernel
def normalise(operation, first, last, part, worker):
    """Apply the terms to images [first, last), add the addend, rectify."""
    o = _at(operation)
    last = min(last, words(o.batch, 1)[0])
    channels = o.channels
    for image in range(first, last):
        for row in range(o.rows):
            more = o.addend + 4 * (image * o.addend_image + row * o.addend_row)
            normalise_pixels(
                o.input + 4 * (image * o.input_image + row * o.input_row),
                channels,
                o.columns,
                o.forward_terms,
                o.forward_terms + 4 * channels,
                o.forward_terms + 8 * channels,
                more if o.addend else 0,
                o.output + 4 * (image * o.output_image + row * o.output_row),
                o.rectified,
            )
    return 0


@task_kernel
def gradient_sums(operation, first, last, part, worker):
    """Sum up the output gradient of images [first, last), the rectifier undone, and its product with x - mean."""
    o = _at(operation)
    last = min(last, words(o.batch, 1)[0])
    channels = o.channels
    base = o.sums + 4 * part * SUMS * channels
    clear(base, 2 * channels)
    line = o.columns * channels
    for image in range(first, last):
        for row in range(o.rows):
            gradient = o.output_gradient + 4 * (image * o.rows + row) * line
            if o.rectified and o.addend:
                output = floats(o.output + 4 * (image * o.output_image + row * o.output_row), line)
                given = floats(gradient, line)
                for i in range(line):
                    given[i] = given[i] if output[i] > 0 else np.float32(0)
            sum_pixels(
                gradient,
                o.input + 4 * (image * o.input_image + row * o.input_row),
                channels,
                o.columns,
                o.forward_terms,
                o.forward_terms + 4 * channels,
                o.forward_terms + 8 * channels,
                base,
                base + 4 * channels,
                o.rectified and not o.addend,
            )
    return 0


@task_kernel
def finish_gradients(operation, first, last, part, worker):
    """Put the sums of channels [first, last) together: gradients of scale and offset, terms of the input gradient."""
    o = _at(operation)
    channels = o.channels
    forward = floats(o.forward_terms, FORWARD_TERMS * channels)
    backward = floats(o.backward_terms, 3 * channels)
    count = float(words(o.batch, 1)[0] * o.rows * o.columns)
    for c in range(first, last):
        total, products = 0.0, 0.0
        for index in range(o.parts):
            if _images(o, index) == 0:
                continue
            base = o.sums + 4 * index * SUMS * channels
            total += np.float64(floats(base, channels)[c])
            products += np.float64(floats(base + 4 * channels, channels)[c])
        factor, inverse, rest = (
            np.float64(forward[c]),
            np.float64(forward[3 * channels + c]),
            np.float64(forward[4 * channels + c]),
        )
        by_scale = (products - rest * total) * inverse
        floats(o.scale_gradient, channels)[c] = by_scale
        floats(o.offset_gradient, channels)[c] = total
        of_input = -factor * inverse * by_scale / count
        backward[c] = factor
        backward[channels + c] = of_input
        backward[2 * channels + c] = -factor * total / count - of_input * rest
    return 0


@task_kernel
def normalise_backward(operation, first, last, part, worker):
    """Write, or add, the gradient by the input of images [first, last)."""
    o = _at(operation)
    last = min(last, words(o.batch, 1)[0])
    channels = o.channels
    line = o.columns * channels
    for image in range(first, last):
        for row in range(o.rows):
            place = 4 * (image * o.rows + row) * line
            turn_pixels(
                o.output_gradient + place,
                o.input + 4 * (image * o.input_image + row * o.input_row),
                channels,
                o.input_gradient + place,
                channels,
                o.columns,
                channels,
                o.forward_terms,
                o.backward_terms,
                o.rectified and not o.addend,
                o.accumulate,
                o.columns,
            )
    return 0
