"""What a step decided: the signs that its rectifiers saw and the pixels that its poolings took, for the reference."""

from contextlib import nullcontext
from unittest import mock

import numpy as np
import numpy.typing as npt
from reference import Choices

from bptcnn.inner.bfloat16_convolution import Bfloat16Convolution
from bptcnn.inner.convolution import Convolution
from bptcnn.inner.executor import Executor
from bptcnn.inner.guarded_arena import GuardedArena
from bptcnn.inner.plan import Plan
from bptcnn.inner.pooling import Pooling
from bptcnn.inner.sharing import GradientSharing
from bptcnn.inner.subnetwork import Subnetwork
from bptcnn.inner.tuning import BY_RULE, Tuning
from bptcnn.kernels.pooling import DEAD
from bptcnn.networks import Network
from bptcnn.precision import Precision


def lasting(
    network: Network,
    batch_size: int,
    executor: Executor,
    tuning: Tuning = BY_RULE,
    precision: Precision = "float32",
    sharing: bool = True,
) -> Subnetwork:
    """Return a subnetwork whose values can be read after a step; without `sharing`, all gradients too."""
    how = nullcontext() if sharing else mock.patch.object(GradientSharing, "_share", return_value=None)
    with how:
        return Subnetwork(
            network,
            batch_size,
            executor,
            tuning=tuning,
            precision=precision,
            keeps_gradient=True,
            arena=GuardedArena(),
        )


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
        elif getattr(layer, "activation", getattr(layer, "function", None)) in ("relu", "leaky_relu"):
            assert index + 1 in made, name
            positive = _value(plan, index + 1, images) > 0
            shape = images, *network.shapes[index + 1]
            rectified[name] = np.where(positive, 1, -1).astype(np.int8).reshape(shape)
    return Choices(rectified, pooled, {name for name, op in operations.items() if isinstance(op, Bfloat16Convolution)})


def made_values(subnetwork: Subnetwork, images: int) -> dict[int, npt.NDArray[np.float32]]:
    """Return the values (N, ...) that the last step of a `lasting` subnetwork made, the input too.

    An activation may be of an operation of its own: what lies between is none of the network's values.
    """
    plan, shapes = subnetwork._plan, subnetwork.network.shapes
    made = [value for value in (0, *(op.output for op in plan.operations)) if value < len(shapes)]
    return {value: _value(plan, value, images).reshape(images, *shapes[value]) for value in made}


def value_gradients(subnetwork: Subnetwork, images: int) -> dict[int, npt.NDArray[np.float32]]:
    """Return the gradients (N, ...) by all values made but the input, of a `lasting` subnetwork that shares none."""
    plan, shapes = subnetwork._plan, subnetwork.network.shapes
    found = {}
    for value in (op.output for op in plan.operations if op.output < len(shapes)):
        flat = plan.arena.view(("gradient", value), plan.batch * plan.layout(value).elements)
        found[value] = flat.reshape(plan.batch, *shapes[value])[:images]
    return found


def _value(plan: Plan, value: int, images: int) -> npt.NDArray[np.float32]:
    """Return a value's images without halo."""
    layout = plan.layout(value)
    flat = plan.arena.view(("value", value), plan.batch * layout.image)
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
