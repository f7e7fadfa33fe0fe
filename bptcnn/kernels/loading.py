"""Loading images: from the caller's samples, in any order, into the network's input buffer with its halo."""

import numpy as np

from bptcnn.kernels.compilation import task_kernel
from bptcnn.kernels.pointers import floats, integers, octets, record_at, words

LOADING = np.dtype(
    [
        (name, np.int64)
        for name in (
            "batch",
            "samples",  # address of the address of the samples (count, height, width, channels)
            "bytes",  # address of a word: 1 where samples are uint8 (value / 255), 0 where float32
            "order",  # address of the address of the samples' places (int32); 0 there: in order
            "rows",
            "line",  # elements in a row: width * channels
            "output",  # address of pixel (0, 0) of image 0
            "output_image",
            "output_row",
        )
    ],
    align=True,
)
_at = record_at(LOADING)
_SCALE = np.float32(1.0 / 255.0)


@task_kernel
def load_images(operation, first, last, part, worker):
    """Copy images [first, last) of the batch into the input buffer as float32."""
    o = _at(operation)
    last = min(last, words(o.batch, 1)[0])
    samples, order = words(o.samples, 1)[0], words(o.order, 1)[0]
    scaled = words(o.bytes, 1)[0] == 1
    for image in range(first, last):
        place = np.int64(integers(order, last)[image]) if order else image
        for row in range(o.rows):
            target = floats(o.output + 4 * (image * o.output_image + row * o.output_row), o.line)
            start = (place * o.rows + row) * o.line
            if scaled:
                small = octets(samples + start, o.line)
                for i in range(o.line):
                    target[i] = np.float32(small[i]) * _SCALE
            else:
                large = floats(samples + 4 * start, o.line)
                for i in range(o.line):
                    target[i] = large[i]
    return 0
