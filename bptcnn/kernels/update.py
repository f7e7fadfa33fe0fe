"""Gradient reduction in a fixed order, and SGD with momentum and weight decay on the flat weight vector."""

import numpy as np
from numba import njit

from bptcnn.kernels.compilation import task_kernel
from bptcnn.kernels.pointers import floats, record_at

REDUCTION = np.dtype(
    [
        (name, np.int64)
        for name in (
            "partials",  # (parts, part_size)
            "parts",
            "part_size",
            "gradient",  # address of the element that the first sum is kept in, 0 where it is not
            "settings",  # as in UPDATE
            "weights",  # address of the element that the first gradient belongs to
            "velocity",
        )
    ],
    align=True,
)
_reduction_at = record_at(REDUCTION)

UPDATE = np.dtype(
    [
        (name, np.int64)
        for name in (
            "settings",  # address of three float32: learning rate (NaN: no update), momentum, weight decay
            "weights",
            "gradient",
            "velocity",
        )
    ],
    align=True,
)
_update_at = record_at(UPDATE)


@njit(inline="always")
def _descend(settings, weights, gradient, velocity, size):
    """velocity = momentum * velocity + gradient + decay * weight; weight -= rate * velocity."""
    rate, momentum, decay = settings[0], settings[1], settings[2]
    if rate != rate:
        return
    for i in range(size):
        v = momentum * velocity[i] + gradient[i] + decay * weights[i]
        velocity[i] = v
        weights[i] -= rate * v


@task_kernel
def reduce_and_update(operation, first, last, part, worker):
    """Add up the elements [first, last) of all partial sums, in the order of the parts; then update the weights.

    The sum takes the place of the first part.
    """
    o = _reduction_at(operation)
    size = last - first
    total = floats(o.partials + 4 * first, size)
    for index in range(1, o.parts):
        more = floats(o.partials + 4 * (index * o.part_size + first), size)
        for i in range(size):
            total[i] += more[i]
    if o.gradient:
        gradient = floats(o.gradient + 4 * first, size)
        for i in range(size):
            gradient[i] = total[i]
    weights, velocity = floats(o.weights + 4 * first, size), floats(o.velocity + 4 * first, size)
    _descend(floats(o.settings, 3), weights, total, velocity, size)
    return 0


@task_kernel
def sgd(operation, first, last, part, worker):
    """Update the weights [first, last) by their gradient."""
    o = _update_at(operation)
    size = last - first
    weights, velocity = floats(o.weights + 4 * first, size), floats(o.velocity + 4 * first, size)
    _descend(floats(o.settings, 3), weights, floats(o.gradient + 4 * first, size), velocity, size)
    return 0
