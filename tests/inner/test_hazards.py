"""Tasks that collide in memory stay in program order; those that do not are free."""

from collections.abc import Set

from hypothesis import given
from hypothesis import strategies as st

from bptcnn.inner.arena import Span
from bptcnn.inner.hazards import Hazards

SIZE = 12
SPANS = st.builds(
    lambda buffer, begin, length, stripe, name: Span(buffer, begin, min(SIZE, begin + length), *stripe, name),
    st.sampled_from("ab"),
    st.integers(0, SIZE - 1),
    st.integers(1, SIZE),
    st.sampled_from([(0, None), (0, None), (0, "2"), (1, "2"), (0, "3"), (2, "3"), (1, "another 3")]),
    st.sampled_from([None, None, None, "n"]),
)
TASKS = st.lists(st.tuples(st.lists(SPANS, max_size=3), st.lists(SPANS, max_size=2)), max_size=25)


def collide(one: list[Span], other: list[Span]) -> bool:
    return any(
        a.buffer == b.buffer
        and set(range(a.begin, a.end)) & set(range(b.begin, b.end))
        and (a.divided != b.divided or a.stripe == b.stripe or a.name != b.name)
        for a in one
        for b in other
    )


class Program:
    """Tasks in program order, with the tasks right before each; joins are tasks, too."""

    def __init__(self, most: int) -> None:
        self.before: list[set[int]] = []
        self.joins: set[int] = set()
        self.hazards = Hazards(self._join, most)

    def _join(self, tasks: Set[int]) -> int:
        self.before.append(set(tasks))
        self.joins.add(len(self.before) - 1)
        return len(self.before) - 1

    def add(self, reads: list[Span], writes: list[Span]) -> int:
        before = self.hazards.before(reads, writes)
        self.before.append(before)
        self.hazards.record(len(self.before) - 1, reads, writes)
        return len(self.before) - 1

    def reached(self) -> list[set[int]]:
        """Return all tasks before each."""
        found: list[set[int]] = []
        for before in self.before:
            found.append(before | {task for earlier in before for task in found[earlier]})
        return found


@given(tasks=TASKS, most=st.sampled_from([1, 2, 3, 99]))
def test_colliding_tasks_are_ordered_and_others_wait_for_nothing(
    tasks: list[tuple[list[Span], list[Span]]], most: int
) -> None:
    program = Program(most)
    places = [program.add(*task) for task in tasks]
    reached = program.reached()
    for index, (reads, writes) in enumerate(tasks):
        for earlier in range(index):
            earlier_reads, earlier_writes = tasks[earlier]
            collides = collide(reads, earlier_writes) or collide(writes, [*earlier_reads, *earlier_writes])
            if collides:
                assert places[earlier] in reached[places[index]]
            elif not program.joins:
                assert places[earlier] not in program.before[places[index]]


def test_readers_do_not_wait_for_each_other() -> None:
    program = Program(99)
    whole = Span("a", 0, SIZE)
    program.add([], [whole])
    for _ in range(3):
        assert program.before[program.add([whole], [])] == {0}
    assert program.before[program.add([], [whole])] == {0, 1, 2, 3}


def test_a_reader_of_a_part_waits_for_all_stripes() -> None:
    program = Program(99)
    whole = Span("a", 0, SIZE)
    for stripe in range(3):
        assert program.before[program.add([], [whole.striped(stripe, 3, "x")])] == set()
    assert program.before[program.add([Span("a", 4, 5)], [])] == {0, 1, 2}


def test_who_divides_otherwise_waits_for_all_stripes() -> None:
    program = Program(99)
    whole = Span("a", 0, SIZE)
    for stripe in range(3):
        program.add([], [whole.striped(stripe, 3, "x")])
    for stripe in range(3):
        assert program.before[program.add([], [whole.striped(stripe, 3, "y")])] == {0, 1, 2}


def test_many_tasks_behind_many_others_wait_for_one_join() -> None:
    program = Program(8)
    whole = Span("a", 0, SIZE)
    for stripe in range(20):
        program.add([], [whole.striped(stripe, 20, "x")])
    readers = [program.add([whole], []) for _ in range(20)]
    writers = [program.add([], [whole.striped(stripe, 20, "x")]) for stripe in range(20)]
    assert len(program.joins) == 2
    assert all(len(program.before[task]) == 1 for task in readers + writers)
