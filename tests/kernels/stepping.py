"""One step of a small network against the float64 reference, compared parameter by parameter."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import reference
from hypothesis import strategies as st
from reference_arithmetic import Array, pad, windows

from bptcnn.inner.executor import Executor
from bptcnn.inner.subnetwork import StepResult, Subnetwork
from bptcnn.networks import BatchNorm, MaxPool2D, Network

TOLERANCE = 1e-4
"""Largest error of an array's elements, relative to its largest element: float32 sums of some thousand products."""

NEAR = 1e-5
"""Where a rectifier or a pooling decides by less than this, relative to the largest element, rounding may flip it."""

MEAN_DEVIATIONS = 30.0
"""A mean so many deviations from zero costs normalisation that much of float32's precision."""

SEEDS = st.integers(0, 2**32 - 1)


@dataclass(frozen=True)
class Case:
    """A network with weights and a batch."""

    network: Network
    weights: npt.NDArray[np.float32]
    samples: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int32]

    @classmethod
    def draw(cls, network: Network, images: int, seed: int) -> "Case":
        """Fill everything, biases too, with random numbers of about unit size."""
        random = np.random.default_rng(seed)
        noise = 0.2 * random.standard_normal(network.size, np.float32)
        biases = np.zeros(network.size, np.float32)
        for p in network.parameters:
            biases[p.offset : p.offset + p.size] = len(p.shape) == 1
        return cls(
            network,
            network.initial_weights(seed) + noise * biases,
            random.standard_normal((images, *network.input_shape), np.float32),
            random.integers(0, network.classes, images, np.int32),
        )

    def stepped(
        self, executor: Executor, batch_size: int, direct: bool = True
    ) -> tuple[StepResult, npt.NDArray[np.float32]]:
        """Return result and gradient of one step without update; see Subnetwork for `direct`."""
        subnetwork = Subnetwork(self.network, batch_size, executor, direct=direct, keeps_gradient=True)
        subnetwork.weights[:] = self.weights
        result = subnetwork.step(self.samples, self.labels)
        assert subnetwork.weights.tobytes() == self.weights.tobytes(), "no update was asked for"
        return result, subnetwork.gradient

    def decides_clearly(self, training: bool = True, masks: reference.Masks | None = None) -> bool:
        """Tell whether float32 rounding could neither flip a rectifier or a pooling nor swamp a normalisation."""
        _, tape = reference.forward(self.network, self.weights, self.samples, training, masks)
        for applied in tape:
            layer, x = applied.application.layer, applied.inputs[0]
            if isinstance(layer, MaxPool2D) and not _pools_clearly(x, layer):
                return False
            if isinstance(layer, BatchNorm) and training and not _normalises_clearly(x, layer):
                return False
            if applied.activation in ("relu", "leaky_relu") and not _far_from_zero(applied.linear):
                return False
        return True


def _far_from_zero(y: Array) -> bool:
    """Exact zeros are fine: they come from padding alone and are zeros in float32 too."""
    sizes = np.abs(y)
    return not np.any((sizes > 0) & (sizes < NEAR * sizes.max(initial=0)))


def _pools_clearly(x: Array, layer: MaxPool2D) -> bool:
    """Exact ties are fine: they are copies of one number, or zeros, and ties in float32 too."""
    if layer.window == (1, 1):
        return True
    seen = windows(pad(x, layer.pads(x.shape[1:]), -np.inf), layer.window, layer.stride)
    flat = np.sort(seen.reshape(-1, layer.window[0] * layer.window[1]))
    gaps = flat[:, -1:] - flat[:, :-1]
    return not np.any((gaps > 0) & (gaps < NEAR * np.abs(x).max()))


def _normalises_clearly(x: Array, layer: BatchNorm) -> bool:
    """Differences from a mean that is many deviations from zero are mostly rounding; those of one element are 0."""
    axes = tuple(range(x.ndim - 1))
    deviation = np.sqrt(x.var(axes) + layer.epsilon)
    return x.size == x.shape[-1] or bool(np.all(np.abs(x.mean(axes)) < MEAN_DEVIATIONS * deviation))


def assert_close(
    name: str, actual: npt.ArrayLike, expected: npt.ArrayLike, tolerance: float = TOLERANCE, least: float = 1e-30
) -> None:
    """Compare elementwise, relative to the largest expected element, or `least`; NaN is never close."""
    got, wanted = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert got.shape == wanted.shape, name
    scale = max(float(np.abs(wanted).max(initial=0)), least)
    errors = np.abs(got - wanted) / scale
    worst = np.unravel_index(int(np.argmax(np.where(np.isnan(errors), np.inf, errors))), errors.shape)
    assert errors[worst] <= tolerance, f"{name}{[int(i) for i in worst]}: {got[worst]}, expected {wanted[worst]}"


def check_step(case: Case, executor: Executor, batch_size: int, tolerance: float = TOLERANCE) -> None:
    """Compare loss, correct predictions and each parameter's gradient with the reference."""
    result, gradient = case.stepped(executor, batch_size)
    loss, expected = reference.loss_and_gradient(case.network, case.weights, case.samples, case.labels)
    cancelled = 0.05 * float(np.abs(expected).max())  # a sum so much smaller than the others may be mostly rounding
    assert result.images == len(case.samples)
    assert abs(result.loss - loss) <= tolerance * max(1.0, abs(loss))
    for p in case.network.parameters:
        part = slice(p.offset, p.offset + p.size)
        assert_close(p.name, gradient[part].reshape(p.shape), expected[part].reshape(p.shape), tolerance, cancelled)
