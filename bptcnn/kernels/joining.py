"""Joining values along their channels: each is copied into a range of channels of a wider one; and back the gradient.

With offset 0 and as many channels on both sides this copies images from one layout to another.
"""

import numpy as np

from bptcnn.kernels.compilation import task_kernel
from bptcnn.kernels.pointers import record_at, words
from bptcnn.kernels.runs import add_runs

JOINING = np.dtype(
    [
        (name, np.int64)
        for name in (
            "batch",  # address of the number of images in this step
            "input",  # address of pixel (0, 0) of image 0
            "input_image",  # strides: elements from image to image, row to row
            "input_row",
            "channels",
            "height",
            "width",
            "output",  # address of pixel (0, 0) of image 0 of the wider value
            "output_image",
            "output_row",
            "out_channels",  # of the wider value
            "offset",  # its channel that the input's first one becomes
            "output_gradient",  # layout (images, height, width, out_channels)
            "input_gradient",  # layout (images, height, width, channels), or 0 where nobody wants it
            "accumulate",  # 1: add to what is in the input gradient, 0: overwrite it
        )
    ],
    align=True,
)
_at = record_at(JOINING)
_ONE = np.float32(1)


@task_kernel
def join(operation, first, last, part, worker):
    """Copy images [first, last) into the channels [offset, offset + channels) of the wider value."""
    o = _at(operation)
    last = min(last, words(o.batch, 1)[0])
    for image in range(first, last):
        for row in range(o.height):
            source = o.input + 4 * (image * o.input_image + row * o.input_row)
            target = o.output + 4 * (image * o.output_image + row * o.output_row + o.offset)
            add_runs(source, o.channels, target, o.out_channels, o.width, o.channels, _ONE, 0)
    return 0


@task_kernel
def join_backward(operation, first, last, part, worker):
    """Copy, or add, those channels of the output gradient of images [first, last) to the input gradient."""
    o = _at(operation)
    if o.input_gradient == 0:
        return 0
    last = min(last, words(o.batch, 1)[0])
    pixels = o.height * o.width
    for image in range(first, last):
        source = o.output_gradient + 4 * (image * pixels * o.out_channels + o.offset)
        target = o.input_gradient + 4 * image * pixels * o.channels
        add_runs(source, o.out_channels, target, o.channels, pixels, o.channels, _ONE, o.accumulate)
    return 0
