"""Each pass over weights against numpy's operations, bit for bit: every 16-bit pattern, and any 32 bits."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bptcnn.kernels import rounding

Floats = npt.NDArray[np.float32]
Halves = npt.NDArray[np.uint16]
ALL_HALVES: Halves = np.arange(1 << 16, dtype=np.uint32).astype(np.uint16)
SPECIAL = np.array([0, 1, 0x7FFFFF, 0x800000, 0x3F800000, 0x7F7FFFFF, 0x7F800000, 0x7FC00000], np.uint32)
SEEDS = st.integers(0, 2**32 - 1)
LENGTHS = st.integers(0, 133)
MANY = 4 * settings().max_examples
LOWER = (0x0000, 0x0001, 0x0FFF, 0x1000, 0x1001, 0x2000, 0x3000, 0x7FFF, 0x8000, 0x8001, 0xFFFF)


def any_bits(rows: int) -> st.SearchStrategy[Floats]:
    """(rows, n) of any bits, or of values that are near each other."""
    return st.builds(drawn, st.just(rows), LENGTHS, st.sampled_from(["any", "special", "near"]), SEEDS)


def drawn(rows: int, count: int, kind: str, seed: int) -> Floats:
    random = np.random.default_rng(seed)
    if kind == "near":
        return random.normal(0, 2, (rows, count)).astype(np.float32)
    bits = random.integers(0, 1 << 32, (rows, count), np.uint32)
    if kind == "special":
        bits = random.choice(SPECIAL, (rows, count)) | bits & np.uint32(1 << 31)
    return bits.view(np.float32)


def assert_same(actual: Floats, expected: Floats) -> None:
    """Bit for bit, but that a NaN may be any."""
    number = ~np.isnan(expected)
    assert np.isnan(actual[~number]).all()
    assert np.array_equal(actual[number].view(np.uint32), expected[number].view(np.uint32))


def assert_largest(found: float, values: Floats) -> None:
    if np.isfinite(values).all():
        assert found == np.abs(values).max(initial=0.0)
    else:
        assert not np.isfinite(found)


def any_halves(count: int, finite: bool, seed: int) -> Halves:
    """Any bits, or those whose value is finite in both formats."""
    halves = np.random.default_rng(seed).integers(0, 1 << 16, count, np.uint16)
    return halves & np.uint16(0xBBFF) if finite else halves


ANY_HALVES = st.builds(any_halves, LENGTHS, st.booleans(), SEEDS)


def rounded(values: Floats) -> Halves:
    """Finite values as bfloat16."""
    bits = values.view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def widened(halves: Halves) -> Floats:
    """The values of bfloat16."""
    return (halves.astype(np.uint32) << 16).view(np.float32)


def finite_halves() -> Floats:
    """Numbers at, beside and halfway between those of either 16-bit format, in one vector."""
    bits = np.concatenate([ALL_HALVES.astype(np.uint32) << 16 | lower for lower in LOWER])
    values = bits.astype(np.uint32).view(np.float32)
    return values[np.isfinite(values)]


# ---- float32 ---------------------------------------------------------------------------------------------------------


@given(any_bits(2))
@settings(max_examples=MANY)
def test_differences_sums_and_copies(pair: Floats) -> None:
    first, second = pair
    out = np.empty_like(first)
    with np.errstate(over="ignore", invalid="ignore"):
        wanted = {rounding.subtract: first - second, rounding.add: first + second}
    for kernel, expected in wanted.items():
        assert_largest(kernel(first, second, out), expected)
        assert_same(out, expected)
    assert_largest(rounding.copy(first, out), first)
    assert np.array_equal(out.view(np.uint32), first.view(np.uint32))


@given(any_bits(2))
@settings(max_examples=MANY)
def test_only_what_is_finite_is_added(pair: Floats) -> None:
    values, onto = pair[0], pair[1].copy()
    assert_largest(rounding.accumulate(values, onto), values)
    with np.errstate(over="ignore", invalid="ignore"):
        assert_same(onto, pair[1] + values if np.isfinite(values).all() else pair[1])


@given(any_bits(3))
@settings(max_examples=MANY)
def test_progress_is_carried_over(three: Floats) -> None:
    held, landing, weights = three.copy()
    rounding.carry_over(held, landing, weights)
    with np.errstate(over="ignore", invalid="ignore"):
        shift = three[0] - three[1]
        assert_same(landing, shift)
        assert_same(weights, three[2] + shift)
    assert_same(held, three[0])


# ---- bfloat16 --------------------------------------------------------------------------------------------------------


def test_every_bfloat16_is_read() -> None:
    out = np.empty(1 << 16, np.float32)
    assert not np.isfinite(rounding.from_bfloat16(ALL_HALVES, out))
    assert np.array_equal(out.view(np.uint32), ALL_HALVES.astype(np.uint32) << 16)


def test_whatever_lies_between_two_bfloat16_is_rounded() -> None:
    values = finite_halves()
    values = values[np.abs(values) < 2.0**127.5]
    halves, rest = np.empty(len(values), np.uint16), np.empty(len(values), np.float32)
    assert rounding.to_bfloat16(values, halves) == np.abs(values).max()
    assert np.array_equal(halves, rounded(values))
    halves[:] = 0
    minus_zero = np.full(len(values), -0.0, np.float32)  # adding it changes nothing
    assert rounding.to_bfloat16_fed(values, minus_zero, halves, rest) == np.abs(values).max()
    assert np.array_equal(halves, rounded(values))
    assert_same(rest, values - widened(halves))


@given(any_bits(2))
@settings(max_examples=MANY)
def test_bfloat16_of_a_sum(pair: Floats) -> None:
    halves, rest = np.empty(pair.shape[1], np.uint16), np.empty(pair.shape[1], np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        total = pair[0] + pair[1]
    before = pair.copy()
    assert_largest(rounding.to_bfloat16_fed(pair[0], pair[1], halves, rest), total)
    assert_same(pair, before)
    held = np.abs(total) < 2.0**127.5
    assert np.array_equal(halves[held], rounded(total[held]))
    assert_same(rest[held], total[held] - widened(halves[held]))
    assert_largest(rounding.to_bfloat16(pair[0], halves), pair[0])


@given(ANY_HALVES, SEEDS)
@settings(max_examples=MANY)
def test_only_finite_bfloat16_is_added(halves: Halves, seed: int) -> None:
    before = drawn(1, len(halves), "near", seed)[0]
    onto, values = before.copy(), widened(halves)
    assert_largest(rounding.accumulate_bfloat16(halves, onto), values)
    assert_same(onto, before + values if np.isfinite(values).all() else before)


# ---- float16 ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("exponent", [-126, -60, -1, 0, 1, 100, 127])
def test_every_float16_is_read(exponent: int) -> None:
    scale = np.float32(2.0**exponent)
    out = np.empty(1 << 16, np.float32)
    assert not np.isfinite(rounding.from_float16(ALL_HALVES, scale, out))
    with np.errstate(over="ignore", invalid="ignore"):
        assert_same(out, ALL_HALVES.view(np.float16).astype(np.float32) * scale)


@pytest.mark.parametrize("exponent", [-126, -60, 0, 60, 112])
def test_whatever_lies_between_two_float16_is_rounded(exponent: int) -> None:
    scale, inverse = np.float32(2.0**exponent), np.float32(2.0**-exponent)
    values = finite_halves()
    values = values[np.abs(values) < np.ldexp(1.0, 15 + exponent)]
    rest, halves = values.copy(), np.empty(len(values), np.uint16)
    rounding.to_float16(rest, scale, inverse, halves)
    expected = (values * inverse).astype(np.float16)
    assert np.array_equal(halves, expected.view(np.uint16))
    assert_same(rest, values - expected.astype(np.float32) * scale)


def test_float16_beside_its_subnormals() -> None:
    halves = ALL_HALVES.view(np.float16)
    near = halves[np.isfinite(halves)].astype(np.float64)
    steps = np.concatenate([near + shift * 2.0**-26 for shift in range(-4, 5)]).astype(np.float32)
    values = steps[np.abs(steps) < 2.0**15]
    found = np.empty(len(values), np.uint16)
    rounding.to_float16(values.copy(), np.float32(1), np.float32(1), found)
    assert np.array_equal(found, values.astype(np.float16).view(np.uint16))


@given(ANY_HALVES, st.integers(-126, 127), SEEDS)
@settings(max_examples=MANY)
def test_only_finite_float16_is_added(halves: Halves, exponent: int, seed: int) -> None:
    scale = np.float32(2.0**exponent)
    before = drawn(1, len(halves), "near", seed)[0]
    with np.errstate(over="ignore", invalid="ignore"):
        values = halves.view(np.float16).astype(np.float32) * scale
    onto = before.copy()
    assert_largest(rounding.accumulate_float16(halves, scale, onto), values)
    assert_same(onto, before + values if np.isfinite(values).all() else before)


# ---- lengths ---------------------------------------------------------------------------------------------------------


def test_vectors_of_different_lengths_are_refused() -> None:
    short, long = np.zeros(4, np.float32), np.zeros(5, np.float32)
    halves = np.zeros(4, np.uint16)
    one = np.float32(1)
    calls = [
        lambda: rounding.subtract(long, short, short),
        lambda: rounding.subtract(short, long, short),
        lambda: rounding.add(short, short, long),
        lambda: rounding.copy(long, short),
        lambda: rounding.accumulate(short, long),
        lambda: rounding.carry_over(short, long, short),
        lambda: rounding.carry_over(long, short, short),
        lambda: rounding.to_bfloat16(long, halves),
        lambda: rounding.to_bfloat16_fed(short, short, halves, long),
        lambda: rounding.from_bfloat16(halves, long),
        lambda: rounding.accumulate_bfloat16(halves, long),
        lambda: rounding.to_float16(long, one, one, halves),
        lambda: rounding.from_float16(halves, one, long),
        lambda: rounding.accumulate_float16(halves, one, long),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="different lengths"):
            call()
    assert not any(vector.any() for vector in (short, long, halves))
