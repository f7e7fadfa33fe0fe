"""Weights on the wire against float64: how far rounding may go, and that error feedback loses nothing."""

import math
import struct
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bptcnn.nodes.encoding import ErrorFeedback, decode, encode
from bptcnn.nodes.wire import FLOAT32_SECONDS, Wire, choose_wire, payload_size

Floats = npt.NDArray[np.float32]
WIRES: tuple[Wire, ...] = get_args(Wire)
LOSSY = [wire for wire in WIRES if wire != "float32"]
LARGEST_FLOAT32 = float(np.finfo(np.float32).max)
LARGEST = {
    "float32": LARGEST_FLOAT32,
    "float16": (2 - 2.0**-11 - 2.0**-23) * 2.0**127,
    "bfloat16": (2 - 2.0**-8 - 2.0**-23) * 2.0**127,
}
TINY = 2.0**-149  # float32's smallest subnormal


def vectors(largest: float) -> st.SearchStrategy[Floats]:
    """Any finite values: subnormals, zeros of both signs, magnitudes far apart; lengths odd, even and 0."""
    return hnp.arrays(np.float32, st.integers(0, 65), elements=st.floats(-largest, largest, width=32))


def similar() -> st.SearchStrategy[Floats]:
    """Values of about one magnitude, as weights are."""
    normal = hnp.arrays(np.float32, st.integers(1, 65), elements=st.floats(-1.0, 1.0, width=32))
    exponents = st.integers(-100, 100)
    return st.builds(lambda values, exponent: np.ldexp(values, exponent).astype(np.float32), normal, exponents)


def round_trip(wire: Wire, values: Floats) -> Floats:
    payload = encode(wire, values)
    assert payload.dtype == np.uint8
    assert payload.flags.c_contiguous
    assert payload.shape == (payload_size(wire, len(values)),)
    out = np.full(len(values), np.nan, np.float32)
    decode(wire, payload, out)
    return out


@given(vectors(LARGEST_FLOAT32))
def test_float32_is_exact(values: Floats) -> None:
    np.testing.assert_array_equal(round_trip("float32", values).view(np.uint32), values.view(np.uint32))
    assert encode("float32", values).tobytes() == struct.pack(f"<{len(values)}f", *values)


@given(st.one_of(vectors(LARGEST["bfloat16"]), similar()))
def test_bfloat16_rounds_to_the_nearest(values: Floats) -> None:
    exact = values.astype(np.float64)
    error = np.abs(round_trip("bfloat16", values) - exact)
    assert np.all(error <= np.maximum(np.abs(exact) * 2.0**-8, TINY * 2**15))  # of 8 bits; subnormals absolutely


@given(st.one_of(vectors(LARGEST["float16"]), similar()))
def test_float16_rounds_to_the_nearest_of_its_scale(values: Floats) -> None:
    exact = values.astype(np.float64)
    error = np.abs(round_trip("float16", values) - exact)
    scale = float(encode("float16", values)[:4].view("<f4")[0])
    assert np.all(error <= np.maximum(np.abs(exact) * 2.0**-11, scale * 2.0**-25))
    largest = np.abs(exact).max(initial=0.0)
    if largest >= 2.0**-111:
        assert 2.0**14 <= largest / scale < 2.0**15
    if not largest:
        assert scale == 1.0


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("values", [[0.0], [-0.0, 0.0], [TINY * 2**16], [-(2.0**-126)], [1.0, -0.5, 0.25], [2.0**120]])
def test_values_that_every_wire_has(wire: Wire, values: list[float]) -> None:
    wanted = np.array(values, np.float32)
    np.testing.assert_array_equal(round_trip(wire, wanted).view(np.uint32), wanted.view(np.uint32))


def test_subnormals_of_float32_survive_float16() -> None:
    subnormals = np.array([1, 2, 3, 2047], np.uint32).view(np.float32)
    np.testing.assert_array_equal(round_trip("float16", subnormals), subnormals)


