"""Convolutions that compute the gradient behind a batch normalisation while loading it, against the reference."""

import numpy as np
import reference
from hypothesis import assume, given
from hypothesis import strategies as st
from kernels.stepping import SEEDS, Case

from bptcnn.inner.depthwise import Depthwise
from bptcnn.inner.executor import Executor
from bptcnn.inner.lowering import lower
from bptcnn.inner.normalisation import Normalisation
from bptcnn.inner.plan import Plan
from bptcnn.inner.pointwise import PointwiseConvolution
from bptcnn.inner.step_settings import StepSettings
from bptcnn.kernels.unit import COLUMNS
from bptcnn.networks import BatchNorm, Conv2D, Dense, DepthwiseConv2D, GlobalAveragePool2D, Network, Residual


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


def check(case: Case, executor: Executor, batch: int) -> None:
    """Compare loss and gradient with the reference's."""
    result, gradient = case.stepped(executor, batch)
    loss, expected = reference.loss_and_gradient(case.network, case.weights, case.samples, case.labels)
    assert abs(result.loss - loss) <= 1e-4 * max(1.0, abs(loss))
    assert np.linalg.norm(gradient - expected) <= 3e-4 * np.linalg.norm(expected)


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
    check(case, executor, images + spare)


@st.composite
def bottleneck_networks(draw: st.DrawFn) -> Network:
    """Draw networks of two residual blocks whose last convolution is a pointwise one; the first may be projected."""
    inner, outer = COLUMNS, draw(st.integers(1, 2)) * COLUMNS
    stride, before = draw(st.sampled_from([1, 2])), draw(st.sampled_from([outer, 3]))

    def block(stride: int, projected: bool) -> Residual:
        main = [Conv2D(inner, 1, bias=False), BatchNorm(activation="relu")]
        main += [Conv2D(inner, 3, strides=stride, bias=False), BatchNorm(activation="relu")]
        main += [Conv2D(outer, 1, bias=False), BatchNorm()]
        shortcut = [Conv2D(outer, 1, strides=stride, bias=False), BatchNorm()] if projected else []
        return Residual(main, shortcut, activation=draw(st.sampled_from([None, "relu"])))

    layers = [Conv2D(before, 1), block(stride, stride > 1 or before != outer), block(1, False)]
    return Network((draw(st.integers(1, 9)), draw(st.integers(1, 9)), 2), [*layers, GlobalAveragePool2D(), Dense(5)])


@given(network=bottleneck_networks(), images=st.integers(2, 12), spare=st.integers(0, 9), seed=SEEDS)
def test_before_an_addition(executor: Executor, network: Network, images: int, spare: int, seed: int) -> None:
    """The shortcut takes the same gradient, and adds to it later: nobody writes the convolution's."""
    lowered = lower(network, training=True)
    plan = Plan(lowered, images + spare, 1, True, StepSettings.create())
    added = [op for op in lowered.operations if isinstance(op, Normalisation) and len(op.inputs) == 2]
    assert len(added) == 2
    assert plan.turned_by_producer(added[-1])
    assert plan.in_place(added[-1], 1)
    case = Case.draw(network, images, seed)
    assume(case.decides_clearly())
    check(case, executor, images + spare)
