"""What a step decided: the signs that its rectifiers saw and the pixels that its poolings took, for the reference."""

from collections.abc import Hashable
from unittest import mock

import numpy as np
import numpy.typing as npt
from reference import Choices

from bptcnn.inner.arena import FLOAT, Arena, Turns
from bptcnn.inner.convolution import Convolution
from bptcnn.inner.executor import Executor
from bptcnn.inner.plan import Plan
from bptcnn.inner.pooling import Pooling
from bptcnn.inner.subnetwork import Subnetwork
from bptcnn.inner.tuning import Tuning
from bptcnn.kernels.pooling import DEAD
from bptcnn.networks import Network
from bptcnn.precision import Precision


class LastingArena(Arena):
    """Keeps every buffer through the whole step: nothing lies over anything else."""

    def reserve(
        self, name: Hashable, count: int, stride: int = FLOAT, needed: Turns | None = None, behind: int = 0
    ) -> None:
        super().reserve(name, count, stride, behind=behind)


def lasting(network: Network, batch_size: int, executor: Executor, tuning: Tuning, precision: Precision) -> Subnetwork:
    """Return a subnetwork whose values can be read after a step."""
    with mock.patch("bptcnn.inner.plan.Arena", LastingArena):
        return Subnetwork(network, batch_size, executor, tuning=tuning, precision=precision, keeps_gradient=True)


def choices(subnetwork: Subnetwork, images: int) -> Choices:
    """Return what the last step of a `lasting` subnetwork decided for its first `images` images."""
    plan, network = subnetwork._plan, subnetwork.network
    operations = {op.name: op for op in plan.operations}
    made = {op.output for op in plan.operations}
    rectified, pooled = dict[str, npt.NDArray[np.int8]](), dict[str, npt.NDArray[np.intp]]()
    for index, application in enumerate(network.applications):
        name, op, layer = application.name, operations.get(application.name), application.layer
        if isinstance(op, Pooling):
            pooled[name] = _choice(plan, name, op.out_shape, images)
        if isinstance(op, Convolution) and op.pool:
            pooling = network.applications[op.output - 1].name
            taken = _choice(plan, name, op.out_shape, images)
            pooled[pooling] = np.where(taken == DEAD, 0, taken)
            if op.rectified:
                rectified[name] = _under_pooling(taken, op)
        elif getattr(layer, "activation", getattr(layer, "function", None)) == "relu":
            assert index + 1 in made, name
            positive = _value(plan, index + 1, images) > 0
            shape = images, *network.shapes[index + 1]
            rectified[name] = np.where(positive, 1, -1).astype(np.int8).reshape(shape)
    return Choices(rectified, pooled)


def _value(plan: Plan, value: int, images: int) -> npt.NDArray[np.float32]:
    """Return a value's images without halo."""
    layout = plan.layout(value)
    flat = plan.arena.view(("value", value), plan.batch * layout.image).view(np.float32)
    strides = [4 * step for step in (layout.image, layout.row, layout.shape[2], 1)]
    return np.lib.stride_tricks.as_strided(flat[layout.inside :], (images, *layout.shape), strides, writeable=False)


def _choice(plan: Plan, name: str, shape: tuple[int, int, int], images: int) -> npt.NDArray[np.intp]:
    flat = plan.arena.view((name, "choice"), plan.batch * int(np.prod(shape)), np.uint8)
    return flat.reshape(plan.batch, *shape)[:images].astype(np.intp)


def _under_pooling(taken: npt.NDArray[np.intp], op: Convolution) -> npt.NDArray[np.int8]:
    """Return the signs before pooling as far as they are known: of what was taken, and of all where that was 0."""
    assert op.pool is not None
    signs = np.zeros((len(taken), *op.conv_shape), np.int8)
    for pixel in range(op.pool[0] * op.pool[1]):
        rows, columns = (
            slice(first, taken.shape[1 + axis] * op.pool[axis], op.pool[axis])
            for axis, first in enumerate(divmod(pixel, op.pool[1]))
        )
        signs[:, rows, columns] = np.where(taken == DEAD, -1, taken == pixel)
    return signs