@given(st.integers(0x0000, 0x7F7E), st.booleans())
def test_bfloat16_ties_go_to_even(upper: int, negative: bool) -> None:
    upper |= 0x8000 * negative
    tie = np.array([upper << 16 | 0x8000], np.uint32)
    around = np.concatenate([tie - 1, tie, tie + 1]).astype(np.uint32).view(np.float32)
    even = upper + (upper & 1)
    assert list(encode("bfloat16", around).view("<u2")) == [upper, even, upper + 1]


def test_float16_ties_go_to_even() -> None:
    values = np.array([16384.0, 2049.0, 2051.0, 2049.0009765625], np.float32)  # the first sets the scale 1
    assert list(round_trip("float16", values)) == [16384.0, 2048.0, 2052.0, 2050.0]


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("position", [0, 7, 40])
def test_what_is_not_finite_is_not_sent(wire: Wire, wrong: float, position: int) -> None:
    values = np.ones(41, np.float32)
    values[position] = wrong
    with pytest.raises(ValueError, match="not finite"):
        encode(wire, values)
    feedback = ErrorFeedback(wire, 41)
    feedback.encode(np.full(41, 1.001, np.float32))
    before = feedback.residual.copy()
    with pytest.raises(ValueError, match="not finite"):
        feedback.encode(values)
    np.testing.assert_array_equal(feedback.residual, before)


@pytest.mark.parametrize("wire", LOSSY)
@pytest.mark.parametrize("sign", [1, -1])
def test_what_16_bits_would_round_to_infinity_is_not_sent(wire: Wire, sign: int) -> None:
    kept = np.array([sign * LARGEST[wire]], np.float32)
    assert np.isfinite(round_trip(wire, kept)).all()
    with pytest.raises(ValueError, match="beyond the range"):
        encode(wire, np.nextafter(kept, np.float32(sign * np.inf)))


