"""The reference's arithmetic in float64: values and gradients of each kind of layer. Images are (N, H, W, C)."""

import math

import numpy as np
import numpy.typing as npt

from bptcnn.networks.layers import LEAKY_SLOPE, Pads, Pair

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

_erf = np.vectorize(math.erf, otypes=[np.float64])


def to_bfloat16(x: Array) -> Array:
    """Round float32 numbers to 8 significant bits, to even where two are as near."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    even = (bits >> np.uint32(16)) & np.uint32(1)
    rounded = (bits + np.uint32(0x7FFF) + even) & np.uint32(0xFFFF0000)
    return rounded.view(np.float32).astype(np.float64)


def pad(x: Array, pads: Pads, value: float = 0.0) -> Array:
    return np.pad(x, ((0, 0), *pads, (0, 0)), constant_values=value)


def windows(padded: Array, extent: Pair, stride: Pair) -> Array:
    """(N, H, W, C) -> (N, OH, OW, C, rows, columns)."""
    return np.lib.stride_tricks.sliding_window_view(padded, extent, axis=(1, 2))[:, :: stride[0], :: stride[1]]


def convolve(x: Array, w: Array, stride: Pair, pads: Pads, dilation: Pair = (1, 1), groups: int = 1) -> Array:
    """x (N, H, W, C), w (KH, KW, C / groups, K) -> (N, OH, OW, K)."""
    padded = pad(x, pads)
    rows, columns = (
        (padded.shape[1 + axis] - (w.shape[axis] - 1) * dilation[axis] - 1) // stride[axis] + 1 for axis in (0, 1)
    )
    y = np.zeros((len(x), rows, columns, w.shape[3]))
    for i, j in np.ndindex(w.shape[:2]):
        seen = padded[_under_tap(i, j, stride, dilation, (rows, columns))]
        y += (_by_group(seen, groups) @ _filters_by_group(w[i, j], groups)).swapaxes(0, 1).reshape(y.shape)
    return y


def convolve_gradients(
    x: Array, w: Array, stride: Pair, pads: Pads, dilation: Pair, groups: int, dy: Array
) -> tuple[Array, Array]:
    """Gradients by input and by filter."""
    padded, grouped = pad(x, pads), _by_group(dy, groups)
    dx, dw = np.zeros_like(padded), np.zeros_like(w)
    for i, j in np.ndindex(w.shape[:2]):
        part = _under_tap(i, j, stride, dilation, (dy.shape[1], dy.shape[2]))
        by_filter = _by_group(padded[part], groups).swapaxes(1, 2) @ grouped
        dw[i, j] = by_filter.swapaxes(0, 1).reshape(dw[i, j].shape)
        by_input = grouped @ _filters_by_group(w[i, j], groups).swapaxes(1, 2)
        dx[part] += by_input.swapaxes(0, 1).reshape(dx[part].shape)
    return inside(dx, pads, x.shape), dw


def _under_tap(i: int, j: int, stride: Pair, dilation: Pair, outputs: Pair) -> tuple[slice, ...]:
    """What lies under tap (i, j) of all windows of the padded images."""
    top, left = i * dilation[0], j * dilation[1]
    rows = slice(top, top + outputs[0] * stride[0], stride[0])
    return slice(None), rows, slice(left, left + outputs[1] * stride[1], stride[1])


def _by_group(x: Array, groups: int) -> Array:
    """(N, H, W, C) -> (groups, N * H * W, C / groups)."""
    return x.reshape(-1, groups, x.shape[-1] // groups).swapaxes(0, 1)


def _filters_by_group(w: Array, groups: int) -> Array:
    """(C / groups, K) -> (groups, C / groups, K / groups)."""
    return w.reshape(len(w), groups, -1).swapaxes(0, 1)


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
