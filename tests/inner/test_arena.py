"""Buffers that are needed at the same turn never lie over one another; those that do lie so collide as spans."""

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
            assert arena.whole(one).striped(0, 2).meets(arena.whole(other).striped(1, 2)) == shares


def test_what_is_needed_in_turn_takes_the_memory_of_the_largest() -> None:
    arena = Arena()
    for turn in range(5):
        arena.reserve(turn, 100 * (turn + 1), needed=Turns(turn, turn))
    arena.overlay()
    assert arena.size < 4 * 500 + SLACK + 64
    assert len({arena.span(turn, 0, 1).begin for turn in range(5)}) == 1
