"""Simulated schedules: bounds that hold for every graph, and small ones whose schedule is known."""

import itertools

import numpy as np
import pytest
from graph_kernels import random_edges, random_journal
from hypothesis import given
from hypothesis import strategies as st

from bptcnn.inner.executor import Executor, end_of_step
from bptcnn.inner.graph import GraphBuilder, Task, TaskGraph
from bptcnn.inner.schedule import Schedule, simulate

Edges = list[list[int]]
OVERHEADS = st.sampled_from([0.0, 1.0, 85.0])


def graph_of(costs: list[float], edges: Edges) -> TaskGraph:
    """Return the graph of these tasks, labelled by their index; `edges`: the earlier tasks that each waits for."""
    builder = GraphBuilder()
    for index, (cost, after) in enumerate(zip(costs, edges, strict=True)):
        builder.add(Task(str(index), end_of_step, 0, 0, 0, 0, cost), after)
    return builder.build(end_of_step)


@st.composite
def graphs(draw: st.DrawFn) -> TaskGraph:
    """Draw a graph whose costs are whole numbers, so that sums are exact."""
    count = draw(st.integers(1, 60))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    edges = random_edges(random, count, draw(st.integers(0, 4)), draw(st.integers(1, 60)))
    most = draw(st.sampled_from([1, 2, 1000]))  # few different costs: many tasks end at once
    return graph_of([float(c) for c in random.integers(1, most + 1, count)], edges)


def check(schedule: Schedule, graph: TaskGraph) -> None:
    """Check what every schedule keeps to."""
    count, overhead = len(graph.tasks), schedule.overhead
    assert len(schedule.starts) == len(schedule.ends) == len(schedule.workers) == count
    for task, (start, end) in enumerate(zip(schedule.starts, schedule.ends, strict=True)):
        assert end - start == graph.costs[task]
        assert start >= overhead
        assert all(schedule.starts[later] >= end + overhead for later in graph.successors[task])
    assert set(schedule.workers) <= set(range(schedule.threads))
    for worker in range(schedule.threads):
        own = sorted((schedule.starts[t], schedule.ends[t]) for t in range(count) if schedule.workers[t] == worker)
        assert all(end + overhead <= start for (_, end), (start, _) in itertools.pairwise(own))


@given(graph=graphs(), threads=st.integers(1, 9), overhead=OVERHEADS)
def test_the_bounds_of_every_schedule(graph: TaskGraph, threads: int, overhead: float) -> None:
    schedule = simulate(graph, threads, overhead)
    check(schedule, graph)
    total = sum(graph.costs) + overhead * len(graph.tasks)
    longest = graph.with_costs([cost + overhead for cost in graph.costs]).ranks[0]
    assert schedule.makespan >= longest
    assert schedule.makespan >= total / threads
    assert schedule.makespan <= total
    # list scheduling: while a thread waits, the longest path gets shorter (R. Graham, 1969)
    assert schedule.makespan <= total / threads + longest * (1 - 1 / threads) + 1e-6
    assert schedule.speed_up == pytest.approx(total / schedule.makespan)
    assert schedule.busy == sum(graph.costs)
    assert schedule.idle_share == pytest.approx(1 - sum(graph.costs) / (threads * schedule.makespan))
    assert 0 <= schedule.steals <= len(graph.tasks)
    assert simulate(graph, threads, overhead) == schedule


@given(graph=graphs(), overhead=OVERHEADS)
def test_one_thread_takes_one_task_after_the_other_and_the_highest_rank_first(
    graph: TaskGraph, overhead: float
) -> None:
    schedule = simulate(graph, 1, overhead)
    assert schedule.makespan == sum(graph.costs) + overhead * len(graph.tasks)
    assert (schedule.speed_up, schedule.steals) == (1, 0)
    if not overhead:
        assert schedule.idle_share == 0
    waiting = graph.dependencies.tolist()
    ready = {task for task, count in enumerate(waiting) if not count}
    for task in sorted(range(len(graph.tasks)), key=lambda task: schedule.starts[task]):
        assert task == min(ready), "not the most urgent of those that could run"
        ready.remove(task)
        for later in graph.successors[task]:
            waiting[later] -= 1
            if not waiting[later]:
                ready.add(later)


