"""A plain float64 network: what every kernel and every gradient is checked against. Written for clarity, not speed."""

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from reference_arithmetic import (
    Array,
    Mask,
    activate,
    activation_gradient,
    average,
    average_gradient,
    convolve,
    convolve_gradients,
    loss_gradient,
    normalise,
    normalise_gradients,
    pool,
    pool_gradient,
    to_bfloat16,
)

from bptcnn.networks import (
    Activation,
    Application,
    AveragePool2D,
    BatchNorm,
    Conv2D,
    Dense,
    DepthwiseConv2D,
    Dropout,
    Flatten,
    GlobalAveragePool2D,
    Join,
    MaxPool2D,
    Network,
    Sum,
)

Masks = Mapping[str, npt.ArrayLike]
"""What dropout multiplies its input by in training: by the application's name, of the value's shape (N, ...)."""


@dataclass(frozen=True)
class Choices:
    """What another forward pass decided, by the application's name, for this one to do alike.

    rectified: 1 where a rectifier took its input for above 0, -1 where not, 0 where it is not known and this pass
    decides; of the value's shape (N, ...). pooled: the index in each window of its largest element, (N, OH, OW, C).
    bfloat16: the convolutions that round what they multiply: input, filter and, backward, the output's gradient.
    """

    rectified: Mapping[str, npt.NDArray[np.int8]] = field(default_factory=dict)
    pooled: Mapping[str, npt.NDArray[np.intp]] = field(default_factory=dict)
    bfloat16: Collection[str] = ()

    def positive(self, name: str, linear: Array) -> Mask | None:
        """Return what a rectifier is to take for above 0; None: what is."""
        if name not in self.rectified:
            return None
        signs = self.rectified[name]
        if signs.shape != linear.shape:
            raise ValueError(f"{name}: decisions {signs.shape} for values {linear.shape}")
        return np.where(signs == 0, linear > 0, signs > 0)


OWN = Choices()
"""The reference decides by itself."""

Gradients = tuple[list[Array], list[Array]]
"""By each input, and by each parameter."""


@dataclass(frozen=True)
class Applied:
    """One application of a forward pass. `back` gives the gradients from that by `linear`, the value it activates.

    `positive`: what a rectifier is to take for above 0; None: what is.
    """

    application: Application
    inputs: tuple[Array, ...]
    linear: Array
    positive: Mask | None
    back: Callable[[Array], Gradients]

    @property
    def activation(self) -> str | None:
        layer = self.application.layer
        return layer.function if isinstance(layer, Activation) else getattr(layer, "activation", None)

    @property
    def value(self) -> Array:
        """What it makes."""
        return activate(self.linear, self.activation, self.positive)


def forward(
    network: Network,
    weights: npt.ArrayLike,
    x: npt.ArrayLike,
    training: bool = True,
    masks: Masks | None = None,
    choices: Choices = OWN,
) -> tuple[Array, list[Applied]]:
    """Logits, and what every application saw and what its gradient needs."""
    w, values, tape = np.asarray(weights, np.float64), [np.asarray(x, np.float64)], []
    for application in network.applications:
        inputs = tuple(values[value] for value in application.inputs)
        parameters = [w[p.offset : p.offset + p.size].reshape(p.shape) for p in application.parameters]
        linear, back = apply(application, inputs, parameters, training, masks or {}, choices)
        tape.append(Applied(application, inputs, linear, choices.positive(application.name, linear), back))
        values.append(tape[-1].value)
    return values[-1], tape


def loss_and_gradient(
    network: Network,
    weights: npt.ArrayLike,
    x: npt.ArrayLike,
    labels: npt.NDArray[np.integer],
    training: bool = True,
    masks: Masks | None = None,
    choices: Choices = OWN,
) -> tuple[float, Array]:
    """Mean loss and the flat gradient, 0 for what is not trainable."""
    return backward(network, *forward(network, weights, x, training, masks, choices), labels)


def backward(
    network: Network, logits: Array, tape: list[Applied], labels: npt.NDArray[np.integer]
) -> tuple[float, Array]:
    """Mean loss and the flat gradient, from what `forward` gave."""
    loss, last = loss_gradient(logits, labels)
    gradient = np.zeros(network.size)
    by_value: dict[int, Array] = {len(tape): last}
    for index in reversed(range(len(tape))):
        applied = tape[index]
        d = by_value.pop(index + 1) * activation_gradient(applied.linear, applied.activation, applied.positive)
        by_inputs, by_parameters = applied.back(d)
        for value, part in zip(applied.application.inputs, by_inputs, strict=True):
            by_value[value] = by_value.get(value, 0) + part
        for p, part in zip(applied.application.parameters, by_parameters, strict=True):
            gradient[p.offset : p.offset + p.size] = part.ravel()
    return loss, gradient


