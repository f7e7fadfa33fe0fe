"""What dropout drops in steps: by seed, node and the step's number, whatever process, life or threads a step is in."""

import numpy as np
import numpy.typing as npt
import pytest

import bptcnn as bpt
from bptcnn.inner.executor import Executor
from bptcnn.inner.subnetwork import Subnetwork
from bptcnn.networks import Dense, Dropout, Flatten, Network

ELEMENTS = 256
BEHIND = Network((1, 1, ELEMENTS), [Flatten(), Dropout(0.5), Dense(2)])
TWICE = Network((1, 1, ELEMENTS), [Flatten(), Dropout(0.5), Dropout(0.5), Dense(2)])
Masks = npt.NDArray[np.bool_]


def masks(executor: Executor, steps: int, first: int = 0, network: Network = BEHIND, **drawing: int) -> Masks:
    """What is kept of one image in `steps` steps, read off a dense layer's gradient, (steps, ELEMENTS)."""
    images, labels = np.ones((1, 1, 1, ELEMENTS), np.float32), np.zeros(1, np.int32)
    subnetwork = Subnetwork(network, 4, executor, keeps_gradient=True, **drawing)
    subnetwork.next_step = first
    found = []
    for _ in range(steps):
        subnetwork.step(images, labels)
        found.append(subnetwork.gradient[: 2 * ELEMENTS].reshape(ELEMENTS, 2)[:, 0] != 0)
    assert subnetwork.next_step == first + steps
    return np.array(found)


def alike(one: Masks, other: Masks) -> bool:
    """Whether masks agree by more than chance: six standard deviations."""
    return abs((one == other).mean() - 0.5) > 6 * 0.5 / np.sqrt(one.size)


def test_seeds_and_nodes_draw_apart_and_steps_are_found_again(executor: Executor) -> None:
    one = masks(executor, 12, seed=3, node=5)
    assert np.array_equal(masks(executor, 12, seed=3, node=5), one)
    assert np.array_equal(masks(executor, 4, first=8, seed=3, node=5), one[8:]), "a resumed node's"
    for other in ({"seed": 4, "node": 5}, {"seed": 3, "node": 6}, {"seed": 5, "node": 3}, {"seed": 2**63 - 1}):
        assert not alike(masks(executor, 12, **other), one)
    assert not alike(masks(executor, 12, first=1 << 40, seed=3, node=5), one)


def test_masks_are_fair_and_steps_uncorrelated(executor: Executor) -> None:
    found = masks(executor, 300, seed=1, node=2)
    assert abs(found.mean() - 0.5) < 5 * 0.5 / np.sqrt(found.size)
    pairs = np.corrcoef(found)[np.triu_indices(len(found), 1)]
    assert np.abs(pairs).max() < 6 / np.sqrt(ELEMENTS)
    assert not alike(found[:-1], found[1:])


def test_layers_draw_apart(executor: Executor) -> None:
    """Behind two of them a quarter is kept, as of independent ones."""
    found = masks(executor, 200, network=TWICE, seed=1)
    assert abs(found.mean() - 0.25) < 5 * np.sqrt(0.25 * 0.75 / found.size)


def test_measuring_costs_leaves_what_a_subnetwork_draws_by(executor: Executor) -> None:
    """And so do steps that do not count, and a new start."""
    subnetwork = Subnetwork(BEHIND, 4, executor, keeps_gradient=True, seed=3, node=5)
    images, labels = np.ones((1, 1, 1, ELEMENTS), np.float32), np.zeros(1, np.int32)
    subnetwork.traced(images, labels)
    subnetwork.restart()
    subnetwork.step(images, labels)
    kept = subnetwork.gradient[: 2 * ELEMENTS].reshape(ELEMENTS, 2)[:, 0] != 0
    assert np.array_equal(kept, masks(executor, 1, seed=3, node=5)[0])


@pytest.mark.parametrize("threads", [2, 3])
def test_masks_are_the_same_on_any_number_of_threads(threads: int) -> None:
    found = []
    network = Network((6, 6, 3), [bpt.Conv2D(4, 3), Dropout(0.5), Flatten(), Dense(3)])
    random = np.random.default_rng(0)
    images, labels = random.random((8, 6, 6, 3), np.float32), random.integers(0, 3, 8)
    for count in (1, threads):
        with bpt.Model(network, 8, threads=count, seed=9) as model:
            found.append([model.train_step(images, labels, lr=0.1) for _ in range(5)])
            found[-1].append(float(model.weights.sum()))
    assert found[0] == found[1]


def test_a_model_draws_by_its_seed() -> None:
    network = Network((1, 1, ELEMENTS), [Flatten(), Dropout(0.5), Dense(2)])
    images, labels = np.ones((1, 1, 1, ELEMENTS), np.float32), np.zeros(1, np.int64)
    found = []
    for seed in (0, 0, 123):
        with bpt.Model(network, 4, threads=1, seed=seed) as model:
            _, gradient = model.loss_and_gradient(images, labels)
            found.append(gradient[: 2 * ELEMENTS].reshape(ELEMENTS, 2)[:, 0] != 0)
    assert np.array_equal(found[0], found[1])
    assert not alike(found[0], found[2])
