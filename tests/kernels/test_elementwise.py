"""Activations on their own: relu, leaky relu and GELU over drawn layouts, their gradients, their accuracy."""

import math
from typing import Any

import numpy as np
import pytest
from calling import GUARD, Doubles, Floats, Images, Numbers, assert_near, call, guards, normal
from hypothesis import given
from hypothesis import strategies as st
from stepping import SEEDS

from bptcnn.kernels.elementwise import ACTIVATION, FUNCTIONS, activate, activate_backward

_erf = np.vectorize(math.erf, otypes=[float])


def value(function: str, x: Doubles) -> Doubles:
    if function == "gelu":
        return np.asarray(x * 0.5 * (1 + _erf(x / math.sqrt(2))))
    return np.where(x < 0, (0.01 if function == "leaky_relu" else 0) * x, x)


def slope(function: str, x: Doubles) -> Doubles:
    if function == "gelu":
        density = np.exp(-x * x / 2) / math.sqrt(2 * math.pi)
        return np.asarray(0.5 * (1 + _erf(x / math.sqrt(2))) + x * density)
    return np.where(x > 0, 1.0, 0.01 if function == "leaky_relu" else 0.0)


def fields(function: str, x: Images, batch: Numbers) -> dict[str, Any]:
    _, rows, columns, channels = x.view.shape
    known = {"function": FUNCTIONS[function], "batch": batch.address, "rows": rows, "line": columns * channels}
    return dict.fromkeys(ACTIVATION.names or (), 0) | known | x.fields("input")


def forward(function: str, x: Floats) -> Floats:
    """Apply a function to an array of any shape."""
    source, output = Images(x.reshape(1, 1, 1, -1)), Images(guards(1, 1, 1, x.size))
    record = fields(function, source, Numbers([1])) | output.fields("output")
    call(activate, ACTIVATION, record, 0, 1)
    return output.view.reshape(x.shape)


def backward(function: str, x: Floats, gradient: Floats) -> Floats:
    """Return the gradient by arrays of any shape."""
    source, given, result = Images(x.reshape(1, 1, 1, -1)), Numbers(gradient), Numbers(guards(*x.shape))
    record = fields(function, source, Numbers([1]))
    record |= {"output_gradient": given.address, "input_gradient": result.address}
    call(activate_backward, ACTIVATION, record, 0, 1)
    return result.view


@given(
    function=st.sampled_from(list(FUNCTIONS)),
    shape=st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5), st.integers(1, 20)),
    ring=st.integers(0, 2),
    batch=st.integers(1, 4),
    first=st.integers(0, 3),
    accumulate=st.booleans(),
    seed=SEEDS,
)
def test_any_layout(
    function: str, shape: tuple[int, int, int, int], ring: int, batch: int, first: int, accumulate: bool, seed: int
) -> None:
    random = np.random.default_rng(seed)
    x, g, before = (2 * normal(random, *shape) for _ in range(3))
    covered = slice(first, max(first, min(batch, shape[0])))
    around = ((ring, ring), (ring, ring))
    source, output = Images(x, around), Images(guards(*shape), around, around=float(GUARD))
    given_gradient, result, count = Numbers(g), Numbers(before), Numbers([batch])
    record = fields(function, source, count)
    record |= output.fields("output") | {"output_gradient": given_gradient.address, "accumulate": int(accumulate)}
    call(activate, ACTIVATION, record, first, shape[0])
    call(activate_backward, ACTIVATION, record, first, shape[0])  # nobody wants it
    call(activate_backward, ACTIVATION, record | {"input_gradient": result.address}, first, shape[0])
    wide = x[covered].astype(np.float64)
    assert_near("output", output.view[covered], value(function, wide))
    expected = g[covered] * slope(function, wide) + (before[covered] if accumulate else 0)
    assert_near("gradient", result.view[covered], expected)
    assert output.intact()
    assert result.intact()
    assert (np.delete(output.view, covered, axis=0) == GUARD).all()
    np.testing.assert_array_equal(np.delete(result.view, covered, axis=0), np.delete(before, covered, axis=0))


def test_gelu_is_exact_to_float32() -> None:
    """2e-7 of the size of x: as good as an error function within 4e-7 of 2; the tail is good relative to itself."""
    x = np.concatenate([np.linspace(-14, 14, 200_001), np.geomspace(1e-30, 1e30, 1001)]).astype(np.float32)
    wide = x.astype(np.float64)
    exact = np.array([v * 0.5 * math.erfc(-v / math.sqrt(2)) for v in wide])
    errors = np.abs(forward("gelu", x) - exact)
    assert (errors <= 1.0e-7 * np.maximum(np.abs(x), 1e-30)).all()
    tail = (x > -13) & (x < 0)
    assert (errors[tail] <= 2e-5 * np.abs(exact[tail])).all()
    ones = backward("gelu", x, np.ones_like(x))
    assert np.abs(ones - slope("gelu", wide)).max() < 3e-7


@pytest.mark.parametrize("function", FUNCTIONS)
def test_special_numbers(function: str) -> None:
    x = np.array([np.nan, np.inf, 0.0, 1.0, -1.0, 40.0, -40.0, 3e38, -3e38], np.float32)
    y = forward(function, x)
    assert np.isnan(y[0])
    np.testing.assert_allclose(y[1:], np.append(np.inf, value(function, x[2:].astype(np.float64))), rtol=1e-6)
    ones = backward(function, x[2:], np.ones(7, np.float32))
    expected = slope(function, x[2:].astype(np.float64))
    np.testing.assert_allclose(ones, expected, rtol=1e-6, atol=1e-6)
    assert np.isnan(backward(function, x[3:], np.full(6, np.nan, np.float32))[[0, 2, 4]]).all()


def test_gelu_passes_nan_of_its_input_backward() -> None:
    assert np.isnan(backward("gelu", np.full(3, np.nan, np.float32), np.ones(3, np.float32))).all()
