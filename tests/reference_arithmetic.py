"""The reference's arithmetic in float64: values and gradients of each kind of layer. Images are (N, H, W, C)."""

import math

import numpy as np
import numpy.typing as npt

from bptcnn.networks.layers import LEAKY_SLOPE, Pads, Pair

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

_erf = np.vectorize(math.erf, otypes=[np.float64])


def pad(x: Array, pads: Pads, value: float = 0.0) -> Array:
    return np.pad(x, ((0, 0), *pads, (0, 0)), constant_values=value)


def windows(padded: Array, extent: Pair, stride: Pair) -> Array:
    """(N, H, W, C) -> (N, OH, OW, C, rows, columns)."""
    return np.lib.stride_tricks.sliding_window_view(padded, extent, axis=(1, 2))[:, :: stride[0], :: stride[1]]


def convolve(x: Array, w: Array, stride: Pair, pads: Pads, dilation: Pair = (1, 1), groups: int = 1) -> Array:
    """x (N, H, W, C), w (KH, KW, C / groups, K) -> (N, OH, OW, K)."""
    extent = (w.shape[0] - 1) * dilation[0] + 1, (w.shape[1] - 1) * dilation[1] + 1
    seen = windows(pad(x, pads), extent, stride)[..., :: dilation[0], :: dilation[1]]
    seen = seen.reshape(*seen.shape[:3], groups, -1, *w.shape[:2])
    y = np.einsum("nhwgcij,ijcgk->nhwgk", seen, w.reshape(*w.shape[:3], groups, -1), optimize=True)
    return y.reshape(*y.shape[:3], -1)


def convolve_gradients(
    x: Array, w: Array, stride: Pair, pads: Pads, dilation: Pair, groups: int, dy: Array
) -> tuple[Array, Array]:
    """Gradients by input and by filter."""
    padded = pad(x, pads)
    dx, dw = np.zeros_like(padded), np.zeros_like(w)
    rows, columns = dy.shape[1:3]
    grouped = dy.reshape(*dy.shape[:3], groups, -1)
    for i in range(w.shape[0]):
        for j in range(w.shape[1]):
            top, left = i * dilation[0], j * dilation[1]
            part = (
                slice(None),
                slice(top, top + rows * stride[0], stride[0]),
                slice(left, left + columns * stride[1], stride[1]),
            )
            seen = padded[part].reshape(*dy.shape[:3], groups, -1)
            dw[i, j] = np.einsum("nhwgc,nhwgk->cgk", seen, grouped, optimize=True).reshape(w.shape[2:])
            weights = w[i, j].reshape(w.shape[2], groups, -1)
            dx[part] += np.einsum("nhwgk,cgk->nhwgc", grouped, weights, optimize=True).reshape(padded[part].shape)
    return inside(dx, pads, x.shape), dw


def inside(padded: Array, pads: Pads, shape: tuple[int, ...]) -> Array:
    (top, _), (left, _) = pads
    return padded[:, top : top + shape[1], left : left + shape[2]]


def pool(
    x: Array, window: Pair, stride: Pair, pads: Pads, choice: npt.NDArray[np.intp] | None = None
) -> tuple[Array, npt.NDArray[np.intp]]:
    """Largest element of each window, and its index there, the first of equals; or those of a given `choice`."""
    seen = windows(pad(x, pads, -np.inf), window, stride)
    flat = seen.reshape(*seen.shape[:4], -1)
    choice = flat.argmax(-1) if choice is None else choice
    return np.take_along_axis(flat, choice[..., None], -1)[..., 0], choice


def pool_gradient(
    shape: tuple[int, ...], window: Pair, stride: Pair, pads: Pads, choice: npt.NDArray[np.intp], dy: Array
) -> Array:
    dx = pad(np.zeros(shape), pads)
    n, h, w, c = np.indices(choice.shape)
    np.add.at(dx, (n, h * stride[0] + choice // window[1], w * stride[1] + choice % window[1], c), dy)
    return inside(dx, pads, shape)


def _shares(shape: tuple[int, ...], window: Pair, stride: Pair, pads: Pads) -> Array:
    """One over the number of elements that each window holds, padding not counted: (1, OH, OW, 1)."""
    return 1 / windows(pad(np.ones((1, *shape[1:3], 1)), pads), window, stride).sum((-2, -1))


def average(x: Array, window: Pair, stride: Pair, pads: Pads) -> Array:
    return windows(pad(x, pads), window, stride).sum((-2, -1)) * _shares(x.shape, window, stride, pads)


def average_gradient(shape: tuple[int, ...], window: Pair, stride: Pair, pads: Pads, dy: Array) -> Array:
    dx = pad(np.zeros(shape), pads)
    each = dy * _shares(shape, window, stride, pads)
    rows, columns = dy.shape[1:3]
    for i in range(window[0]):
        for j in range(window[1]):
            dx[:, i : i + rows * stride[0] : stride[0], j : j + columns * stride[1] : stride[1]] += each
    return inside(dx, pads, shape)


def normalise(x: Array, mean: Array, deviation: Array) -> Array:
    return (x - mean) / deviation


def normalise_gradients(normal: Array, deviation: Array, d: Array) -> Array:
    """Gradient by what was normalised by its own mean and deviation; `d` is that by `normal`."""
    axes = tuple(range(d.ndim - 1))
    return (d - d.mean(axes) - normal * (d * normal).mean(axes)) / deviation


def activate(x: Array, activation: str | None, positive: Mask | None = None) -> Array:
    """`positive`: what rectifiers take for above 0; None: what is."""
    if activation == "relu":
        return np.maximum(x, 0) if positive is None else np.where(positive, x, 0)
    if activation == "leaky_relu":
        return np.where(x > 0 if positive is None else positive, x, LEAKY_SLOPE * x)
    return x * _phi(x) if activation == "gelu" else x


def activation_gradient(x: Array, activation: str | None, positive: Mask | None = None) -> Array:
    """Derivative at `x`; at 0, where rectifiers have none, that of the negative side. `positive` as of `activate`."""
    if activation == "relu":
        return (x > 0 if positive is None else positive).astype(np.float64)
    if activation == "leaky_relu":
        return np.where(x > 0 if positive is None else positive, 1.0, LEAKY_SLOPE)
    if activation == "gelu":
        return _phi(x) + x * np.exp(-x * x / 2) / math.sqrt(2 * math.pi)
    return np.ones_like(x)


def _phi(x: Array) -> Array:
    """Cumulative normal distribution."""
    return (1 + _erf(x / math.sqrt(2))) / 2


def loss_gradient(logits: Array, labels: npt.NDArray[np.integer]) -> tuple[float, Array]:
    """Mean softmax cross-entropy and its gradient by logits."""
    shifted = logits - logits.max(1, keepdims=True)
    p = np.exp(shifted)
    p /= p.sum(1, keepdims=True)
    rows = np.arange(len(labels))
    loss = -np.mean(shifted[rows, labels] - np.log(np.exp(shifted).sum(1)))
    p[rows, labels] -= 1
    return float(loss), p / len(labels)
