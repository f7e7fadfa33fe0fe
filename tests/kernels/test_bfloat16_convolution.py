"""Convolutions with bfloat16 products: exact where all numbers are small integers, else near the float64 reference."""

from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import reference
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from networks.drawn import paddings, pairs
from reference_arithmetic import Array
from stepping import SEEDS, Case

from bptcnn.errors import UserError
from bptcnn.inner.executor import Executor
from bptcnn.inner.lowering import lower, operations
from bptcnn.inner.subnetwork import Subnetwork
from bptcnn.inner.tuning import Tuning
from bptcnn.kernels.unit import MATRIX_UNIT
from bptcnn.networks import BatchNorm, Conv2D, Dense, DepthwiseConv2D, Flatten, GlobalAveragePool2D, Network, Residual

if not MATRIX_UNIT:
    pytest.skip("this CPU multiplies no bfloat16 numbers", allow_module_level=True)

from bptcnn.inner.bfloat16_convolution import Bfloat16Convolution, suits_bfloat16

ROUNDED = 2e-3
"""Relative norm of a parameter's gradient against float64 on operands rounded alike; few are rounded to a neighbour."""

TOLERANCE = 2e-2
"""Against float64 on the operands as they are, where no sum is much smaller than what it is a sum of."""

MANY = settings(max_examples=2 * settings().max_examples)
CHANNELS = st.integers(16, 100)
SIZES = st.tuples(st.integers(1, 9), st.integers(1, 9))


@st.composite
def layers(draw: st.DrawFn, activation: str | None = None) -> Conv2D:
    """Draw a convolution that bfloat16 suits."""
    return Conv2D(
        draw(CHANNELS),
        draw(pairs(5)),
        strides=draw(pairs(3)),
        padding=draw(paddings(2)),
        activation=activation,
        bias=draw(st.booleans()),
    )


def fitting(shape: tuple[int, int, int], *found: object) -> Network:
    """Return the network, or have hypothesis draw another one where a kernel does not fit."""
    try:
        return Network(shape, list(found))  # type: ignore[arg-type]
    except UserError:
        assume(False)
        raise


def convolve_rounded(
    layer: Conv2D | DepthwiseConv2D, x: Array, parameters: list[Array], rounds: bool
) -> tuple[Array, Callable[[Array], Any]]:
    """The reference's convolution, on rounded operands wherever bfloat16 suits it."""
    suits = isinstance(layer, Conv2D) and suits_bfloat16(x.shape[1:], (1, 1, layer.filters))
    return EXACT(layer, x, parameters, suits)


EXACT = reference._convolve


def wherever_it_suits(network: Network) -> Tuning:
    """Bfloat16 products even for so few pixels that float32 is faster."""
    decisions = lower(network, training=True, precision="bf16").decisions
    return Tuning(choices=tuple(d.choice for d in decisions if d.choice.algorithm == "bfloat16"))


def stepped(case: Case, executor: Executor, batch_size: int, rounds: bool = True) -> dict[str, float]:
    """Return the relative error of each parameter's gradient, after a step on a whole batch of other images."""
    subnetwork = Subnetwork(
        case.network,
        batch_size,
        executor,
        tuning=wherever_it_suits(case.network),
        precision="bf16",
        keeps_gradient=True,
    )
    subnetwork.weights[:] = case.weights
    others = np.random.default_rng(1).standard_normal((batch_size, *case.network.input_shape), np.float32)
    subnetwork.step(others, np.zeros(batch_size, np.int32))
    result = subnetwork.step(case.samples, case.labels)
    with patch.object(reference, "_convolve", convolve_rounded if rounds else EXACT):
        loss, expected = reference.loss_and_gradient(case.network, case.weights, case.samples, case.labels)
    assert abs(result.loss - loss) <= (ROUNDED if rounds else TOLERANCE) * max(1.0, abs(loss))
    errors, whole = {}, float(np.linalg.norm(expected))
    for p in case.network.parameters:
        part = slice(p.offset, p.offset + p.size)
        size = max(float(np.linalg.norm(expected[part])), 0.01 * whole)
        errors[p.name] = float(np.linalg.norm(subnetwork.gradient[part] - expected[part])) / size
    return errors