def test_a_sum_that_overflows_is_not_sent() -> None:
    feedback = ErrorFeedback("float16", 1)
    feedback.encode(np.array([LARGEST["float16"]], np.float32))
    assert feedback.residual[0] > 0.0
    with pytest.raises(ValueError, match="not finite"):
        feedback.encode(np.array([LARGEST_FLOAT32], np.float32))


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_a_payload_of_another_size_is_refused(wire: Wire, count: int) -> None:
    payload = encode(wire, np.ones(count, np.float32)).tobytes()
    for wrong in (payload + b"\0", payload[:-1], payload + payload, payload[: len(payload) // 2]):
        if len(wrong) != len(payload):
            with pytest.raises(ValueError, match=f"{len(wrong)} bytes for {count} weights"):
                decode(wire, wrong, np.empty(count, np.float32))


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
@pytest.mark.parametrize("wire", WIRES)
def test_any_buffer_is_decoded(wire: Wire, kind: Any) -> None:
    out = np.empty(3, np.float32)
    decode(wire, kind(encode(wire, np.array([1, 2, -3], np.float32)).tobytes()), out)
    assert list(out) == [1, 2, -3]


@pytest.mark.parametrize(
    ("wire", "payload"),
    [
        ("float32", struct.pack("<2f", 1.0, math.nan)),
        ("float32", struct.pack("<2f", -math.inf, 1.0)),
        ("bfloat16", struct.pack("<2H", 0x7F80, 0)),
        ("bfloat16", struct.pack("<2H", 0, 0xFFC1)),
        ("float16", struct.pack("<f2e", 1.0, 1.0, math.inf)),
        ("float16", struct.pack("<f2e", 1.0, math.nan, 1.0)),
        ("float16", struct.pack("<f2e", 2.0**127, 65504.0, 1.0)),
    ],
)
def test_received_values_that_are_not_finite_are_refused(wire: Wire, payload: bytes) -> None:
    with pytest.raises(ValueError, match="not finite"):
        decode(wire, payload, np.empty(2, np.float32))


@pytest.mark.parametrize("scale", [0.0, -1.0, 3.0, math.nan, math.inf])
def test_a_scale_that_is_no_power_of_two_is_refused(scale: float) -> None:
    with pytest.raises(ValueError, match="not a power of two"):
        decode("float16", struct.pack("<f2e", scale, 1.0, 1.0), np.empty(2, np.float32))


@given(st.sampled_from(WIRES), st.binary(min_size=14, max_size=14))
def test_random_bytes_are_decoded_or_refused(wire: Wire, noise: bytes) -> None:
    payload = noise[: payload_size(wire, 3)]
    out = np.empty(3, np.float32)
    try:
        decode(wire, payload, out)
    except ValueError:
        return
    assert np.isfinite(out).all()


@given(
    st.sampled_from(LOSSY),
    st.integers(1, 33),
    st.integers(1, 40),
    st.integers(-60, 60),
    st.floats(0, 6),
    st.integers(0, 2**32 - 1),
)
def test_error_feedback_loses_nothing(
    wire: Wire, count: int, rounds: int, exponent: int, decades: float, seed: int
) -> None:
    random = np.random.default_rng(seed)
    spread = 10 ** random.uniform(-decades, 0, count)
    feedback = ErrorFeedback(wire, count)
    sent = np.zeros(count)
    learned = np.zeros(count)
    additions = np.zeros(count)  # what adding the residual may round off, in all
    out = np.empty(count, np.float32)
    for _ in range(rounds):
        progress = np.ldexp(random.standard_normal(count) * spread, exponent).astype(np.float32)
        total = progress.astype(np.float64) + feedback.residual
        additions += np.abs(total) * 2.0**-24
        payload = feedback.encode(progress)
        decode(wire, payload, out)
        scale = float(payload[:4].view("<f4")[0]) if wire == "float16" else 0.0
        bound = np.maximum(
            np.abs(total) * (2.0**-8 if wire == "bfloat16" else 2.0**-11) * (1 + 2.0**-23), scale * 2.0**-25
        )
        assert np.all(np.abs(feedback.residual) <= bound)  # one rounding, however many rounds
        sent += out
        learned += progress
        assert np.all(np.abs(sent + feedback.residual - learned) <= additions * (1 + 2.0**-20))


@given(similar(), st.integers(1, 5))
def test_float32_leaves_no_residual(progress: Floats, rounds: int) -> None:
    feedback = ErrorFeedback("float32", len(progress))
    for _ in range(rounds):
        np.testing.assert_array_equal(feedback.encode(progress), encode("float32", progress))
    assert not feedback.residual.any()


@pytest.mark.parametrize("wire", WIRES)
def test_a_payload_stays_as_it_is_and_progress_too(wire: Wire) -> None:
    feedback = ErrorFeedback(wire, 5)
    progress = np.full(5, 1.001, np.float32)
    first = feedback.encode(progress)
    copy = first.copy()
    feedback.encode(-3 * progress)
    np.testing.assert_array_equal(first, copy)
    assert (progress == np.float32(1.001)).all()


def test_progress_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="shape"):
        ErrorFeedback("bfloat16", 5).encode(np.zeros(4, np.float32))


@pytest.mark.parametrize("wire", WIRES)
def test_strided_values_are_encoded(wire: Wire) -> None:
    values = np.arange(20, dtype=np.float32)
    np.testing.assert_array_equal(encode(wire, values[::2]), encode(wire, values[::2].copy()))
    np.testing.assert_array_equal(ErrorFeedback(wire, 10).encode(values[::2]), encode(wire, values[::2].copy()))


def test_small_enough_sets_travel_whole() -> None:
    assert choose_wire(1_000, 4_000 / FLOAT32_SECONDS) == "float32"
    assert choose_wire(1_000, 3_999 / FLOAT32_SECONDS) == "bfloat16"
    assert choose_wire(421_642, 1e9) == "float32"
    assert choose_wire(421_642, 12.5e6) == "bfloat16"
    assert choose_wire(1, 0.0) == "bfloat16"
    assert choose_wire(10**9, math.inf) == "float32"
