"""A step's algorithms for convolutions agree: Winograd's with the reference, on any number of threads alike."""

import numpy as np
import pytest
import reference
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from kernels.stepping import SEEDS, Case

from bptcnn.inner.executor import Executor
from bptcnn.inner.lowering import lower
from bptcnn.inner.pointwise import PointwiseConvolution
from bptcnn.inner.subnetwork import Subnetwork
from bptcnn.inner.winograd import WinogradConvolution
from bptcnn.kernels.unit import COLUMNS
from bptcnn.networks import (
    ZOO,
    AveragePool2D,
    BatchNorm,
    Conv2D,
    Dense,
    Flatten,
    GlobalAveragePool2D,
    MaxPool2D,
    Network,
    Residual,
)

TOLERANCE = 1e-3  # of Winograd's arithmetic
FEW = settings(max_examples=max(5, settings().max_examples // 4))


@st.composite
def smooth_networks(draw: st.DrawFn) -> Network:
    """Draw networks in which no choice can flip, of 3x3 convolutions wide enough for Winograd's algorithm."""
    height, width = draw(st.integers(4, 13)), draw(st.integers(4, 13))
    channels = st.one_of(st.integers(32, 70), st.integers(130, 260))  # with many, tasks go over channels
    activations = st.sampled_from([None, "gelu"])
    first, second = draw(channels), draw(channels)
    pads = draw(st.sampled_from(["same", "valid", ((1, 1), (1, 1)), ((2, 0), (0, 1))]))
    inside = Conv2D(first, 3, activation=draw(activations), bias=draw(st.booleans()))
    layers = [
        Conv2D(first, 1),
        Residual([inside], activation=draw(activations)),
        Conv2D(second, 3, padding=pads if min(height, width) > 6 else "same", activation=draw(activations)),
        AveragePool2D(2),
        Flatten(),
        Dense(5),
    ]
    return Network((height, width, 2), layers)


@FEW
@given(network=smooth_networks(), images=st.integers(1, 7), spare=st.integers(0, 20), seed=SEEDS)
def test_winograd_in_steps(executor: Executor, network: Network, images: int, spare: int, seed: int) -> None:
    assume(any(isinstance(op, WinogradConvolution) for op in lower(network, training=True).operations))
    check_step(executor, network, images, spare, seed)


@pytest.mark.parametrize(
    ("side", "channels", "over_channels"),
    [
        (13, 64, set()),
        (9, 130, {"by filter"}),
        (5, 260, {"by filter", "by input"}),
        (4, 190, {"by filter", "by input"}),
    ],
)
def test_tasks_over_images_and_channels(executor: Executor, side: int, channels: int, over_channels: set[str]) -> None:
    """Each way to divide a layer, whose gradient by input is added to that of the shortcut."""
    inside = Conv2D(channels, 3, activation="gelu")
    layers = [Conv2D(channels, 1), Residual([inside]), AveragePool2D(2), Flatten(), Dense(5)]
    network = Network((side, side, 2), layers)
    subnetwork = Subnetwork(network, 24, executor)
    (name,) = (op.name for op in lower(network, True).operations if isinstance(op, WinogradConvolution))
    labels = {task.label.removeprefix(f"{name} ") for task in subnetwork.graph.tasks}
    assert labels & {"by filter", "by input"} == over_channels
    check_step(executor, network, 19, 5, 0)


@pytest.mark.parametrize(
    ("side", "channels", "tile"),
    [(4, 32, 0), (4, 256, 4), (5, 32, 5), (8, 32, 4), (10, 64, 5), (14, 32, 5), (16, 64, 4), (20, 64, 5), (28, 64, 4)],
)
def test_tiles_are_those_with_the_least_work(side: int, channels: int, tile: int) -> None:
    """A layer of 5x5 tiles has 49 products in each, one of 4x4 tiles 36, also in what reaches over the edges."""
    network = Network((side, side, 2), [Conv2D(channels, 1), Conv2D(channels, 3), Flatten(), Dense(5)])
    found = [op.tile for op in lower(network, training=True).operations if isinstance(op, WinogradConvolution)]
    assert found == ([tile] if tile else [])


@pytest.mark.parametrize(("side", "batch", "parts"), [(13, 64, 8), (13, 32, 8), (28, 64, 16), (13, 6, 6)])
def test_partial_sums_are_of_a_few_tiles(executor: Executor, side: int, batch: int, parts: int) -> None:
    """At least 128 where that leaves eight sums, and at most one for each of the 16 ranges of images."""
    layers = [Conv2D(32, 1), Conv2D(40, 3), AveragePool2D(side), Flatten(), Dense(5)]
    network = Network((side, side, 2), layers)
    subnetwork = Subnetwork(network, batch, executor)
    assert sum(task.label == "conv2 backward" for task in subnetwork.graph.tasks) == parts
    check_step(executor, network, batch - 1, 1, 0)


def check_step(executor: Executor, network: Network, images: int, spare: int, seed: int) -> None:
    """Compare loss and gradient of a batch that leaves `spare` places empty with the reference."""
    case = Case.draw(network, images, seed)
    result, gradient = case.stepped(executor, images + spare, direct=False)
    loss, expected = reference.loss_and_gradient(network, case.weights, case.samples, case.labels)
    assert abs(result.loss - loss) <= TOLERANCE * max(1.0, abs(loss))
    for p in network.parameters:
        part = slice(p.offset, p.offset + p.size)
        error = np.linalg.norm(gradient[part] - expected[part])
        assert error <= TOLERANCE * max(float(np.linalg.norm(expected[part])), 1e-3 * float(np.linalg.norm(expected)))


def test_pooling_rides_in_winograds_convolution(executor: Executor) -> None:
    """Choices may flip where two numbers nearly tie: almost all of the gradient agrees."""
    layers = [Conv2D(32, 1), Conv2D(40, 3, activation="relu"), MaxPool2D(2), Flatten(), Dense(5)]
    case = Case.draw(Network((9, 10, 3), layers), 6, 0)
    operations = lower(case.network, training=True).operations
    assert [type(op).__name__ for op in operations] == ["Convolution", "WinogradConvolution", "FullyConnected"]
    _, gradient = case.stepped(executor, 8, direct=False)
    _, expected = case.stepped(executor, 8)
    assert np.linalg.norm(gradient - expected) <= 1e-2 * np.linalg.norm(expected)


@pytest.mark.parametrize("name", ["vgg11", "resnet18", "mobilenet"])
def test_any_number_of_threads_gives_the_same_bits(name: str) -> None:
    network = ZOO[name]((16, 16, 3), 10)
    case = Case.draw(network, 17, 0)
    found = []
    for threads in (1, 3, 2):
        executor = Executor(threads)
        try:
            subnetwork = Subnetwork(network, 17, executor)
            subnetwork.weights[:] = case.weights
            for _ in range(2):
                subnetwork.step(case.samples, case.labels, None, 0.01, 0.9, 1e-4)
            found.append(subnetwork.weights.tobytes())
        finally:
            executor.close()
    assert found[1:] == found[:1] * 2
    assert np.isfinite(np.frombuffer(found[0], np.float32)).all()


@st.composite
def pointwise_networks(draw: st.DrawFn, least: int, most: int, activation: str) -> Network:
    """Draw networks of 1x1 convolutions of full panels: rectified, added to others' gradients, in front of a halo."""
    channels = st.integers(1, 3).map(lambda panels: panels * COLUMNS)
    first, second, third = draw(channels), draw(channels), draw(channels)
    activations, flags = st.sampled_from([None, activation]), st.booleans()
    inside = [Conv2D(second, 1, activation=draw(activations), bias=draw(flags)), Conv2D(first, 1, bias=draw(flags))]
    layers = [
        Conv2D(first, 1),
        Residual(inside, activation=draw(activations)),
        *([BatchNorm(activation=draw(activations))] if draw(flags) else []),
        Conv2D(third, 1, activation=draw(activations), bias=draw(flags)),
        *([Conv2D(5, 3, activation=draw(activations))] if draw(flags) else []),
        GlobalAveragePool2D(),
        Dense(5),
    ]
    return Network((draw(st.integers(least, most)), draw(st.integers(least, most)), 2), layers)


def check_pointwise(network: Network, executor: Executor, images: int, batch_size: int, seed: int) -> None:
    """Compare a step's gradient with the reference."""
    assert sum(isinstance(op, PointwiseConvolution) for op in lower(network, training=True).operations) == 3
    case = Case.draw(network, images, seed)
    assume(case.decides_clearly())
    result, gradient = case.stepped(executor, batch_size)
    loss, expected = reference.loss_and_gradient(network, case.weights, case.samples, case.labels)
    assert abs(result.loss - loss) <= 1e-4 * max(1.0, abs(loss))
    assert np.linalg.norm(gradient - expected) <= 3e-4 * np.linalg.norm(expected)


@given(network=pointwise_networks(1, 6, "relu"), images=st.integers(2, 30), spare=st.integers(0, 9), seed=SEEDS)
def test_pointwise_by_channels(executor: Executor, network: Network, images: int, spare: int, seed: int) -> None:
    check_pointwise(network, executor, images, images + spare, seed)


@FEW
@given(network=pointwise_networks(23, 25, "gelu"), images=st.integers(1, 3), spare=st.integers(0, 2), seed=SEEDS)
def test_pointwise_by_partial_sums(executor: Executor, network: Network, images: int, spare: int, seed: int) -> None:
    check_pointwise(network, executor, images, images + spare, seed)
