"""Whole networks: loss and gradient within 1e-4 (relative norm) of the float64 reference, for any number of images."""

import numpy as np
import pytest
import reference
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from kernels.stepping import SEEDS, Case
from networks.drawn import networks

from bptcnn.inner.executor import Executor
from bptcnn.inner.subnetwork import Subnetwork
from bptcnn.networks import ZOO, Network

TOLERANCE = 1e-4

MANY = settings(max_examples=4 * settings().max_examples)


def check(case: Case, executor: Executor, batch_size: int) -> None:
    """Compare a step with the reference; a NaN anywhere is wrong."""
    result, gradient = case.stepped(executor, batch_size)
    loss, expected = reference.loss_and_gradient(case.network, case.weights, case.samples, case.labels)
    logits, _ = reference.forward(case.network, case.weights, case.samples)
    error = np.linalg.norm(gradient - expected) / max(float(np.linalg.norm(expected)), 1e-30)
    if not error <= TOLERANCE:
        parts = {}
        for p in case.network.parameters:
            part = slice(p.offset, p.offset + p.size)
            parts[p.name] = np.linalg.norm(gradient[part] - expected[part]) / max(
                float(np.linalg.norm(expected[part])), 1e-30
            )
        pytest.fail(f"{case.network.layers} on {case.network.input_shape}: error {error}, by parameter {parts}")
    assert abs(result.loss - loss) <= TOLERANCE * max(1.0, abs(loss))
    top = np.sort(logits, axis=1)
    if np.all(top[:, -1] - top[:, -2:-1].max(1, initial=-np.inf) > 1e-4 * np.abs(logits).max()):
        assert result.correct == int((logits.argmax(1) == case.labels).sum())


@MANY
@given(network=networks(), images=st.integers(1, 8), spare=st.integers(0, 12), seed=SEEDS)
def test_random_networks(executor: Executor, network: Network, images: int, spare: int, seed: int) -> None:
    case = Case.draw(network, images, seed)
    assume(case.decides_clearly())
    check(case, executor, images + spare)


@pytest.mark.parametrize(("images", "batch_size"), [(1, 1), (1, 32), (5, 32), (31, 32), (17, 17)])
def test_partly_filled_batches(executor: Executor, images: int, batch_size: int) -> None:
    network = ZOO["lenet5"]((16, 16, 2), 10)
    for seed in range(50):
        case = Case.draw(network, images, seed)
        if case.decides_clearly():
            check(case, executor, batch_size)
            return
    pytest.fail("no case without near ties")


@pytest.mark.parametrize("name", ["cnn2", "lenet5"])
def test_the_zoo(executor: Executor, name: str) -> None:
    network = ZOO[name]((14, 12, 3), 10)
    for seed in range(50):
        case = Case.draw(network, 6, seed)
        if case.decides_clearly():
            check(case, executor, 8)
            return
    pytest.fail("no case without near ties")


def test_logits_do_not_depend_on_the_batch_they_are_in(executor: Executor) -> None:
    network = ZOO["lenet5"]((16, 16, 1), 10)
    case = Case.draw(network, 9, 0)
    expected, _ = reference.forward(network, case.weights, case.samples)
    for training in (True, False):
        subnetwork = Subnetwork(network, 9, executor, training=training)
        subnetwork.weights[:] = case.weights
        together = subnetwork.forward(case.samples)
        np.testing.assert_allclose(together, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
        for image in range(9):
            alone = subnetwork.forward(case.samples[image : image + 1])
            np.testing.assert_allclose(alone[0], together[image], rtol=1e-5, atol=1e-6)
        assert not np.shares_memory(together, subnetwork.forward(case.samples))


def test_a_step_of_training_lowers_the_loss(executor: Executor) -> None:
    case = Case.draw(ZOO["cnn2"]((12, 12, 1), 4), 16, 0)
    subnetwork = Subnetwork(case.network, 16, executor)
    subnetwork.weights[:] = case.weights
    losses = [subnetwork.step(case.samples, case.labels, rate=0.02, momentum=0.5).loss for _ in range(30)]
    assert losses[-1] < losses[0] / 4
