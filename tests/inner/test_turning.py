"""Convolutions that compute the gradient behind a batch normalisation while loading it, against the reference."""

import numpy as np
import reference
from hypothesis import assume, given
from hypothesis import strategies as st
from kernels.stepping import SEEDS, Case

from bptcnn.inner.depthwise import Depthwise
from bptcnn.inner.executor import Executor
from bptcnn.inner.lowering import lower
from bptcnn.inner.plan import Plan
from bptcnn.inner.pointwise import PointwiseConvolution
from bptcnn.inner.step_settings import StepSettings
from bptcnn.kernels.unit import COLUMNS
from bptcnn.networks import BatchNorm, Conv2D, Dense, DepthwiseConv2D, GlobalAveragePool2D, Network


@st.composite
def separable_networks(draw: st.DrawFn) -> Network:
    """Draw networks of a depthwise and a pointwise convolution, each before a batch normalisation."""
    channels = st.integers(1, 2).map(lambda panels: panels * COLUMNS)
    activations, flags = st.sampled_from([None, "relu"]), st.booleans()
    kernel, stride, dilation = draw(st.sampled_from([(3, 1, 1), (3, 2, 1), (1, 1, 1), (2, 3, 1), (3, 1, 2)]))
    layers = [
        Conv2D(draw(channels), 1),
        DepthwiseConv2D(kernel, strides=stride, bias=draw(flags), dilation=dilation),
        BatchNorm(activation=draw(activations)),
        Conv2D(draw(channels), 1, bias=draw(flags)),
        BatchNorm(activation=draw(activations)),
        GlobalAveragePool2D(),
        Dense(5),
    ]
    return Network((draw(st.integers(1, 17)), draw(st.integers(1, 17)), 2), layers)


@given(network=separable_networks(), images=st.integers(2, 12), spare=st.integers(0, 9), seed=SEEDS)
def test_both_kinds(executor: Executor, network: Network, images: int, spare: int, seed: int) -> None:
    lowered = lower(network, training=True)
    plan = Plan(lowered, images + spare, 1, True, StepSettings.create())
    _, depthwise, _, pointwise, *_ = lowered.operations
    assert isinstance(depthwise, Depthwise)
    assert isinstance(pointwise, PointwiseConvolution)
    assert plan.to_turn(depthwise.output)
    assert plan.to_turn(pointwise.output)
    case = Case.draw(network, images, seed)
    assume(case.decides_clearly())
    result, gradient = case.stepped(executor, images + spare)
    loss, expected = reference.loss_and_gradient(network, case.weights, case.samples, case.labels)
    assert abs(result.loss - loss) <= 1e-4 * max(1.0, abs(loss))
    assert np.linalg.norm(gradient - expected) <= 3e-4 * np.linalg.norm(expected)