@MANY
@given(size=SIZES, channels=CHANNELS, layer=layers(), images=st.integers(1, 70), spare=st.integers(0, 40), seed=SEEDS)
def test_integers_are_exact(
    executor: Executor, size: tuple[int, int], channels: int, layer: Conv2D, images: int, spare: int, seed: int
) -> None:
    network = fitting((*size, channels), layer, Flatten())
    random = np.random.default_rng(seed)
    weights = random.integers(-3, 4, network.size).astype(np.float32)
    samples = random.integers(-3, 4, (images, *network.input_shape)).astype(np.float32)
    subnetwork = Subnetwork(network, images + spare, executor, training=False, precision="bf16")
    subnetwork.weights[:] = weights
    assert isinstance(operations(network, "bf16")[0], Bfloat16Convolution)
    expected, _ = reference.forward(network, weights, samples)
    np.testing.assert_array_equal(subnetwork.forward(samples), expected)


@MANY
@given(
    size=SIZES,
    channels=st.integers(1, 40),
    middle=CHANNELS,
    layer=layers(),
    images=st.integers(1, 70),
    spare=st.integers(0, 40),
    seed=SEEDS,
)
def test_gradients(
    executor: Executor,
    size: tuple[int, int],
    channels: int,
    middle: int,
    layer: Conv2D,
    images: int,
    spare: int,
    seed: int,
) -> None:
    """A linear 1x1 convolution goes before the one under test: its gradient shows the gradient by input."""
    network = fitting((*size, channels), Conv2D(middle, 1), layer, Flatten(), Dense(3))
    errors = stepped(Case.draw(network, images, seed), executor, images + spare)
    assert max(errors.values()) <= ROUNDED, errors


@pytest.mark.parametrize("images", [1, 32, 33])
def test_a_rectifier_where_nothing_is_near_zero(executor: Executor, images: int) -> None:
    """Half of the outputs are far above zero, half far below."""
    network = Network((6, 6, 16), [Conv2D(48, 1), Conv2D(64, 3, activation="relu"), Flatten(), Dense(4)])
    case = Case.draw(network, images, 2)
    bias = next(p for p in network.parameters if p.name.endswith("bias") and p.size == 64)
    case.weights[bias.offset : bias.offset + bias.size] = np.tile([40.0, -40.0], 32)
    assert max(stepped(case, executor, images).values()) <= ROUNDED
    assert max(stepped(case, executor, images, rounds=False).values()) <= TOLERANCE


def test_a_gradient_that_others_have_begun(executor: Executor) -> None:
    """Two branches read one value: the second adds its gradient by input."""
    inside = [Conv2D(32, 3), Conv2D(32, 3)]
    network = Network((5, 7, 32), [Conv2D(32, 3), Residual(inside, [Conv2D(32, 1)]), GlobalAveragePool2D(), Dense(3)])
    errors = stepped(Case.draw(network, 40, 3), executor, 48)
    assert max(errors.values()) <= ROUNDED, errors


@pytest.mark.parametrize(("size", "images"), [(20, 70), (6, 140)])
def test_many_parts(executor: Executor, size: int, images: int) -> None:
    """Bands of rows, groups of blocks of images: the gradient by filter is summed over all of them."""
    network = Network((size, size, 16), [Conv2D(16, 1), Conv2D(40, 3, strides=2), Flatten(), Dense(3)])
    case = Case.draw(network, images, 4)
    assert max(stepped(case, executor, images).values()) <= ROUNDED
    assert max(stepped(case, executor, images, rounds=False).values()) <= TOLERANCE


def test_any_number_of_threads_gives_the_same_bits() -> None:
    network = Network(
        (9, 9, 16),
        [
            Conv2D(32, 3),
            BatchNorm(activation="relu"),
            Conv2D(160, 3, strides=2, activation="relu"),
            Flatten(),
            Dense(5),
        ],
    )
    random = np.random.default_rng(5)
    samples, labels = random.random((50, 9, 9, 16), np.float32), random.integers(0, 5, 50, np.int32)
    found = []
    for threads in (1, 2, 3):
        executor = Executor(threads)
        subnetwork = Subnetwork(network, 50, executor, precision="bf16")
        subnetwork.weights[:] = network.initial_weights(6)
        losses = [subnetwork.step(samples, labels, None, 0.01, 0.9).loss for _ in range(4)]
        found.append((losses, subnetwork.weights.tobytes()))
        executor.close()
    assert found[0] == found[1] == found[2]
    assert found[0][0][-1] < found[0][0][0]


def test_few_channels_stay_in_float32() -> None:
    network = Network((8, 8, 3), [Conv2D(16, 3), Conv2D(15, 3), Conv2D(16, 3), Conv2D(16, 3), Flatten(), Dense(2)])
    kinds = [isinstance(op, Bfloat16Convolution) for op in operations(network, "bf16")]
    assert kinds == [False, False, False, True, False]