@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 200))
def test_one_thread_runs_in_the_executors_order(seed: int, count: int) -> None:
    journal, graph = random_journal(seed, count)
    executor = Executor(1)
    executor.run(executor.prepare(graph))
    executor.close()
    schedule = simulate(graph, 1)
    order = sorted(range(count), key=lambda task: schedule.starts[task])
    assert [int(graph.tasks[task].label) for task in order] == np.argsort(journal.places).tolist()


@given(graph=graphs(), threads=st.integers(2, 9))
def test_nobody_waits_while_there_are_tasks(graph: TaskGraph, threads: int) -> None:
    schedule = simulate(graph, threads)
    before: dict[int, list[int]] = {}
    for task, followers in enumerate(graph.successors):
        for later in followers:
            before.setdefault(later, []).append(task)
    for task, start in enumerate(schedule.starts):
        could = max((schedule.ends[earlier] for earlier in before.get(task, [])), default=0.0)
        if start > could:
            times = zip(schedule.starts, schedule.ends, strict=True)
            running = sum(begin <= could < end for begin, end in times)
            assert running == threads, f"task {task} waits from {could} to {start} while {running} run"


@given(costs=st.lists(st.integers(1, 100).map(float), min_size=1, max_size=30), threads=st.integers(1, 5))
def test_a_chain_stays_on_its_thread(costs: list[float], threads: int) -> None:
    schedule = simulate(graph_of(costs, [[i - 1] if i else [] for i in range(len(costs))]), threads)
    assert schedule.makespan == sum(costs) + 1  # the last task's own nanosecond
    assert set(schedule.workers) == {0}
    assert schedule.steals == 0
    assert schedule.idle_share == pytest.approx(1 - 1 / threads)


@pytest.mark.parametrize(("tasks", "threads"), [(12, 4), (13, 4), (3, 4), (64, 64), (16, 3)])
def test_independent_tasks_of_one_length_run_in_rounds(tasks: int, threads: int) -> None:
    schedule = simulate(graph_of([10.0] * tasks, [[] for _ in range(tasks)]), threads)
    assert schedule.makespan == -(-tasks // threads) * 10 + 1


def test_initial_tasks_are_dealt_in_turn_and_the_fullest_is_robbed_of_its_most_urgent() -> None:
    # ranks in the order of the costs; dealt: 0 to worker 0, 1 to 1, 2 to 2, 3 to 0, 4 to 1, 5 to 2, 6 to 0
    graph = graph_of([100.0, 90.0, 8.0, 7.0, 6.0, 5.0, 4.0], [[] for _ in range(7)])
    schedule = simulate(graph, 3)
    assert schedule.workers[:7] == (0, 1, 2, 2, 2, 2, 2)
    # worker 2 does its own 2 and 5, then robs worker 0, the fullest, of 3 (it has 3 and 6), then 0 of 6, the first of
    # equals, then 1 of 4
    assert [schedule.starts[task] for task in (2, 5, 3, 6, 4)] == [0, 8, 13, 20, 24]
    assert schedule.steals == 3


def test_successors_enter_the_set_of_the_worker_that_finished() -> None:
    # two chains of two, the first tasks dealt to 0 and 1
    graph = graph_of([10.0, 9.0, 5.0, 4.0], [[], [], [0], [1]])
    schedule = simulate(graph, 2)
    worker = {task.label: schedule.workers[index] for index, task in enumerate(graph.tasks)}
    assert worker["0"] == worker["2"] == 0
    assert worker["1"] == worker["3"] == 1
    assert schedule.steals == 0


def test_overhead_is_neither_work_nor_left_out() -> None:
    schedule = simulate(graph_of([10.0, 10.0], [[], []]), 2, overhead=5.0)
    assert schedule.makespan == 5 + 10 + 5 + 1
    assert schedule.idle_share == pytest.approx(1 - 21 / 42)
    assert schedule.speed_up == pytest.approx((21 + 15) / 21)
