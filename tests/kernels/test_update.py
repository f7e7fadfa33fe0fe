"""SGD with momentum and weight decay, as PyTorch defines it: v = m v + (g + d w), w -= lr v; against numpy."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stepping import SEEDS, Case

from bptcnn.inner.executor import Executor
from bptcnn.inner.subnetwork import Subnetwork
from bptcnn.networks import Conv2D, Dense, Flatten, Layer, MaxPool2D, Network, cnn2

FloatArray = npt.NDArray[np.float32]
DoubleArray = npt.NDArray[np.float64]
LAYERS: list[Layer] = [Conv2D(19, 3, activation="relu"), MaxPool2D(2), Conv2D(7, 2), Flatten(), Dense(40), Dense(5)]
NETWORK = Network((9, 9, 2), LAYERS)


def assert_rounded(actual: FloatArray, terms: list[DoubleArray], also: DoubleArray | float = 0.0) -> None:
    """Allow each element some float32 roundings of the numbers that it was summed up from (`also`: theirs in turn)."""
    allowed = 4 * np.finfo(np.float32).eps * (np.abs(terms).sum(0) + also)
    wrong = np.flatnonzero(~(np.abs(actual - np.sum(terms, axis=0)) <= allowed))
    assert not wrong.size, f"elements {wrong}: {actual[wrong]}, expected {np.sum(terms, axis=0)[wrong]}"


@given(
    settings=st.lists(
        st.tuples(
            st.sampled_from([0.0, 1e-3, 0.05]), st.sampled_from([0.0, 0.5, 0.9]), st.sampled_from([0.0, 1e-4, 0.1])
        ),
        min_size=1,
        max_size=6,
    ),
    seed=SEEDS,
)
def test_several_steps_follow_the_numpy_model(
    executor: Executor, settings: list[tuple[float, float, float]], seed: int
) -> None:
    subnetwork = Subnetwork(NETWORK, 6, executor, keeps_gradient=True)
    case = Case.draw(NETWORK, 6, seed)
    subnetwork.weights[:] = case.weights
    for rate, momentum, decay in settings:
        weights, velocity = subnetwork.weights.astype(np.float64), subnetwork.velocity.astype(np.float64)
        subnetwork.step(case.samples, case.labels, rate=rate, momentum=momentum, decay=decay)
        terms = [momentum * velocity, subnetwork.gradient.astype(np.float64), decay * weights]
        assert_rounded(subnetwork.velocity, terms)
        assert_rounded(subnetwork.weights, [weights, -rate * np.sum(terms, axis=0)], rate * np.abs(terms).sum(0))


def test_the_gradient_is_that_of_the_weights_before_the_update(executor: Executor) -> None:
    case = Case.draw(NETWORK, 6, 1)
    _, expected = case.stepped(executor, 6)
    subnetwork = Subnetwork(NETWORK, 6, executor, keeps_gradient=True)
    subnetwork.weights[:] = case.weights
    subnetwork.step(case.samples, case.labels, rate=0.5, momentum=0.9, decay=0.1)
    np.testing.assert_array_equal(subnetwork.gradient, expected)
    assert not np.array_equal(subnetwork.weights, case.weights)


def test_an_update_is_the_same_whether_the_gradient_is_kept_or_not(executor: Executor) -> None:
    case = Case.draw(NETWORK, 6, 4)
    found = []
    for keep in (True, False):
        subnetwork = Subnetwork(NETWORK, 6, executor, keeps_gradient=keep)
        subnetwork.weights[:] = case.weights
        for _ in range(3):
            subnetwork.step(case.samples, case.labels, rate=0.5, momentum=0.9, decay=0.1)
        found.append((subnetwork.weights.tobytes(), subnetwork.velocity.tobytes()))
    assert found[0] == found[1]


def test_every_weight_of_a_large_network_is_updated_once(executor: Executor) -> None:
    network = cnn2()
    case = Case.draw(network, 5, 2)
    subnetwork = Subnetwork(network, 8, executor, keeps_gradient=True)
    subnetwork.weights[:] = case.weights
    subnetwork.step(case.samples, case.labels, rate=1.0, decay=0.25)
    np.testing.assert_allclose(
        subnetwork.weights, 0.75 * case.weights.astype(np.float64) - subnetwork.gradient, rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_without_a_rate_nothing_is_updated(executor: Executor, momentum: float) -> None:
    case = Case.draw(NETWORK, 6, 3)
    subnetwork = Subnetwork(NETWORK, 6, executor)
    subnetwork.weights[:] = case.weights
    subnetwork.velocity[:] = 0.5
    subnetwork.step(case.samples, case.labels, momentum=momentum, decay=0.1)
    subnetwork.forward(case.samples)
    np.testing.assert_array_equal(subnetwork.weights, case.weights)
    assert (subnetwork.velocity == 0.5).all()


def test_a_new_subnetwork_has_no_velocity_and_no_weights_yet(executor: Executor) -> None:
    subnetwork = Subnetwork(NETWORK, 6, executor)
    assert not subnetwork.velocity.any()
    assert not subnetwork.weights.any()
