"""Depthwise convolution: one filter per channel, in vectors over the channels; and its gradients.

The gradient by input gathers: an input row meets the filter rows kr with (row + padding - kr * dilation) divisible by
the stride, and likewise its columns, phase by phase. Each phase is a correlation of the output gradient, which lies in
a scratch image with a halo of zeros, with those taps in reversed order: negative strides into the filter.
"""

from dataclasses import dataclass

import numpy as np
from numba import njit

from bptcnn.kernels.channelwise import correlate_row, rectify_row, weigh_row
from bptcnn.kernels.compilation import compiled, task_kernel
from bptcnn.kernels.pointers import floats, record_at, words

DEPTHWISE = np.dtype(
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
            "dilation_rows",  # input rows and columns between neighbouring taps of the window
            "dilation_columns",
            "padding_top",
            "padding_left",
            "filters",  # address in the weight vector, (KH, KW, C)
            "bias",  # address, or 0
            "out_rows",
            "out_columns",
            "output",  # address of pixel (0, 0) of image 0
            "output_image",
            "output_row",
            "rectified",  # 1: a rectifier follows the bias
            "output_gradient",  # address, layout (images, out_rows, out_columns, C)
            "input_gradient",  # address, layout (images, height, width, C), or 0 where nobody wants it
            "accumulate",  # 1: add to what is in the input gradient, 0: overwrite it
            "gradient_scratch",  # one image of the output gradient in its halo of zeros (see scratch_image), per worker
            "gradient_scratch_worker",
            "halo_top",
            "halo_left",
            "gradient_row",  # row stride of that image
            "partials",  # per part: filter gradient (KH, KW, C), then bias gradient (C)
            "part_size",
        )
    ]
    + [("floor", np.float32)],  # 0 where rectified, else minus infinity
    align=True,
)
_at = record_at(DEPTHWISE)


@dataclass(frozen=True)
class ScratchImage:
    """Pixels of one image of the output gradient: its halo above and to the left, and all rows and columns."""

    top: int
    left: int
    rows: int
    columns: int


