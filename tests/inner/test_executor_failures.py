"""A kernel that fails stops the step and names its task; nothing that depends on it runs; the next step works."""

from collections.abc import Iterator

import pytest
from graph_kernels import Journal, begin_and_rest, fail_once_begun, random_journal
from hypothesis import given
from hypothesis import strategies as st

from bptcnn.inner.executor import Executor, KernelError, end_of_step
from bptcnn.inner.graph import GraphBuilder, Task


@pytest.fixture(scope="module", params=(1, 2, 4), ids=lambda threads: f"{threads} threads")
def executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    """One executor per number of threads."""
    made = Executor(request.param)
    yield made
    made.close()


@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(1, 150),
    status=st.sampled_from([1, 2, 255, -1, 2**40, -(2**62)]),
    data=st.data(),
)
def test_a_failing_kernel(executor: Executor, seed: int, count: int, status: int, data: st.DataObject) -> None:
    journal, graph = random_journal(seed, count)
    failing = data.draw(st.integers(0, count - 1))
    prepared = executor.prepare(graph)
    for _ in range(3):
        journal.reset()
        journal.failing[0], journal.status[0] = failing, status
        with pytest.raises(KernelError) as caught:
            executor.run(prepared)
        assert caught.value.status == status
        assert caught.value.label == str(failing)
        assert str(failing) in str(caught.value)
        assert str(status) in str(caught.value)
        assert journal.runs[failing] == 1
        assert journal.runs.max() == 1
        assert journal.early[0] == 0
        assert not any(journal.runs[task] for task in journal.dependents(failing))

        journal.reset()
        executor.run(prepared)
        assert (journal.runs == 1).all()
        assert journal.early[0] == 0


def test_one_worker_runs_nothing_after_a_failure() -> None:
    journal, graph = random_journal(5, 100)
    executor = Executor(1)
    prepared = executor.prepare(graph)
    for failing in range(0, 100, 9):
        journal.reset()
        journal.failing[0], journal.status[0] = failing, 3
        with pytest.raises(KernelError):
            executor.run(prepared)
        assert journal.places[failing] == journal.clock[0] - 1
    executor.close()


def test_a_failure_in_the_only_task_and_in_every_task_at_once(executor: Executor) -> None:
    journal, graph = random_journal(0, 1)
    journal.failing[0], journal.status[0] = 0, 9
    prepared = executor.prepare(graph)
    for _ in range(200):
        with pytest.raises(KernelError, match="9"):
            executor.run(prepared)


def test_nothing_that_waits_for_a_failed_task_slips_through(executor: Executor) -> None:
    """The others look for tasks all the while that the first one fails."""
    journal = Journal.create([[], *[[0]] * 60])
    prepared = executor.prepare(journal.graph([200] + [0] * 60, [1.0] * 61))
    for _ in range(500):
        journal.reset()
        journal.failing[0], journal.status[0] = 0, 4
        with pytest.raises(KernelError, match="task 0 failed with status 4"):
            executor.run(prepared)
        assert journal.clock[0] == 1


@pytest.mark.parametrize("threads", [2, 4])
def test_running_tasks_finish_before_the_failure_is_raised(threads: int) -> None:
    """One task fails once another is running; what follows would otherwise meet it in the next step."""
    journal = Journal.create([[], []])
    builder = GraphBuilder()
    builder.add(Task("fail", fail_once_begun, journal.record, 0, 0, 0, 2.0), ())
    builder.add(Task("rest", begin_and_rest, journal.record, 1, 20_000_000, 0, 1.0), ())
    executor = Executor(threads)
    prepared = executor.prepare(builder.build(end_of_step))
    for _ in range(5):
        journal.reset()
        journal.status[0] = 6
        with pytest.raises(KernelError, match="task fail failed with status 6"):
            executor.run(prepared)
        assert journal.runs[1] == 1
    executor.close()