def followed_statistics(
    network: Network, weights: npt.ArrayLike, x: npt.ArrayLike, masks: Masks | None = None
) -> Array:
    """The weights after a step of training without any update but that of the running statistics."""
    w = np.array(weights, np.float64)
    for applied in forward(network, weights, x, True, masks)[1]:
        layer = applied.application.layer
        if isinstance(layer, BatchNorm):
            axes = tuple(range(applied.inputs[0].ndim - 1))
            mean, log_variance = (w[p.offset : p.offset + p.size] for p in applied.application.parameters[2:])
            mean[:] = layer.momentum * mean + (1 - layer.momentum) * applied.inputs[0].mean(axes)
            variance = layer.momentum * np.exp(log_variance) + (1 - layer.momentum) * applied.inputs[0].var(axes)
            log_variance[:] = np.log(variance)
    return w


def apply(
    application: Application,
    inputs: tuple[Array, ...],
    parameters: list[Array],
    training: bool,
    masks: Masks,
    choices: Choices,
) -> tuple[Array, Callable[[Array], Gradients]]:
    """Return what the layer makes of its inputs before its activation, and the gradients by that."""
    layer, x = application.layer, inputs[0]
    if isinstance(layer, Sum):
        return inputs[0] + inputs[1], lambda d: ([d, d], [])
    if isinstance(layer, Join):
        ends = np.cumsum([one.shape[-1] for one in inputs])[:-1]
        return np.concatenate(inputs, -1), lambda d: (np.split(d, ends, -1), [])
    if isinstance(layer, Flatten):
        return x.reshape(len(x), -1), lambda d: ([d.reshape(x.shape)], [])
    if isinstance(layer, Activation):
        return x, lambda d: ([d], [])
    if isinstance(layer, Dropout):
        return _drop(application.name, x, training, masks)
    if isinstance(layer, BatchNorm):
        return _normalise(layer, x, parameters, training)
    if isinstance(layer, Dense):
        biased = x @ parameters[0] + (parameters[1] if layer.bias else 0)
        return biased, lambda d: ([d @ parameters[0].T], [x.T @ d, d.sum(0)][: len(parameters)])
    if isinstance(layer, Conv2D | DepthwiseConv2D):
        return _convolve(layer, x, parameters, application.name in choices.bfloat16)
    return _pool(layer, x, choices.pooled.get(application.name))


def _drop(name: str, x: Array, training: bool, masks: Masks) -> tuple[Array, Callable[[Array], Gradients]]:
    if training and name not in masks:
        raise ValueError(f"{name}: in training the reference wants to be told what it drops")
    multipliers = np.asarray(masks[name], np.float64) if training else np.ones(x.shape)
    if multipliers.shape != x.shape:
        raise ValueError(f"{name}: multipliers {multipliers.shape} for values {x.shape}")
    return x * multipliers, lambda d: ([d * multipliers], [])


def _normalise(
    layer: BatchNorm, x: Array, parameters: list[Array], training: bool
) -> tuple[Array, Callable[[Array], Gradients]]:
    scale, offset, mean, log_variance = parameters
    axes = tuple(range(x.ndim - 1))
    used = (x.mean(axes), x.var(axes)) if training else (mean, np.exp(log_variance))
    deviation = np.sqrt(used[1] + layer.epsilon)
    normal = normalise(x, used[0], deviation)

    def back(d: Array) -> Gradients:
        dx = normalise_gradients(normal, deviation, d * scale) if training else d * scale / deviation
        return [dx], [(d * normal).sum(axes), d.sum(axes), np.zeros_like(mean), np.zeros_like(mean)]

    return scale * normal + offset, back


def _convolve(
    layer: Conv2D | DepthwiseConv2D, x: Array, parameters: list[Array], rounds: bool
) -> tuple[Array, Callable[[Array], Gradients]]:
    rounded = to_bfloat16 if rounds else np.asarray
    x, w = rounded(x), rounded(parameters[0])
    groups = layer.groups if isinstance(layer, Conv2D) else x.shape[-1]
    how = (layer.stride, layer.pads(x.shape[1:]), layer.dilations, groups)

    def back(d: Array) -> Gradients:
        d = rounded(d)
        dx, dw = convolve_gradients(x, w, *how, d)
        return [dx], [dw, d.sum((0, 1, 2))][: len(parameters)]

    return convolve(x, w, *how) + (parameters[1] if layer.bias else 0), back


def _pool(
    layer: MaxPool2D | AveragePool2D | GlobalAveragePool2D, x: Array, given: npt.NDArray[np.intp] | None
) -> tuple[Array, Callable[[Array], Gradients]]:
    if isinstance(layer, GlobalAveragePool2D):
        pixels = math.prod(x.shape[1:3])
        return x.mean((1, 2)), lambda d: ([np.broadcast_to(d[:, None, None] / pixels, x.shape)], [])
    how = (layer.window, layer.stride, layer.pads(x.shape[1:]))
    if isinstance(layer, AveragePool2D):
        return average(x, *how), lambda d: ([average_gradient(x.shape, *how, d)], [])
    y, choice = pool(x, *how, given)
    return y, lambda d: ([pool_gradient(x.shape, *how, choice, d)], [])
