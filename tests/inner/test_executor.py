"""The executor under real threads: each task once, after its dependencies, highest rank first; idle workers steal."""

import heapq
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from graph_kernels import Journal, meet, note, random_journal, rest
from hypothesis import given, settings
from hypothesis import strategies as st

from bptcnn.inner.executor import Executor, end_of_step
from bptcnn.inner.graph import GraphBuilder, Task, TaskGraph

THREADS = (1, 2, 3, 4)

MANY = settings(max_examples=2 * settings().max_examples)


@pytest.fixture(scope="module", params=THREADS, ids=lambda threads: f"{threads} threads")
def executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    """One executor per number of threads."""
    made = Executor(request.param)
    yield made
    made.close()


def check_run(journal: Journal, times: int) -> None:
    """Check that every task ran in each of the `times` steps since the last reset, never before a predecessor."""
    assert journal.early[0] == 0, "a task began before one that it depends on was done"
    assert (journal.runs == times).all()
    assert journal.clock[0] == times * len(journal.edges)
    assert len(set(journal.places)) == len(journal.edges)
    assert list(journal.lengths) == journal.longest_paths(), "a task saw its predecessors' writes"
    for task, after in enumerate(journal.edges):
        assert all(journal.places[p] < journal.places[task] for p in after)


@MANY
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(1, 300),
    most=st.integers(0, 5),
    reach=st.sampled_from([1, 3, 20, 300]),
)
def test_each_task_runs_once_after_its_dependencies(
    executor: Executor, seed: int, count: int, most: int, reach: int
) -> None:
    journal, graph = random_journal(seed, count, most, reach)
    prepared = executor.prepare(graph)
    for times in range(1, 11):
        executor.run(prepared)
        check_run(journal, times)


@pytest.mark.parametrize("count", [1, 62, 63, 64, 65, 511, 512, 513, 2000])
def test_graph_sizes_around_those_of_the_ready_set(executor: Executor, count: int) -> None:
    for reach in (1, count):
        journal, graph = random_journal(count, count, 2, reach)
        prepared = executor.prepare(graph)
        for times in range(1, 4):
            executor.run(prepared)
            check_run(journal, times)


def test_independent_tasks(executor: Executor) -> None:
    journal = Journal.create([[]] * 700)
    executor.run(executor.prepare(journal.graph([0] * 700, [1.0] * 700)))
    check_run(journal, 1)


def test_very_short_steps_many_times(executor: Executor) -> None:
    """Workers that wake late meet the end of one step and the start of the next."""
    journal = Journal.create([[], [0], [0], [1, 2]])
    prepared = executor.prepare(journal.graph([0] * 4, [1.0] * 4))
    for _ in range(3000):
        executor.run(prepared)
    check_run(journal, 3000)


def test_more_workers_than_cores_and_long_resets() -> None:
    """Workers are preempted at any point: none that wakes up late may touch the next step while it is laid out."""
    journal = Journal.create([[]] * 1500)
    executor = Executor(8)
    prepared = executor.prepare(journal.graph([0] * 1500, [1.0] * 1500))
    for _ in range(200):
        executor.run(prepared)
    executor.close()
    check_run(journal, 200)


def test_alternating_graphs(executor: Executor) -> None:
    drawn = [random_journal(seed, count) for seed, count in enumerate((5, 300, 64, 1))]
    prepared = [executor.prepare(graph) for _, graph in drawn]
    for times in range(1, 101):
        for (journal, _), ready in zip(drawn, prepared, strict=True):
            executor.run(ready)
            assert (journal.runs == times).all()
    for journal, _ in drawn:
        check_run(journal, 100)


def highest_first(graph: TaskGraph) -> list[str]:
    """Return the labels in the order in which one worker takes them."""
    waiting = list(graph.dependencies)
    ready = [task for task, count in enumerate(waiting) if count == 0]
    order = []
    while ready:
        task = heapq.heappop(ready)
        order.append(graph.tasks[task].label)
        for later in graph.successors[task]:
            waiting[later] -= 1
            if waiting[later] == 0:
                heapq.heappush(ready, later)
    return order[:-1]  # without the last one, "end"


@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 200), reach=st.sampled_from([2, 30, 200]))
def test_one_worker_takes_the_highest_rank_first(seed: int, count: int, reach: int) -> None:
    journal, graph = random_journal(seed, count, 3, reach)
    executor = Executor(1)
    executor.run(executor.prepare(graph))
    executor.close()
    assert [str(task) for task in np.argsort(journal.places)] == highest_first(graph)