def scratch_image(
    size: tuple[int, int],
    out_size: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
    padding: tuple[int, int],
) -> ScratchImage:
    """Return the scratch of one worker; `padding` is that above and to the left. Its halo must be zeros, and stays so.

    Output row y reaches input rows y * stride - padding + tap * dilation, so an input row reads output rows from
    (row + padding - (kernel - 1) * dilation) / stride to (row + padding) / stride.
    """
    before = [max(0, ((kernel[i] - 1) * dilation[i] - padding[i]) // stride[i]) for i in (0, 1)]
    behind = [max(out_size[i], (size[i] - 1 + padding[i]) // stride[i] + 1) for i in (0, 1)]
    return ScratchImage(before[0], before[1], before[0] + behind[0], before[1] + behind[1])


@task_kernel
def depthwise(operation, first, last, part, worker):
    """Forward of images [first, last): depthwise convolution, bias, rectifier."""
    o = _at(operation)
    last = min(last, words(o.batch, 1)[0])
    channels = o.channels
    for image in range(first, last):
        for y in range(o.out_rows):
            correlate_row(
                o.input + 4 * (image * o.input_image + y * o.stride_rows * o.input_row),
                o.dilation_rows * o.input_row,
                o.dilation_columns * channels,
                o.stride_columns * channels,
                o.filters,
                o.kernel_columns * channels,
                channels,
                o.kernel_rows,
                o.kernel_columns,
                o.bias,
                0,
                o.output + 4 * (image * o.output_image + y * o.output_row),
                channels,
                o.out_columns,
                channels,
                o.floor,
            )
    return 0


@njit(inline="always")
def _common_divisor(a, b):
    while b:
        a, b = b, a % b
    return a


@njit(inline="always")
def _phase_taps(phase, kernel, stride, dilation):
    """Return (first tap, taps, from tap to tap) of those that reach a phase: (tap * dilation) % stride == phase."""
    step = stride // _common_divisor(stride, dilation)
    for tap in range(min(kernel, step)):
        if tap * dilation % stride == phase:
            return tap, (kernel - 1 - tap) // step + 1, step
    return 0, 0, step


@compiled("void(int64, int64, int64, int64)")
def _input_row(operation, image, row, scratch):
    """Compute one row of the input gradient; `scratch` is the address of the output gradient's pixel (0, 0)."""
    o = _at(operation)
    channels = o.channels
    tap, rows, tap_step = _phase_taps(
        (row + o.padding_top) % o.stride_rows, o.kernel_rows, o.stride_rows, o.dilation_rows
    )
    last_tap = tap + (rows - 1) * tap_step
    y = (row + o.padding_top - last_tap * o.dilation_rows) // o.stride_rows
    line = o.input_gradient + 4 * (image * o.height + row) * o.width * channels
    for phase in range(o.stride_columns):
        # w = stride * q + phase - padding for q in [begin, end)
        begin = (max(0, o.padding_left - phase) + o.stride_columns - 1) // o.stride_columns
        end = (o.width - 1 + o.padding_left - phase) // o.stride_columns + 1
        if end <= begin:
            continue
        tap, columns, step = _phase_taps(phase, o.kernel_columns, o.stride_columns, o.dilation_columns)
        last = tap + (columns - 1) * step
        x = begin + (phase - last * o.dilation_columns) // o.stride_columns
        target = line + 4 * (begin * o.stride_columns + phase - o.padding_left) * channels
        taps = rows * columns
        correlate_row(
            scratch + 4 * (y * o.gradient_row + x * channels) if taps else scratch,
            o.dilation_rows * tap_step // o.stride_rows * o.gradient_row,
            o.dilation_columns * step // o.stride_columns * channels,
            channels,
            o.filters + 4 * (last_tap * o.kernel_columns + last) * channels if taps else o.filters,
            -tap_step * o.kernel_columns * channels,
            -step * channels,
            rows if taps else 0,
            columns,
            target if o.accumulate else 0,
            o.stride_columns * channels,
            target,
            o.stride_columns * channels,
            end - begin,
            channels,
            np.float32(-np.inf),
        )


@task_kernel
def depthwise_backward(operation, first, last, part, worker):
    """Backward of images [first, last): input gradient, and the filter and bias gradients as partial sum `part`.

    Output rows are taken one by one, and with each the input rows that no later one reaches, while all are in cache.
    """
    o = _at(operation)
    last = min(last, words(o.batch, 1)[0])
    channels = o.channels
    partial = o.partials + 4 * part * o.part_size
    sums = floats(partial, o.part_size)
    for i in range(o.part_size):
        sums[i] = np.float32(0)
    bias_gradient = partial + 4 * o.kernel_rows * o.kernel_columns * channels
    corner = o.gradient_scratch + 4 * worker * o.gradient_scratch_worker
    scratch = corner + 4 * (o.halo_top * o.gradient_row + o.halo_left * channels)
    for image in range(first, last):
        done = 0
        for y in range(o.out_rows):
            given = scratch + 4 * y * o.gradient_row
            rectify_row(
                o.output_gradient + 4 * (image * o.out_rows + y) * o.out_columns * channels,
                o.output + 4 * (image * o.output_image + y * o.output_row),
                channels,
                o.out_columns,
                given,
                bias_gradient,
                o.rectified,
            )
            weigh_row(
                given,
                o.input + 4 * (image * o.input_image + y * o.stride_rows * o.input_row),
                o.dilation_rows * o.input_row,
                o.dilation_columns * channels,
                o.stride_columns * channels,
                o.kernel_rows,
                o.kernel_columns,
                partial,
                o.out_columns,
                channels,
            )
            if o.input_gradient:
                complete = o.height if y + 1 == o.out_rows else min(o.height, (y + 1) * o.stride_rows - o.padding_top)
                for row in range(done, complete):
                    _input_row(operation, image, row, scratch)
                done = max(done, complete)
    return 0
