"""A plain float64 network: what every kernel and every gradient is checked against. Written for clarity, not speed."""

import numpy as np
import numpy.typing as npt

from bptcnn.networks import Conv2D, Dense, Flatten, MaxPool2D, Network

Array = npt.NDArray[np.float64]


def pad(x: Array, pads: tuple[tuple[int, int], tuple[int, int]]) -> Array:
    return np.pad(x, ((0, 0), *pads, (0, 0)))


def convolve(x: Array, w: Array, stride: tuple[int, int], pads: tuple[tuple[int, int], tuple[int, int]]) -> Array:
    """x (N, H, W, C), w (KH, KW, C, K) -> (N, OH, OW, K)."""
    windows = np.lib.stride_tricks.sliding_window_view(pad(x, pads), w.shape[:2], axis=(1, 2))
    return np.einsum("nhwcij,ijck->nhwk", windows[:, :: stride[0], :: stride[1]], w, optimize=True)


def convolve_gradients(
    x: Array, w: Array, stride: tuple[int, int], pads: tuple[tuple[int, int], tuple[int, int]], dy: Array
) -> tuple[Array, Array]:
    """Gradients by input and by filter."""
    padded = pad(x, pads)
    dx, dw = np.zeros_like(padded), np.zeros_like(w)
    rows, columns = dy.shape[1:3]
    for i in range(w.shape[0]):
        for j in range(w.shape[1]):
            part = (
                slice(None),
                slice(i, i + rows * stride[0], stride[0]),
                slice(j, j + columns * stride[1], stride[1]),
            )
            dw[i, j] = np.einsum("nhwc,nhwk->ck", padded[part], dy, optimize=True)
            dx[part] += dy @ w[i, j].T
    (top, _), (left, _) = pads
    return dx[:, top : top + x.shape[1], left : left + x.shape[2]], dw


def pool(x: Array, window: tuple[int, int], stride: tuple[int, int]) -> tuple[Array, npt.NDArray[np.intp]]:
    """Largest element of each window, and its index in the window, the first of equals."""
    windows = np.lib.stride_tricks.sliding_window_view(x, window, axis=(1, 2))[:, :: stride[0], :: stride[1]]
    flat = windows.reshape(*windows.shape[:4], -1)
    choice = flat.argmax(-1)
    return np.take_along_axis(flat, choice[..., None], -1)[..., 0], choice


def pool_gradient(
    shape: tuple[int, ...], window: tuple[int, int], stride: tuple[int, int], choice: npt.NDArray[np.intp], dy: Array
) -> Array:
    dx = np.zeros(shape)
    n, h, w, c = np.indices(choice.shape)
    np.add.at(dx, (n, h * stride[0] + choice // window[1], w * stride[1] + choice % window[1], c), dy)
    return dx


def loss_gradient(logits: Array, labels: npt.NDArray[np.integer]) -> tuple[float, Array]:
    """Mean softmax cross-entropy and its gradient by logits."""
    shifted = logits - logits.max(1, keepdims=True)
    p = np.exp(shifted)
    p /= p.sum(1, keepdims=True)
    rows = np.arange(len(labels))
    loss = -np.mean(shifted[rows, labels] - np.log(np.exp(shifted).sum(1)))
    p[rows, labels] -= 1
    return float(loss), p / len(labels)


def forward(network: Network, weights: npt.ArrayLike, x: npt.ArrayLike) -> tuple[Array, list[tuple]]:
    """Logits, and per layer what its gradient needs."""
    w, y, tape = np.asarray(weights, np.float64), np.asarray(x, np.float64), []
    parameters = iter(network.parameters)
    for layer in network.layers:
        before = y
        if isinstance(layer, Flatten):
            y = y.reshape(len(y), -1)
            tape.append((layer, before))
            continue
        if isinstance(layer, MaxPool2D):
            y, choice = pool(y, layer.window, layer.stride)
            tape.append((layer, before, choice))
            continue
        p = next(parameters)
        kernel = w[p.offset : p.offset + p.size].reshape(p.shape)
        b = next(parameters) if layer.bias else None
        convolved = isinstance(layer, Conv2D)
        y = convolve(y, kernel, layer.stride, layer.pads(before.shape[1:])) if convolved else y @ kernel
        if b:
            y = y + w[b.offset : b.offset + b.size]
        if layer.activation == "relu":
            y = np.maximum(y, 0)
        tape.append((layer, before, p, b, kernel, y))
    return y, tape


def loss_and_gradient(
    network: Network, weights: npt.ArrayLike, x: npt.ArrayLike, labels: npt.NDArray[np.integer]
) -> tuple[float, Array]:
    """Mean loss and the flat gradient."""
    logits, tape = forward(network, weights, x)
    loss, d = loss_gradient(logits, labels)
    gradient = np.zeros(network.size)
    for layer, before, *rest in reversed(tape):
        if isinstance(layer, Flatten):
            d = d.reshape(before.shape)
            continue
        if isinstance(layer, MaxPool2D):
            d = pool_gradient(before.shape, layer.window, layer.stride, rest[0], d)
            continue
        p, b, kernel, y = rest
        if layer.activation == "relu":
            d = d * (y > 0)
        if b:
            gradient[b.offset : b.offset + b.size] = d.reshape(-1, b.size).sum(0)
        if isinstance(layer, Dense):
            dw, d = before.T @ d, d @ kernel.T
        else:
            d, dw = convolve_gradients(before, kernel, layer.stride, layer.pads(before.shape[1:]), d)
        gradient[p.offset : p.offset + p.size] = dw.ravel()
    return loss, gradient
