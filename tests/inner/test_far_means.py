"""The gradient by what is normalised keeps its digits where the mean is far above the deviation.

A convolution's bias makes the mean large. What float32 rounds off its values then is not the normalisation's fault: so
each layer is compared for what it was given. Pointwise and depthwise convolutions compute that gradient on loading.
"""

import numpy as np
import pytest
import reference
from by_layer import ByLayer
from kernels.stepping import Case
from replaying import lasting

from bptcnn.inner.executor import Executor
from bptcnn.inner.subnetwork import Subnetwork
from bptcnn.networks import BatchNorm, Conv2D, Dense, DepthwiseConv2D, Flatten, Layer, Network

FIRST: list[Layer] = [Conv2D(32, 1), Conv2D(32, 3), Conv2D(5, (2, 3)), DepthwiseConv2D(3)]
BOUND = 2e-5


@pytest.mark.parametrize("far", [0.0, 1e2, 1e3, 1e4])
@pytest.mark.parametrize(
    "first", FIRST, ids=lambda layer: f"{type(layer).__name__} {getattr(layer, 'kernel_size', '')}"
)
@pytest.mark.parametrize("activation", [None, "relu"])
def test_each_layer_of_its_own_input(executor: Executor, far: float, first: Layer, activation: str | None) -> None:
    layers: list[Layer] = [first, BatchNorm(activation=activation), Conv2D(8, 3), Flatten(), Dense(3)]
    network = Network((9, 7, 32), layers)
    case = Case.draw(network, 6, 1)
    _, tape = reference.forward(network, case.weights, case.samples)
    bias = network.parameters[1]
    case.weights[bias.offset : bias.offset + bias.size] = far * tape[0].value.std((0, 1, 2))
    usual = Subnetwork(network, 7, executor, keeps_gradient=True)
    kept = lasting(network, 7, executor, sharing=False)
    for made in (usual, kept):
        made.weights[:] = case.weights
        made.step(case.samples, case.labels)
    checked = ByLayer(kept, case)
    assert {error.layer for error in checked.errors} >= {"norm1", "dense1"}
    for error in checked.errors:
        assert error.error <= BOUND, error
    close = np.linalg.norm(usual.gradient - kept.gradient) <= 1e-6 * np.linalg.norm(kept.gradient)
    assert close, "with gradients turned on loading"
