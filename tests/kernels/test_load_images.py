"""Samples: bytes are value / 255, `order` picks them, and batches may be partly filled."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from stepping import SEEDS, assert_close

from bptcnn.inner.executor import Executor
from bptcnn.inner.subnetwork import Subnetwork
from bptcnn.networks import Conv2D, Dense, Flatten, Network

NETWORK = Network((5, 7, 3), [Conv2D(6, 3, padding=((2, 0), (1, 3))), Flatten(), Dense(4)])


def passing(height: int, width: int, channels: int, executor: Executor) -> Subnetwork:
    """Return a network that puts out what it was given: a 1x1 convolution with the identity."""
    network = Network((height, width, channels), [Conv2D(channels, 1, bias=False), Flatten()])
    subnetwork = Subnetwork(network, 3, executor, training=False)
    subnetwork.weights[:] = np.eye(channels, dtype=np.float32).ravel()
    return subnetwork


@given(height=st.integers(1, 9), width=st.integers(1, 9), channels=st.integers(1, 20), images=st.integers(1, 3))
@example(height=32, width=32, channels=2, images=3)  # two fit into what is fetched at a time
@example(height=71, width=72, channels=4, images=3)  # not even one
def test_images_arrive_where_they_belong(
    executor: Executor, height: int, width: int, channels: int, images: int
) -> None:
    samples = np.arange(images * height * width * channels, dtype=np.float32).reshape(images, height, width, channels)
    logits = passing(height, width, channels, executor).forward(samples)
    np.testing.assert_array_equal(logits, samples.reshape(images, -1))


def test_all_256_bytes(executor: Executor) -> None:
    samples = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    logits = passing(16, 16, 1, executor).forward(samples)
    np.testing.assert_allclose(logits[0], np.arange(256) / 255, rtol=2e-7)
    assert logits[0, 0] == 0
    assert logits[0, 255] == 1


@given(images=st.integers(1, 6), seed=SEEDS)
def test_bytes_train_as_their_fractions(executor: Executor, images: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    small = random.integers(0, 256, (images, *NETWORK.input_shape), np.uint8)
    labels = random.integers(0, 4, images, np.int32)
    subnetwork = Subnetwork(NETWORK, 6, executor, keeps_gradient=True)
    subnetwork.weights[:] = NETWORK.initial_weights(seed)
    from_bytes, gradient = subnetwork.step(small, labels), subnetwork.gradient.copy()
    from_floats = subnetwork.step((small / 255).astype(np.float32), labels)
    assert from_bytes.correct == from_floats.correct
    assert abs(from_bytes.loss - from_floats.loss) < 1e-5
    assert_close("gradient", gradient, subnetwork.gradient, 1e-5)


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
@given(order=st.lists(st.integers(0, 9), min_size=1, max_size=6), seed=SEEDS)
def test_order_picks_samples_and_labels(executor: Executor, kind: type, order: list[int], seed: int) -> None:
    random = np.random.default_rng(seed)
    samples: npt.NDArray[Any] = random.integers(0, 256, (10, *NETWORK.input_shape)).astype(kind)
    labels = random.integers(0, 4, 10, np.int32)
    picks = np.array(order, np.int32)
    subnetwork = Subnetwork(NETWORK, 6, executor, keeps_gradient=True)
    subnetwork.weights[:] = NETWORK.initial_weights(seed)
    picked, gradient = subnetwork.step(samples, labels, picks), subnetwork.gradient.copy()
    plain = subnetwork.step(samples[picks].copy(), labels[picks].copy())
    assert picked == plain
    assert picked.images == len(order)
    assert gradient.tobytes() == subnetwork.gradient.tobytes()


@pytest.mark.parametrize("images", [0, 7])
def test_an_empty_or_too_large_batch_is_an_error_of_the_caller(executor: Executor, images: int) -> None:
    subnetwork = Subnetwork(NETWORK, 6, executor)
    samples, labels = np.zeros((images, *NETWORK.input_shape), np.float32), np.zeros(images, np.int32)
    with pytest.raises(ValueError, match="1 to 6"):
        subnetwork.step(samples, labels)
    with pytest.raises(ValueError, match="1 to 6"):
        subnetwork.step(np.zeros((9, 5, 7, 3), np.float32), np.zeros(9, np.int32), np.zeros(images, np.int32))
