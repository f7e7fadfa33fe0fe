"""Tunings: whatever they choose computes the same step, and on any number of threads the same bits."""

from typing import get_args

import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from kernels.stepping import SEEDS, Case

from bptcnn.inner.executor import Executor
from bptcnn.inner.lowering import Lowered, lower
from bptcnn.inner.small_images import SmallImagesConvolution
from bptcnn.inner.subnetwork import Subnetwork
from bptcnn.inner.tuning import BY_RULE, Algorithm, Choice, TasksOver, Tuning
from bptcnn.inner.winograd import WinogradConvolution
from bptcnn.networks import ZOO, AveragePool2D, Conv2D, Dense, Flatten, MaxPool2D, Network, Residual

TOLERANCE = 1e-3  # of Winograd's arithmetic
FEW = settings(max_examples=max(5, settings().max_examples // 4))
OVER = get_args(TasksOver)
ALGORITHMS = {
    "direct": "Convolution",
    "winograd 2": "WinogradConvolution",
    "winograd 4": "WinogradConvolution",
    "winograd 5": "WinogradConvolution",
    "small images": "SmallImagesConvolution",
    "gathered": "GatheredConvolution",
    "pointwise": "PointwiseConvolution",
}


@st.composite
def smooth_networks(draw: st.DrawFn) -> Network:
    """Draw networks in which no choice can flip, whose convolutions have several algorithms."""
    height, width = draw(st.integers(3, 9)), draw(st.integers(3, 9))
    channels = st.sampled_from([16, 17, 40, 64, 70])
    activations = st.sampled_from([None, "gelu"])
    first, second = draw(channels), draw(channels)
    inside = Conv2D(first, 3, activation=draw(activations), bias=draw(st.booleans()))
    padding = draw(st.sampled_from(["same", ((1, 1), (1, 1)), ((2, 0), (0, 1))]))
    layers = [
        Conv2D(first, draw(st.sampled_from([1, 3]))),
        Residual([inside], activation=draw(activations)),
        Conv2D(64, 1, activation=draw(activations)),
        Conv2D(second, 3, padding=padding, activation=draw(activations)),
        AveragePool2D(2),
        Flatten(),
        Dense(5),
    ]
    return Network((height, width, 2), layers)


@st.composite
def tunings(draw: st.DrawFn, network: Network, batch: int) -> Tuning:
    """Draw any tuning of a network at a batch size."""
    decisions = {d.choice.shape: d for d in lower(network, training=True, batch=batch).decisions}
    choices = [
        Choice(shape, draw(st.sampled_from(d.algorithms)), draw(st.integers(0, 9)), draw(st.sampled_from(OVER)))
        for shape, d in decisions.items()
        if draw(st.booleans())
    ]
    return Tuning(draw(st.integers(1, 40)), tuple(choices))


def kinds(lowered: Lowered) -> dict[str, str]:
    return {op.name: type(op).__name__ for op in lowered.operations}


@FEW
@given(data=st.data(), network=smooth_networks(), images=st.integers(1, 7), spare=st.integers(0, 20), seed=SEEDS)
def test_any_tuning_computes_the_step(
    executor: Executor, data: st.DataObject, network: Network, images: int, spare: int, seed: int
) -> None:
    tuning = data.draw(tunings(network, images + spare))
    lowered = lower(network, training=True, tuning=tuning, batch=images + spare)
    for decision in lowered.decisions:
        assert kinds(lowered)[decision.layers[0]] == ALGORITHMS[decision.choice.algorithm]
    case = Case.draw(network, images, seed)
    subnetwork = Subnetwork(network, images + spare, executor, tuning=tuning, keeps_gradient=True)
    subnetwork.weights[:] = case.weights
    result = subnetwork.step(case.samples, case.labels)
    loss, expected = reference.loss_and_gradient(network, case.weights, case.samples, case.labels)
    assert abs(result.loss - loss) <= TOLERANCE * max(1.0, abs(loss))
    for p in network.parameters:
        part = slice(p.offset, p.offset + p.size)
        error = np.linalg.norm(subnetwork.gradient[part] - expected[part])
        assert error <= TOLERANCE * max(float(np.linalg.norm(expected[part])), 1e-3 * float(np.linalg.norm(expected)))


def test_pooling_leaves_an_algorithm_that_cannot_take_it_along(executor: Executor) -> None:
    layers = [Conv2D(64, 1), Conv2D(64, 3, activation="relu"), MaxPool2D(2), Flatten(), Dense(5)]
    network = Network((6, 8, 3), layers)
    _, decision = lower(network, training=True).decisions
    assert (decision.layers, decision.choice.algorithm) == (("conv2", "pool1"), "winograd 4")
    found = {}
    case = Case.draw(network, 6, 0)
    for algorithm in decision.algorithms:
        tuning = Tuning(choices=(Choice(decision.choice.shape, algorithm),))
        lowered = lower(network, training=True, tuning=tuning)
        assert ("pool1" in kinds(lowered)) == (algorithm == "small images")
        subnetwork = Subnetwork(network, 6, executor, tuning=tuning, keeps_gradient=True)
        subnetwork.weights[:] = case.weights
        subnetwork.step(case.samples, case.labels)
        found[algorithm] = subnetwork.gradient.copy()
    assert set(found) == set(ALGORITHMS) - {"gathered", "pointwise"}  # for fewer images; 1x1
    for gradient in found.values():  # choices may flip where two numbers nearly tie
        assert np.linalg.norm(gradient - found["direct"]) <= 1e-2 * np.linalg.norm(found["direct"])


def test_choices_that_do_not_fit_do_not_count() -> None:
    network = Network((12, 12, 3), [Conv2D(8, 3), Conv2D(64, 3, strides=2), Flatten(), Dense(5)])
    by_rule = lower(network, training=True)
    for algorithm in ("winograd 4", "small images"):
        choices = tuple(Choice(d.choice.shape, algorithm) for d in by_rule.decisions)  # type: ignore[arg-type]
        assert kinds(lower(network, training=True, tuning=Tuning(choices=choices))) == kinds(by_rule)
    elsewhere = Tuning(choices=(Choice("another shape", "winograd 4"),))
    assert lower(network, training=True, tuning=elsewhere).decisions == by_rule.decisions
    assert lower(network, training=True, tuning=BY_RULE) == by_rule


def test_layers_of_one_shape_share_a_choice() -> None:
    network = Network((12, 12, 3), [Conv2D(32, 1), Conv2D(32, 3), Conv2D(32, 3), Conv2D(40, 3), Flatten(), Dense(5)])
    decisions = lower(network, training=True).decisions
    assert decisions[1].choice == decisions[2].choice != decisions[3].choice
    tuning = Tuning(choices=(Choice(decisions[1].choice.shape, "winograd 2", 3),))
    tuned = lower(network, training=True, tuning=tuning)
    tiles = [op.tile for op in tuned.operations if isinstance(op, WinogradConvolution)]
    assert tiles == [2, 2, 4]


@pytest.mark.parametrize(
    ("over", "over_channels"),
    [("images", set()), ("channels by filter", {"by filter"}), ("channels", {"by filter", "by input"})],
)
def test_a_tuning_says_what_winograds_tasks_go_over(
    executor: Executor, over: TasksOver, over_channels: set[str]
) -> None:
    """Whatever the rule says."""
    network = Network((9, 9, 3), [Conv2D(64, 1), Conv2D(70, 3, activation="relu"), Flatten(), Dense(5)])
    _, decision = lower(network, training=True).decisions
    tuning = Tuning(choices=(Choice(decision.choice.shape, "winograd 4", over=over),))
    subnetwork = Subnetwork(network, 6, executor, tuning=tuning, keeps_gradient=True)
    labels = {task.label.removeprefix("conv2 ") for task in subnetwork.graph.tasks}
    assert labels & {"by filter", "by input"} == over_channels
    case = Case.draw(network, 6, 0)
    subnetwork.weights[:] = case.weights
    subnetwork.step(case.samples, case.labels)
    _, expected = case.stepped(executor, 6)
    assert np.linalg.norm(subnetwork.gradient - expected) <= TOLERANCE * np.linalg.norm(expected)


@pytest.mark.parametrize(
    ("algorithm", "over"),
    [("direct", "rule"), ("winograd 2", "rule"), ("winograd 5", "channels"), ("small images", "rule")],
)
def test_a_tuning_gives_the_same_bits_on_any_number_of_threads(algorithm: Algorithm, over: TasksOver) -> None:
    network = ZOO["resnet18"]((16, 16, 3), 10)
    decisions = lower(network, training=True).decisions
    tuning = Tuning(7, tuple(Choice(d.choice.shape, algorithm, 5, over) for d in decisions))
    if algorithm == "small images":
        operations = lower(network, training=True, tuning=tuning).operations
        assert sum(isinstance(op, SmallImagesConvolution) for op in operations) > 10
    case = Case.draw(network, 17, 0)
    found = []
    for threads in (1, 3, 2):
        executor = Executor(threads)
        try:
            subnetwork = Subnetwork(network, 17, executor, tuning=tuning)
            subnetwork.weights[:] = case.weights
            for _ in range(2):
                subnetwork.step(case.samples, case.labels, None, 0.01, 0.9, 1e-4)
            found.append(subnetwork.weights.tobytes())
        finally:
            executor.close()
    assert found[1:] == found[:1] * 2
    assert np.isfinite(np.frombuffer(found[0], np.float32)).all()
