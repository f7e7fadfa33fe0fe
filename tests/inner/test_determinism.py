"""A run repeats bit for bit, on any number of threads."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from networks.drawn import networks

from bptcnn.inner.executor import Executor
from bptcnn.inner.subnetwork import Subnetwork
from bptcnn.networks import ZOO, Network


def trained(
    network: Network, batch_size: int, threads: int, seed: int, steps: int, keeps_gradient: bool = True
) -> tuple[bytes, bytes, list[float]]:
    """Return weights with velocity, gradient and losses after some steps on random batches, the last ones not full."""
    random = np.random.default_rng(seed)
    executor = Executor(threads)
    subnetwork = Subnetwork(network, batch_size, executor, keeps_gradient=keeps_gradient)
    subnetwork.weights[:] = network.initial_weights(seed)
    samples = random.random((2 * batch_size, *network.input_shape), np.float32)
    labels = random.integers(0, network.classes, 2 * batch_size, np.int32)
    losses = []
    for step in range(steps):
        order = random.permutation(2 * batch_size)[: max(1, batch_size - step)].astype(np.int32)
        losses.append(subnetwork.step(samples, labels, order, rate=0.01, momentum=0.9, decay=1e-3).loss)
    executor.close()
    return subnetwork.weights.tobytes() + subnetwork.velocity.tobytes(), subnetwork.gradient.tobytes(), losses


@given(network=networks(), batch_size=st.integers(1, 24), seed=st.integers(0, 2**32 - 1))
def test_random_networks_on_one_to_four_threads(network: Network, batch_size: int, seed: int) -> None:
    expected, gradient, expected_losses = trained(network, batch_size, 1, seed, 3)
    for threads in (2, 3, 4):
        keeps_gradient = threads < 4
        state, kept, losses = trained(network, batch_size, threads, seed, 3, keeps_gradient)
        assert state == expected, f"{threads} threads"
        assert kept == (gradient if keeps_gradient else b"")
        np.testing.assert_array_equal(losses, expected_losses)


@pytest.mark.parametrize("name", ["cnn2", "lenet5"])
def test_the_zoo_on_one_to_four_threads(name: str) -> None:
    network = ZOO[name]((20, 20, 1), 10)
    runs = [trained(network, 33, threads, 5, 6) for threads in (1, 2, 3, 4, 1)]
    assert all(np.isfinite(losses).all() for *_, losses in runs)
    assert all(run == runs[0] for run in runs[1:])


def test_another_seed_gives_another_run() -> None:
    network = ZOO["lenet5"]((16, 16, 1), 10)
    assert trained(network, 8, 2, 1, 2) != trained(network, 8, 2, 2, 2)
