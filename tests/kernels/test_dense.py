"""Dense layers of any size, alone and stacked, with and without rectifier and bias."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from stepping import SEEDS, Case, check_step

from bptcnn.inner.executor import Executor
from bptcnn.networks import Dense, Flatten, Layer, Network


@given(
    inputs=st.one_of(st.integers(1, 60), st.integers(500, 1100)),
    hidden=st.integers(1, 80),
    outputs=st.integers(2, 40),
    biases=st.tuples(st.booleans(), st.booleans()),
    images=st.integers(1, 40),
    spare=st.integers(0, 20),
    seed=SEEDS,
)
def test_linear_layers(
    executor: Executor,
    inputs: int,
    hidden: int,
    outputs: int,
    biases: tuple[bool, bool],
    images: int,
    spare: int,
    seed: int,
) -> None:
    layers: list[Layer] = [Flatten(), Dense(hidden, bias=biases[0]), Dense(outputs, bias=biases[1])]
    check_step(Case.draw(Network((1, 1, inputs), layers), images, seed), executor, images + spare)


@given(
    shape=st.sampled_from([(2, 3, 4), (3, 20, 18), (1, 1, 513), (1, 1, 1)]),
    hidden=st.lists(st.integers(1, 50), min_size=1, max_size=3),
    images=st.integers(1, 20),
    seed=SEEDS,
)
def test_rectifiers(executor: Executor, shape: tuple[int, int, int], hidden: list[int], images: int, seed: int) -> None:
    layers: list[Layer] = [Flatten(), *[Dense(units, "relu") for units in hidden], Dense(5)]
    case = Case.draw(Network(shape, layers), images, seed)
    assume(case.decides_clearly())
    check_step(case, executor, images)


@pytest.mark.parametrize(("inputs", "outputs", "images"), [(1, 1, 1), (512, 33, 1), (513, 64, 65), (3000, 129, 64)])
def test_corner_sizes(executor: Executor, inputs: int, outputs: int, images: int) -> None:
    case = Case.draw(Network((1, inputs, 1), [Flatten(), Dense(outputs), Dense(3)]), images, 7)
    check_step(case, executor, images)


def test_a_rectifier_that_is_exactly_zero_passes_no_gradient(executor: Executor) -> None:
    network = Network((1, 1, 3), [Flatten(), Dense(4, "relu"), Dense(2)])
    case = Case.draw(network, 2, 0)
    case.weights[:16] = 0
    _, gradient = case.stepped(executor, 2)
    assert not gradient[:16].any()
    check_step(case, executor, 2)
    assert np.isfinite(gradient).all()
