"""Buffers that are needed at the same turn never lie over one another; those that do lie so collide as spans."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bptcnn.inner.arena import Arena, Turns
from bptcnn.kernels.tile import SLACK

TURNS = st.builds(lambda first, length: Turns(first, first + length), st.integers(0, 12), st.integers(0, 5))
BUFFERS = st.lists(st.tuples(st.integers(1, 2000), st.one_of(st.none(), TURNS)), min_size=1, max_size=15)


@given(buffers=BUFFERS)
def test_buffers_needed_together_lie_apart(buffers: list[tuple[int, Turns | None]]) -> None:
    arena = Arena()
    for name, (count, needed) in enumerate(buffers):
        arena.reserve(name, count, needed=needed)
    arena.overlay()
    arena.allocate()
    start = min(arena.address(name) for name in range(len(buffers)))
    for one, (count, needed) in enumerate(buffers):
        assert arena.address(one) % 64 == 0
        assert arena.address(one) + 4 * count + SLACK <= start + arena.size
        for other, (length, its) in enumerate(buffers[:one]):
            behind = arena.address(one) >= arena.address(other) + 4 * length + SLACK
            apart = behind or arena.address(other) >= arena.address(one) + 4 * count + SLACK
            assert apart or (needed is not None and its is not None and not needed.meets(its))
            shares = not (
                arena.address(one) >= arena.address(other) + 4 * length
                or arena.address(other) >= arena.address(one) + 4 * count
            )
            assert arena.whole(one).meets(arena.whole(other)) == shares
            assert arena.whole(one).striped(0, 2, "x").meets(arena.whole(other).striped(1, 2, "x")) == shares


def test_what_is_needed_in_turn_takes_the_memory_of_the_largest() -> None:
    arena = Arena()
    for turn in range(5):
        arena.reserve(turn, 100 * (turn + 1), needed=Turns(turn, turn))
    arena.overlay()
    assert arena.size < 4 * 500 + SLACK + 64
    assert len({arena.span(turn, 0, 1).begin for turn in range(5)}) == 1


def filled(count: int, stride: int) -> Arena:
    arena = Arena()
    arena.reserve("one", count, stride)
    arena.reserve("next", 1)
    arena.allocate()
    return arena


@given(size=st.integers(0, 300), dtype=st.sampled_from([np.uint8, np.uint16, np.float32, np.int64]))
def test_a_view_holds_no_more_than_its_buffer(size: int, dtype: type[np.generic]) -> None:
    arena, most = filled(size, 1), size // np.dtype(dtype).itemsize
    arena.view("one", most, dtype)[:] = 1
    assert arena.view("next", 1)[0] == 0
    for count in (most + 1, -1):
        with pytest.raises(IndexError, match=f"one of {size} bytes does not hold {count} elements"):
            arena.view("one", count, dtype)
    with pytest.raises(IndexError):
        arena.view("one", size // 4 + 1)  # float32, where nothing else is said


@given(count=st.integers(1, 9), stride=st.integers(1, 9))
def test_a_span_is_within_its_buffer(count: int, stride: int) -> None:
    arena = filled(count, stride)
    assert arena.span("one", 0, count) == arena.whole("one")
    for first, last in ((0, count + 1), (-1, 1), (1, 0), (count + 1, count + 1)):
        with pytest.raises(IndexError, match="one of"):
            arena.span("one", first, last)


def test_stripes_of_other_divisions_meet() -> None:
    whole = filled(10, 4).whole("one")
    assert not whole.striped(0, 3, "x").meets(whole.striped(1, 3, "x"))
    assert whole.striped(0, 3, "x").meets(whole.striped(1, 3, "y"))
    assert whole.striped(0, 3, "x").meets(whole.striped(1, 4, "x"))
    assert not whole.striped(0, 3, "x").covers(whole.striped(0, 3, "y"))
    with pytest.raises(IndexError):
        whole.striped(3, 3, "x")


def test_what_shares_a_buffer_agrees_on_its_size() -> None:
    arena = Arena()
    arena.reserve_once("one", 3, 8)
    arena.reserve_once("one", 6, 4)
    with pytest.raises(ValueError, match="one holds 24 bytes, not 32"):
        arena.reserve_once("one", 4, 8)


def test_what_is_kept_shares_no_memory() -> None:
    with pytest.raises(ValueError, match="one cannot keep"):
        Arena().reserve("one", 1, needed=Turns(0, 1), kept=True)
