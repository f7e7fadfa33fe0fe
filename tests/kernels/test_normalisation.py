"""Batch normalisation keeps its digits where the mean is far above the deviation, and the first pixel far from both.

The inputs, being float32, are what they are: the reference normalises the same numbers. What is left are float32's
roundings of results, and of sums over a chunk of pixels, none of which grows with the mean.
"""

import numpy as np
import numpy.typing as npt
import reference
from hypothesis import given
from hypothesis import strategies as st
from stepping import SEEDS, Case

from bptcnn.inner.executor import Executor
from bptcnn.inner.subnetwork import Subnetwork
from bptcnn.networks import (
    BatchNorm,
    Conv2D,
    Dense,
    Flatten,
    Layer,
    Network,
    Residual,
)

EPS = float(np.finfo(np.float32).eps)
FAR = [0.0, 1e2, 1e3, 1e4]
"""Means, in deviations."""

BOUND = 200 * EPS
"""Of an array's relative norm, whatever the mean."""

OUTLIER = 2000 * EPS
"""Where one pixel, from which the distances of its chunk are taken, is that far from the others: see `statistics`."""


def network(shape: tuple[int, ...], activation: str | None, added: bool) -> Network:
    """Normalise the input itself, whose mean and deviation tests choose; alone or with what is added to that."""
    normal: Layer = BatchNorm(activation=None if added else activation, momentum=0.5)
    block = Residual([normal], [Conv2D(shape[2], 1)], activation) if added else normal
    return Network(shape, [block, Flatten(), Dense(4)])


def drawn(net: Network, images: int, far: float, outlier: bool, seed: int) -> Case:
    """Inputs whose mean is `far` deviations from 0, each channel on its own scale; the first pixel may be all 0."""
    random = np.random.default_rng(seed)
    case = Case.draw(net, images, seed)
    scales = np.exp(random.uniform(-3, 3, net.input_shape[2]))
    samples = ((random.standard_normal(case.samples.shape) + far) * scales).astype(np.float32)
    if outlier:
        samples[0, 0, 0] = 0
    return Case(net, case.weights, samples, case.labels)


def close(found: npt.ArrayLike, expected: npt.NDArray[np.float64], bound: float) -> None:
    got = np.asarray(found, np.float64)
    assert np.linalg.norm(got - expected) <= bound * max(np.linalg.norm(expected), 1e-3)


SHAPES = st.tuples(st.integers(1, 9), st.integers(1, 40), st.integers(1, 37))


@given(
    shape=SHAPES,
    images=st.integers(2, 9),
    lacking=st.integers(0, 3),
    far=st.sampled_from(FAR),
    outlier=st.booleans(),
    activation=st.sampled_from([None, "relu"]),
    seed=SEEDS,
)
def test_training(
    executor: Executor,
    shape: tuple[int, int, int],
    images: int,
    lacking: int,
    far: float,
    outlier: bool,
    activation: str | None,
    seed: int,
) -> None:
    """Loss, gradients and running statistics: no rectifier decides by less than rounding, for offsets are large."""
    net = network(shape, activation, False)
    case = drawn(net, images, far, outlier, seed)
    offset = net.parameters[1]
    case.weights[offset.offset : offset.offset + offset.size] = 9.0  # beyond any deviation
    made = Subnetwork(net, images + lacking, executor, keeps_gradient=True)
    made.weights[:] = case.weights
    result = made.step(case.samples, case.labels)
    loss, gradient = reference.loss_and_gradient(net, case.weights, case.samples, case.labels)
    bound = OUTLIER if outlier else BOUND
    assert abs(result.loss - loss) <= bound * max(1.0, abs(loss)) * 10
    for p in net.parameters:
        part = slice(p.offset, p.offset + p.size)
        close(made.gradient[part], gradient[part], 10 * bound)
    followed = reference.followed_statistics(net, case.weights, case.samples)
    made.step(case.samples, case.labels, rate=0.0)
    for p in net.parameters[2:4]:
        part = slice(p.offset, p.offset + p.size)
        np.testing.assert_allclose(made.weights[part], followed[part], rtol=4 * EPS, atol=bound)


@given(shape=SHAPES, images=st.integers(1, 5), far=st.sampled_from(FAR), added=st.booleans(), seed=SEEDS)
def test_evaluation(
    executor: Executor, shape: tuple[int, int, int], images: int, far: float, added: bool, seed: int
) -> None:
    """By running statistics, which are float32: of their mean every digit counts."""
    net = network(shape, None, added)
    case = drawn(net, images, far, False, seed)
    mean, logarithm = net.parameters[2], net.parameters[3]
    axes = (0, 1, 2)
    case.weights[mean.offset : mean.offset + mean.size] = case.samples.mean(axes, np.float64)
    case.weights[logarithm.offset : logarithm.offset + logarithm.size] = np.log(
        case.samples.std(axes, np.float64) ** 2 + 1e-6
    )
    made = Subnetwork(net, images, executor, training=False)
    made.weights[:] = case.weights
    expected, _ = reference.forward(net, case.weights, case.samples, training=False)
    largest = max(1.0, np.abs(case.samples).max() if added else 1.0)
    assert np.abs(made.forward(case.samples) - expected).max() <= 1e-4 * largest
