"""Softmax cross-entropy: the mean, the gradient by logits, huge logits, and labels that are no class."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stepping import SEEDS, Case, check_step

from bptcnn.errors import UserError
from bptcnn.inner.executor import Executor
from bptcnn.inner.subnetwork import Subnetwork
from bptcnn.networks import Dense, Flatten, Network


def identity(classes: int, batch: int, executor: Executor) -> Subnetwork:
    """Return a network whose logits are its input."""
    network = Network((1, 1, classes), [Flatten(), Dense(classes)])
    subnetwork = Subnetwork(network, batch, executor, keeps_gradient=True)
    subnetwork.weights[: classes * classes] = np.eye(classes, dtype=np.float32).ravel()
    return subnetwork


@given(classes=st.integers(1, 40), images=st.integers(1, 20), scale=st.sampled_from([0.01, 1.0, 30.0]), seed=SEEDS)
def test_loss_gradient_and_correct_predictions(
    executor: Executor, classes: int, images: int, scale: float, seed: int
) -> None:
    random = np.random.default_rng(seed)
    logits = (scale * random.standard_normal((images, classes))).astype(np.float32)
    labels = random.integers(0, classes, images, np.int32)
    subnetwork = identity(classes, images, executor)
    result = subnetwork.step(logits.reshape(images, 1, 1, classes), labels)
    assert result.correct == int((logits.argmax(1) == labels).sum())
    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
    p = np.exp(shifted) / np.exp(shifted).sum(1, keepdims=True)
    losses = np.log(np.exp(shifted).sum(1)) - shifted[np.arange(images), labels]
    assert abs(result.loss - losses.mean()) <= 1e-5 * max(1, losses.mean())
    p[np.arange(images), labels] -= 1
    bias_gradient = subnetwork.gradient[classes * classes :]
    np.testing.assert_allclose(bias_gradient, p.mean(0), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("size", [100.0, 1e4, 1e30, 3e38])
def test_huge_logits_do_not_overflow(executor: Executor, size: float) -> None:
    subnetwork = identity(3, 2, executor)
    logits = np.array([[size, 0, -1], [0, 1, -size]], np.float32).reshape(2, 1, 1, 3)
    right = subnetwork.step(logits, np.array([0, 1], np.int32))
    assert right.correct == 2
    assert abs(right.loss - np.log(1 + np.exp(-1)) / 2) < 1e-5
    assert np.isfinite(subnetwork.gradient).all()
    wrong = subnetwork.step(logits, np.array([1, 1], np.int32))
    assert wrong.correct == 1
    assert abs(wrong.loss / (size / 2) - 1) < 1e-2


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_logit_that_is_no_number_is_no_success(executor: Executor, value: float) -> None:
    subnetwork = identity(3, 2, executor)
    logits = np.array([[0, value, 1], [3, 0, 0]], np.float32).reshape(2, 1, 1, 3)
    assert np.isnan(subnetwork.step(logits, np.array([0, 0], np.int32)).loss)


@pytest.mark.parametrize("wrong", [-1, 3, 255, 2**31 - 1, -(2**31)])
@pytest.mark.parametrize("place", [0, 4])
def test_a_label_that_is_no_class_is_refused(executor: Executor, wrong: int, place: int) -> None:
    subnetwork = identity(3, 5, executor)
    subnetwork.velocity[:] = 0.5
    weights, velocity = subnetwork.weights.copy(), subnetwork.velocity.copy()
    labels = np.zeros(5, np.int32)
    labels[place] = wrong
    samples = np.ones((5, 1, 1, 3), np.float32)
    with pytest.raises(UserError, match="label") as caught:
        subnetwork.step(samples, labels, rate=0.1)
    assert "\n" not in str(caught.value)
    assert "0 to 2" in str(caught.value)
    np.testing.assert_array_equal(subnetwork.weights, weights)
    np.testing.assert_array_equal(subnetwork.velocity, velocity)
    labels[place] = 2
    assert np.isfinite(subnetwork.step(samples, labels, rate=0.1).loss), "the next step works"


def test_wrong_labels_outside_the_batch_do_not_matter(executor: Executor) -> None:
    subnetwork = identity(3, 5, executor)
    samples, labels = np.ones((4, 1, 1, 3), np.float32), np.array([0, 99, 2, -7], np.int32)
    assert np.isfinite(subnetwork.step(samples, labels, np.array([2, 0, 2], np.int32)).loss)


def test_more_classes_than_a_tile_has_columns(executor: Executor) -> None:
    check_step(Case.draw(Network((2, 2, 3), [Flatten(), Dense(1000)]), 9, 1), executor, 9)


@pytest.mark.parametrize("margin", [5.0, 10.0, 20.0])
def test_a_confident_prediction_keeps_the_digits_of_its_small_gradient(executor: Executor, margin: float) -> None:
    """p - 1 cancels where p is near 1: it has to be subtracted before it is rounded to float32."""
    subnetwork = identity(3, 1, executor)
    subnetwork.step(np.array([margin, 0, 0], np.float32).reshape(1, 1, 1, 3), np.array([0], np.int32))
    rest = np.exp(-margin) / (1 + 2 * np.exp(-margin))
    np.testing.assert_allclose(subnetwork.gradient[9:], [-2 * rest, rest, rest], rtol=1e-5)
