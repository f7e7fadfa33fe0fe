"""The compiled encoding against numpy's, bit for bit and message for message: what is sent, refused and left alone."""

import numpy as np
import numpy.typing as npt
import numpy_wire
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy_wire import outcome

from bptcnn.nodes.divergence import Diverged
from bptcnn.nodes.encoding import ErrorFeedback, decode, decode_onto, encode
from bptcnn.nodes.exchange import require_finite
from bptcnn.nodes.wire import Wire, payload_size

Floats = npt.NDArray[np.float32]
WIRES: tuple[Wire, ...] = ("float32", "float16", "bfloat16")
MANY = 4 * settings().max_examples
SEEDS = st.integers(0, 2**32 - 1)
LENGTHS = st.integers(0, 133)  # several vectors of any unit, and some numbers beside
FINITE = np.array(
    [0, 1, 0x7FFF, 0x8000, 0x7FFFFF, 0x800000, 0x7F7F7FFF, 0x7F7F8000, 0x7F7FEFFF, 0x7F7FF000, 0x7F7FFFFF], np.uint32
)
SPECIAL = np.append(FINITE, np.array([0x7F800000, 0x7F800001, 0x7FC00000, 0x7FFFFFFF], np.uint32))
EXPONENTS = {"finite": (0, 254), "within 16 bits": (0, 253), "near": (90, 130), "tiny": (0, 20)}
KINDS = st.sampled_from(["any", "special", "ends", *EXPONENTS])


def drawn(count: int, kind: str, seed: int) -> Floats:
    """Values of any bits, of finite ones, at the ends of ranges, and of magnitudes that float16 holds side by side."""
    random = np.random.default_rng(seed)
    bits = random.integers(0, 1 << 32, count, np.uint32)
    if kind in EXPONENTS:
        bits = bits & np.uint32(0x807FFFFF) | random.integers(*EXPONENTS[kind], count, np.uint32, True) << 23
    elif kind != "any":
        bits = random.choice(SPECIAL if kind == "special" else FINITE, count) | bits & np.uint32(1 << 31)
    return bits.view(np.float32)


def vectors() -> st.SearchStrategy[Floats]:
    return st.builds(drawn, LENGTHS, KINDS, SEEDS)


def same_bits(left: Floats, right: Floats) -> bool:
    return left.tobytes() == right.tobytes()


@pytest.mark.parametrize("wire", WIRES)
@given(values=vectors())
@settings(max_examples=MANY)
def test_payloads_are_the_same(wire: Wire, values: Floats) -> None:
    before = values.copy()
    assert outcome(lambda: encode(wire, values)) == outcome(lambda: numpy_wire.encode(wire, values))
    assert same_bits(values, before)


@pytest.mark.parametrize("wire", WIRES)
@given(count=LENGTHS, rounds=st.lists(st.tuples(KINDS, SEEDS), min_size=1, max_size=4))
@settings(max_examples=MANY)
def test_what_is_carried_over_is_the_same(wire: Wire, count: int, rounds: list[tuple[str, int]]) -> None:
    ours, theirs = ErrorFeedback(wire, count), numpy_wire.ErrorFeedback(wire, count)
    for kind, seed in rounds:
        progress = drawn(count, kind, seed)
        before = ours.residual.copy()
        sent = outcome(lambda: ours.encode(progress))  # noqa: B023  # called at once
        assert sent == outcome(lambda: theirs.encode(progress))  # noqa: B023
        assert same_bits(ours.residual, theirs.residual)
        assert not isinstance(sent, str) or same_bits(ours.residual, before)


def received(wire: Wire, count: int, kind: str, seed: int) -> npt.NDArray[np.uint8]:
    """A payload: noise, noise with a scale that is one, or what `encode` makes."""
    random = np.random.default_rng(seed)
    if kind == "made":
        return numpy_wire.encode(wire, drawn(count, "within 16 bits", seed))
    payload = random.integers(0, 256, payload_size(wire, count), np.uint8)
    if wire == "float16" and kind == "scaled":
        payload[:4].view(np.float32)[0] = np.ldexp(np.float32(1), random.integers(-149, 128))
        payload[4:].view(np.uint16)[:] &= np.uint16(0xBBFF if seed % 2 else 0xFFFF)  # without infinity and NaN, or with
    return payload


@pytest.mark.parametrize("wire", WIRES)
@given(LENGTHS, st.sampled_from(["made", "scaled", "noise"]), SEEDS, st.integers(0, 3))
@settings(max_examples=MANY)
def test_what_is_received_is_the_same(wire: Wire, count: int, kind: str, seed: int, shift: int) -> None:
    payload = received(wire, count, kind, seed)
    out, onto = np.full(count, np.nan, np.float32), np.linspace(-1, 1, count, dtype=np.float32)
    before = onto.copy()
    moved = memoryview(bytes(shift) + payload.tobytes())[shift:]  # it may begin anywhere

    def read() -> Floats:
        largest = decode(wire, moved, out)
        assert largest == np.abs(out).max(initial=0.0)
        return out

    def added() -> Floats:
        decode_onto(wire, moved, onto)
        return onto

    expected = outcome(lambda: numpy_wire.decode(wire, payload))
    assert outcome(read) == expected
    if isinstance(expected, str):
        assert outcome(added) == expected
        assert same_bits(onto, before)
    else:
        assert same_bits(added(), before + numpy_wire.decode(wire, payload))


@pytest.mark.parametrize("wire", WIRES)
def test_a_payload_of_another_size_is_not_added(wire: Wire) -> None:
    payload = encode(wire, np.ones(6, np.float32))
    onto = np.zeros(5, np.float32)
    with pytest.raises(ValueError, match="bytes for 5 weights"):
        decode_onto(wire, payload, onto)
    assert not onto.any()


@pytest.mark.parametrize("wire", WIRES)
def test_values_that_may_not_be_written_are_encoded(wire: Wire) -> None:
    values = np.linspace(-3, 3, 9, dtype=np.float32)
    values.flags.writeable = False
    assert encode(wire, values).tobytes() == numpy_wire.encode(wire, values).tobytes()
    assert ErrorFeedback(wire, 9).encode(values).tobytes() == numpy_wire.encode(wire, values).tobytes()


@given(vectors(), st.integers(-20, 80))
@settings(max_examples=MANY)
def test_a_norm_beyond_numbers_is_found_whatever_is_known(values: Floats, exponent: int) -> None:
    def diverged(*known: float) -> bool:
        try:
            require_finite(progress, *known)
        except Diverged:
            return True
        return False

    with np.errstate(over="ignore", invalid="ignore"):
        progress = np.ldexp(values, exponent)
        largest = float(np.abs(progress).max(initial=0.0))
        finite = bool(np.isfinite(np.dot(progress, progress)))
    assert diverged() == diverged(largest) == (not finite)
