"""Upward ranks against every path, and task graphs in rank order."""

import functools

import numpy as np
from graph_kernels import random_edges
from hypothesis import given
from hypothesis import strategies as st

from bptcnn.inner.executor import end_of_step
from bptcnn.inner.graph import GraphBuilder, Task, TaskGraph
from bptcnn.inner.ranks import upward_ranks

COSTS = st.one_of(st.just(0.0), st.integers(0, 10**7).map(float), st.floats(0, 1e12, allow_nan=False))


@st.composite
def graphs(draw: st.DrawFn) -> tuple[GraphBuilder, list[list[int]]]:
    """Draw tasks, labelled by their index, and the earlier tasks that each depends on."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    edges = random_edges(random, draw(st.integers(1, 40)), draw(st.integers(0, 4)), draw(st.integers(1, 40)))
    builder = GraphBuilder()
    for index, after in enumerate(edges):
        cost = draw(COSTS)
        task = Task(str(index), 1000 + index, 2000 + index, index, index + 1, index % 3, cost)
        assert builder.add(task, after) == index
    return builder, edges


def all_path_lengths(start: int, costs: list[float], successors: list[list[int]]) -> list[float]:
    """Return the cost of every path from `start` on, the shortest prefixes included."""
    found = [costs[start]]
    for later in successors[start]:
        found += [costs[start] + rest for rest in all_path_lengths(later, costs, successors)]
    return found


@given(seed=st.integers(0, 2**32 - 1), costs=st.lists(st.integers(0, 1000).map(float), min_size=1, max_size=10))
def test_upward_ranks_are_the_longest_of_all_paths(seed: int, costs: list[float]) -> None:
    random = np.random.default_rng(seed)
    count = len(costs)
    successors = [[s for s in range(task + 1, count) if random.random() < 0.4] for task in range(count)]
    expected = [max(all_path_lengths(task, costs, successors)) for task in range(count)]
    assert upward_ranks(costs, successors) == expected


def test_upward_ranks_of_nothing() -> None:
    assert upward_ranks([], []) == []


def check_compiled(graph: TaskGraph, edges: list[list[int]], costs: dict[str, float]) -> None:
    """Check everything that the executor relies on; `edges` in the order of the labels, `costs` by label."""
    count = len(graph.tasks)
    assert count == len(edges) + 1
    assert graph.tasks[-1].label == "end"
    assert sorted(task.label for task in graph.tasks[:-1]) == sorted(str(index) for index in range(count - 1))
    for task, followers in enumerate(graph.successors):
        assert all(follower > task for follower in followers), "topological"
        assert len(set(followers)) == len(followers)
    assert list(graph.ranks) == sorted(graph.ranks, reverse=True)
    for task, followers in enumerate(graph.successors):
        assert all(graph.ranks[task] >= graph.ranks[follower] for follower in followers)

    labels = [task.label for task in graph.tasks]
    got = {(labels[task], labels[later]) for task, followers in enumerate(graph.successors) for later in followers}
    leaves = set(range(len(edges))) - {p for after in edges for p in after}
    wanted = {(str(p), str(index)) for index, after in enumerate(edges) for p in after}
    assert got == wanted | {(str(leaf), "end") for leaf in leaves}

    for task, (label, cost) in enumerate(zip(labels, graph.costs, strict=True)):
        assert cost == max(costs[label], 1.0)
        later = [graph.ranks[follower] for follower in graph.successors[task]]
        assert graph.ranks[task] == cost + max(later, default=0.0)

    @functools.cache
    def reaches_end(task: int) -> bool:
        return task == count - 1 or any(reaches_end(follower) for follower in graph.successors[task])

    assert all(reaches_end(task) for task in range(count)), "the last task waits for all"
    for t, call in zip(graph.tasks, graph.calls, strict=True):
        assert tuple(call) == (t.kernel, t.operation, t.first, t.last, t.part)
    ends, flat = graph.successor_ends, graph.successor_list
    assert [tuple(flat[ends[task] : ends[task + 1]]) for task in range(count)] == list(graph.successors)
    assert list(graph.dependencies) == [sum(task in of_one for of_one in graph.successors) for task in range(count)]


@given(drawn=graphs())
def test_a_graph_is_in_rank_order_and_keeps_its_edges(drawn: tuple[GraphBuilder, list[list[int]]]) -> None:
    builder, edges = drawn
    graph = builder.build(end_of_step)
    check_compiled(graph, edges, {**{task.label: task.cost for task in graph.tasks}, "end": 0.0})


@given(drawn=graphs(), data=st.data())
def test_other_costs_reorder_the_same_graph(drawn: tuple[GraphBuilder, list[list[int]]], data: st.DataObject) -> None:
    builder, edges = drawn
    graph = builder.build(end_of_step)
    costs = data.draw(st.lists(COSTS, min_size=len(graph.tasks), max_size=len(graph.tasks)))
    by_label = {task.label: cost for task, cost in zip(graph.tasks, costs, strict=True)}
    check_compiled(graph.with_costs(costs), edges, by_label)


def test_a_dependency_named_twice_counts_once() -> None:
    builder = GraphBuilder()
    first = builder.add(Task("0", end_of_step, 0, 0, 0, 0, 1.0), ())
    builder.add(Task("1", end_of_step, 0, 0, 0, 0, 1.0), [first, first, first])
    check_compiled(builder.build(end_of_step), [[], [0]], {"0": 1.0, "1": 1.0, "end": 0.0})


def test_a_long_chain_whose_ranks_outgrow_their_digits_stays_in_order() -> None:
    builder = GraphBuilder()
    edges: list[list[int]] = []
    for index in range(50):
        edges.append([index - 1] if index else [])
        builder.add(Task(str(index), end_of_step, 0, 0, 0, 0, 1e18 if index == 49 else 0.0), edges[-1])
    graph = builder.build(end_of_step)
    check_compiled(graph, edges, {**{str(index): 0.0 for index in range(49)}, "49": 1e18, "end": 0.0})
