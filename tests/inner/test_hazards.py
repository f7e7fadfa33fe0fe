"""Tasks that collide in memory stay in program order; those that do not are free."""

from hypothesis import given
from hypothesis import strategies as st

from bptcnn.inner.arena import Span
from bptcnn.inner.tasks import Hazards

SIZE = 12
SPANS = st.builds(
    lambda buffer, begin, length, stripe, name: Span(buffer, begin, min(SIZE, begin + length), *stripe, name),
    st.sampled_from("ab"),
    st.integers(0, SIZE - 1),
    st.integers(1, SIZE),
    st.sampled_from([(0, 1), (0, 1), (0, 2), (1, 2), (0, 3), (2, 3)]),
    st.sampled_from([None, None, None, "n"]),
)
TASKS = st.lists(st.tuples(st.lists(SPANS, max_size=3), st.lists(SPANS, max_size=2)), max_size=25)


def collide(one: list[Span], other: list[Span]) -> bool:
    return any(
        a.buffer == b.buffer
        and set(range(a.begin, a.end)) & set(range(b.begin, b.end))
        and (a.stripes != b.stripes or a.stripe == b.stripe or a.name != b.name)
        for a in one
        for b in other
    )


@given(tasks=TASKS)
def test_colliding_tasks_are_ordered_and_others_wait_for_nothing(tasks: list[tuple[list[Span], list[Span]]]) -> None:
    hazards = Hazards()
    reached: list[set[int]] = []  # all tasks before each
    for index, (reads, writes) in enumerate(tasks):
        before = hazards.before(reads, writes)
        hazards.record(index, reads, writes)
        for earlier in before:
            earlier_reads, earlier_writes = tasks[earlier]
            assert collide(reads, earlier_writes) or collide(writes, [*earlier_reads, *earlier_writes])
        reached.append(before | {task for earlier in before for task in reached[earlier]})
        for earlier in range(index):
            earlier_reads, earlier_writes = tasks[earlier]
            if collide(reads, earlier_writes) or collide(writes, [*earlier_reads, *earlier_writes]):
                assert earlier in reached[index]


def test_readers_do_not_wait_for_each_other() -> None:
    hazards = Hazards()
    whole = Span("a", 0, SIZE)
    hazards.record(0, [], [whole])
    for reader in (1, 2, 3):
        assert hazards.before([whole], []) == {0}
        hazards.record(reader, [whole], [])
    assert hazards.before([], [whole]) == {0, 1, 2, 3}


def test_a_reader_of_a_part_waits_for_all_stripes() -> None:
    hazards = Hazards()
    whole = Span("a", 0, SIZE)
    for stripe in range(3):
        assert hazards.before([], [whole.striped(stripe, 3)]) == set()
        hazards.record(stripe, [], [whole.striped(stripe, 3)])
    assert hazards.before([Span("a", 4, 5)], []) == {0, 1, 2}
