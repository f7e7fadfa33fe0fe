"""Softmax cross-entropy: the mean loss over the batch, the correct predictions, and the gradient by logits."""

import numpy as np

from bptcnn.kernels.compilation import task_kernel
from bptcnn.kernels.pointers import floats, integers, record_at, words

LABEL_OUT_OF_RANGE = 1

LOSS = np.dtype(
    [
        (name, np.int64)
        for name in (
            "batch",
            "labels",  # address of the address of the labels (int32), see `order`
            "order",  # address of the address of the samples' places (int32); 0 there: in order
            "logits",  # (images, classes)
            "classes",
            "gradient",  # (images, classes)
            "loss",  # address of a float32: the mean loss
            "correct",  # address of an int64
        )
    ],
    align=True,
)
_at = record_at(LOSS)


@task_kernel
def softmax_cross_entropy(operation, first, last, part, worker):
    """Loss and gradient of all images; LABEL_OUT_OF_RANGE where a label is no class."""
    o = _at(operation)
    images, classes = words(o.batch, 1)[0], o.classes
    labels, order = words(o.labels, 1)[0], words(o.order, 1)[0]
    total = 0.0
    correct = 0
    scale = 1.0 / images
    for image in range(images):
        place = integers(order, images)[image] if order else image
        label = integers(labels, place + 1)[place]
        if label < 0 or label >= classes:
            return LABEL_OUT_OF_RANGE
        logits = floats(o.logits + 4 * image * classes, classes)
        gradient = floats(o.gradient + 4 * image * classes, classes)
        largest = logits[0]
        best = 0
        for c in range(1, classes):
            if logits[c] > largest or logits[c] != logits[c]:
                largest = logits[c]
                best = c
        partition = 0.0
        for c in range(classes):
            partition += np.exp(np.float64(logits[c] - largest))
        total += np.log(partition) - np.float64(logits[label] - largest)
        correct += best == label
        for c in range(classes):
            target = 1.0 if c == label else 0.0
            gradient[c] = np.float32((np.exp(np.float64(logits[c] - largest)) / partition - target) * scale)
    floats(o.loss, 1)[0] = np.float32(total * scale)
    words(o.correct, 1)[0] = correct
    return 0