def test_a_trace_tells_when_and_where_each_task_ran(executor: Executor) -> None:
    journal, graph = random_journal(11, 200)
    prepared = executor.prepare(graph, traced=True)
    executor.run(prepared)
    check_run(journal, 1)
    trace = prepared.trace()
    assert (trace.starts > 0).all()
    assert (trace.ends >= trace.starts).all()
    assert set(trace.workers) <= set(range(executor.threads))
    for task, followers in enumerate(graph.successors):
        for later in followers:
            assert trace.ends[task] <= trace.starts[later]
    for worker in range(executor.threads):
        of_one = np.flatnonzero(trace.workers == worker)
        by_start = of_one[np.argsort(trace.starts[of_one], kind="stable")]
        assert (trace.ends[by_start[:-1]] <= trace.starts[by_start[1:]]).all(), "a worker runs one task at a time"
    executor.run(prepared)
    assert (prepared.trace().starts >= trace.ends.max()).all()
    assert (trace.starts < trace.ends.max() + 1).all(), "a trace is a copy"


@pytest.mark.parametrize("threads", [2, 3, 4])
def test_idle_workers_steal(threads: int) -> None:
    """One task releases as many as there are workers, all into its own worker's set; each waits for all others."""
    journal = Journal.create([[]])
    builder = GraphBuilder()
    first = builder.add(Task("first", note, journal.record, 0, 0, 0, 1.0), ())
    meeting = [builder.add(Task("meet", meet, journal.record, 0, threads + 1, 0, 1.0), [first]) for _ in range(threads)]
    builder.add(Task("last", end_of_step, 0, 0, 0, 0, 1.0), meeting)
    graph = builder.build(end_of_step)
    executor = Executor(threads)
    prepared = executor.prepare(graph, traced=True)
    for _ in range(20):
        journal.reset()
        before = executor.counts()
        executor.run(prepared)
        counts, trace = executor.counts().since(before), prepared.trace()
        places = [worker for task, worker in zip(graph.tasks, trace.workers, strict=True) if task.label == "meet"]
        assert sorted(places) == list(range(threads)), "each worker had one"
        assert counts.steps == 1
        assert sum(counts.steals) >= threads - 1
    executor.close()


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_who_has_no_task_counts_as_idle(threads: int) -> None:
    """One task at a time: while it rests, all other workers are idle."""
    nanoseconds, tasks = 3_000_000, 4
    journal = Journal.create([[]])
    builder, before = GraphBuilder(), list[int]()
    for _ in range(tasks):
        before = [builder.add(Task("rest", rest, journal.record, 0, nanoseconds, 0, 1.0), before)]
    executor = Executor(threads)
    assert executor.counts().idle_share == executor.counts().steals_per_step == 0
    prepared = executor.prepare(builder.build(end_of_step))
    for steps in (1, 2):
        executor.run(prepared)
        counts = executor.counts()
        assert counts.steps == steps
        assert counts.nanoseconds >= steps * tasks * nanoseconds
        assert sum(counts.idle) >= (threads - 1) * steps * tasks * nanoseconds
        assert sum(counts.idle) <= threads * counts.nanoseconds - steps * tasks * nanoseconds
        assert 0 <= min(counts.idle) <= max(counts.idle) <= counts.nanoseconds
        assert len(counts.idle) == len(counts.steals) == threads
    assert counts.idle_share == pytest.approx(sum(counts.idle) / counts.nanoseconds / threads)
    executor.close()


def test_a_run_from_another_thread(executor: Executor) -> None:
    journal, graph = random_journal(3, 150)
    prepared = executor.prepare(graph)
    failures: list[BaseException] = []

    def run() -> None:
        try:
            executor.run(prepared)
        except BaseException as error:
            failures.append(error)

    for times in range(1, 20):
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        executor.run(prepared)
        check_run(journal, 2 * times)
    assert not failures


def test_two_executors_side_by_side() -> None:
    executors = [Executor(2), Executor(3)]
    drawn = [random_journal(seed, 120) for seed in (1, 2)]
    prepared = [executor.prepare(graph) for executor, (_, graph) in zip(executors, drawn, strict=True)]
    together = threading.Barrier(2)

    def run(index: int) -> None:
        together.wait()
        for _ in range(100):
            executors[index].run(prepared[index])

    threads = [threading.Thread(target=run, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for executor in executors:
        executor.close()
    for journal, _ in drawn:
        check_run(journal, 100)
