"""Depthwise convolution: one filter per channel, in vectors over the channels; and its gradients.

The gradient by input gathers: an input row meets the filter rows kr with (row + padding - kr * dilation) divisible by
the stride, and likewise its columns, phase by phase. Each phase is a correlation of the output gradient, which lies in
a scratch image with a halo of zeros, with those taps in reversed order: negative strides into the filter.
"""

from dataclasses import dataclass

import numpy as np
from numba import njit

from bptcnn.kernels.channelwise import BAND, correlate_rows, rectify_row, weigh_rows
from bptcnn.kernels.compilation import task_kernel
from bptcnn.kernels.normalisation_gradients import turn_pixels
from bptcnn.kernels.pointers import record_at, words
from bptcnn.kernels.runs import add_runs, clear

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
            "forward_terms",  # of the batch normalisation whose gradient is turned on loading (see normalisation)
            "backward_terms",  # or 0: then the output's gradient is there as it is
            "rectifies",  # 1: that normalisation's rectifier is to be undone, too
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
        correlate_rows(
            o.input + 4 * image * o.input_image,
            o.stride_rows * o.input_row,
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
            o.output + 4 * image * o.output_image,
            o.output_row,
            channels,
            o.out_rows,
            o.out_columns,
            channels,
            o.floor,
        )
    return 0


@njit(inline="always")
def _phase_taps(phase, kernel, stride, dilation):
    """Return (first tap, taps, from tap to tap) of those that reach a phase: (tap * dilation) % stride == phase."""
    step = 1
    while step * dilation % stride:
        step += 1
    for tap in range(min(kernel, step)):
        if tap * dilation % stride == phase:
            return tap, (kernel - 1 - tap) // step + 1, step
    return 0, 0, step


@njit(inline="always")
def _phase_pixels(phase, padding, stride, begin, end):
    """Return the range of q for which stride * q + phase - padding lies in [begin, end), as input rows or columns."""
    first = (max(0, begin + padding - phase) + stride - 1) // stride
    return first, (end - 1 + padding - phase) // stride + 1


@njit(inline="always")
def _gradient_of_rows(o, target, scratch, begin, end, phase):
    """Compute those of the input gradient's rows [begin, end) that are of one phase.

    `target` is the address of the image's gradient, `scratch` that of the output gradient's pixel (0, 0).
    """
    channels = o.channels
    row_begin, row_end = _phase_pixels(phase, o.padding_top, o.stride_rows, begin, end)
    if row_end <= row_begin:
        return
    tap, rows, row_step = _phase_taps(phase, o.kernel_rows, o.stride_rows, o.dilation_rows)
    last_row = tap + (rows - 1) * row_step
    # the window of input row stride * q + phase - padding begins at this output row
    y = row_begin + (phase - last_row * o.dilation_rows) // o.stride_rows
    line = target + 4 * (row_begin * o.stride_rows + phase - o.padding_top) * o.width * channels
    for phase_column in range(o.stride_columns):
        column_begin, column_end = _phase_pixels(phase_column, o.padding_left, o.stride_columns, 0, o.width)
        if column_end <= column_begin:
            continue
        tap, columns, column_step = _phase_taps(phase_column, o.kernel_columns, o.stride_columns, o.dilation_columns)
        last_column = tap + (columns - 1) * column_step
        x = column_begin + (phase_column - last_column * o.dilation_columns) // o.stride_columns
        met = rows > 0 and columns > 0  # else no window reaches these pixels
        correlate_rows(
            scratch + 4 * (y * o.gradient_row + x * channels) if met else scratch,
            o.gradient_row,
            o.dilation_rows * row_step // o.stride_rows * o.gradient_row,
            o.dilation_columns * column_step // o.stride_columns * channels,
            channels,
            o.filters + 4 * (last_row * o.kernel_columns + last_column) * channels if met else o.filters,
            -row_step * o.kernel_columns * channels,
            -column_step * channels,
            rows if met else 0,
            columns if met else 0,
            0,
            o.accumulate,
            line + 4 * (column_begin * o.stride_columns + phase_column - o.padding_left) * channels,
            o.stride_rows * o.width * channels,
            o.stride_columns * channels,
            row_end - row_begin,
            column_end - column_begin,
            channels,
            np.float32(-np.inf),
        )


@njit(inline="always")
def _turn_row(o, gradient, output, target, sums):
    """Copy a row's gradient behind a batch normalisation to `target`, turned to that before; add it to channel sums."""
    channels = o.channels
    turn_pixels(
        gradient,
        output,
        channels,
        target,
        channels,
        o.out_columns,
        channels,
        o.forward_terms,
        o.backward_terms,
        o.rectifies,
        0,
        BAND * o.out_columns,
    )
    if o.bias:
        add_runs(target, channels, sums, 0, o.out_columns, channels, np.float32(1), 1)


@njit(inline="always")
def _gradient_of_band(o, image, scratch, partial, y):
    """Undo rectifier or normalisation in the BAND output rows from y on; add their filter and bias gradients."""
    channels = o.channels
    lines = min(BAND, o.out_rows - y)
    given = scratch + 4 * y * o.gradient_row
    sums = partial + 4 * o.kernel_rows * o.kernel_columns * channels
    for line in range(lines):
        gradient = o.output_gradient + 4 * (image * o.out_rows + y + line) * o.out_columns * channels
        output = o.output + 4 * (image * o.output_image + (y + line) * o.output_row)
        target = given + 4 * line * o.gradient_row
        if o.backward_terms:
            _turn_row(o, gradient, output, target, sums)
        else:
            rectify_row(gradient, output, channels, o.out_columns, target, sums, o.rectified)
    weigh_rows(
        given,
        o.gradient_row,
        o.input + 4 * (image * o.input_image + y * o.stride_rows * o.input_row),
        o.stride_rows * o.input_row,
        o.dilation_rows * o.input_row,
        o.dilation_columns * channels,
        o.stride_columns * channels,
        o.kernel_rows,
        o.kernel_columns,
        partial,
        lines,
        o.out_columns,
        channels,
    )


@task_kernel
def depthwise_backward(operation, first, last, part, worker):
    """Backward of images [first, last): input gradient, and the filter and bias gradients as partial sum `part`.

    Output rows are taken in bands, and with each the input rows that no later one reaches, while all are in cache.
    """
    o = _at(operation)
    last = min(last, words(o.batch, 1)[0])
    partial = o.partials + 4 * part * o.part_size
    clear(partial, o.part_size)
    corner = o.gradient_scratch + 4 * worker * o.gradient_scratch_worker
    scratch = corner + 4 * (o.halo_top * o.gradient_row + o.halo_left * o.channels)
    for image in range(first, last):
        target = o.input_gradient + 4 * image * o.height * o.width * o.channels
        done = 0
        for y in range(0, o.out_rows, BAND):
            _gradient_of_band(o, image, scratch, partial, y)
            complete = o.height
            if y + BAND < o.out_rows:
                complete = min(o.height, (y + BAND) * o.stride_rows - o.padding_top)
            if o.input_gradient and complete > done:
                for phase in range(o.stride_rows):
                    _gradient_of_rows(o, target, scratch, done, complete, phase)
                done = complete
    return 0
