"""Executors end when they are closed or collected, and use no CPU while they have nothing to do."""

import gc
import threading
import time

import pytest
from graph_kernels import Journal, random_journal, rest

from bptcnn.inner.executor import Executor, end_of_step
from bptcnn.inner.graph import GraphBuilder, Task

IDLE_SECONDS = 0.3
IDLE_SHARE = 0.05  # of one core, all threads together


def own_threads(before: set[threading.Thread]) -> set[threading.Thread]:
    return set(threading.enumerate()) - before


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
def test_the_caller_is_one_of_the_workers(threads: int) -> None:
    before = set(threading.enumerate())
    executor = Executor(threads)
    assert executor.threads == threads
    assert len(own_threads(before)) == threads - 1
    executor.close()
    assert not own_threads(before)


@pytest.mark.parametrize("threads", [1, 3])
def test_a_closed_executor_raises_and_closes_again(threads: int) -> None:
    journal, graph = random_journal(1, 20)
    executor = Executor(threads)
    prepared = executor.prepare(graph)
    executor.run(prepared)
    executor.close()
    executor.close()
    with pytest.raises(RuntimeError, match="closed"):
        executor.run(prepared)
    assert (journal.runs == 1).all()


def test_an_executor_that_never_ran_closes() -> None:
    for _ in range(50):
        Executor(4).close()


@pytest.mark.parametrize("ran", [False, True])
def test_a_collected_executor_leaves_no_thread(ran: bool) -> None:
    before = set(threading.enumerate())
    executor = Executor(4)
    journal, graph = random_journal(1, 50)
    prepared = executor.prepare(graph)
    if ran:
        executor.run(prepared)
    assert (journal.runs == ran).all()
    assert len(own_threads(before)) == 3
    del executor
    gc.collect()
    assert not own_threads(before)


def cpu_share(seconds: float) -> float:
    """Return this process's CPU time over wall time while the calling thread sleeps."""
    wall, cpu = time.perf_counter(), time.process_time()
    time.sleep(seconds)
    return (time.process_time() - cpu) / (time.perf_counter() - wall)


def test_an_idle_executor_uses_no_cpu() -> None:
    executor = Executor(4)
    journal, graph = random_journal(2, 100)
    prepared = executor.prepare(graph)
    for _ in range(10):
        executor.run(prepared)
    assert cpu_share(IDLE_SECONDS) < IDLE_SHARE
    executor.run(prepared)
    assert (journal.runs == 11).all()
    assert cpu_share(IDLE_SECONDS) < IDLE_SHARE
    executor.close()


def test_workers_that_wait_for_a_long_task_use_no_cpu() -> None:
    journal = Journal.create([[]])
    builder = GraphBuilder()
    builder.add(Task("rest", rest, journal.record, 0, int(IDLE_SECONDS * 1e9), 0, 1.0), ())
    executor = Executor(4)
    prepared = executor.prepare(builder.build(end_of_step))
    wall, cpu = time.perf_counter(), time.process_time()
    executor.run(prepared)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    executor.close()
    assert wall >= IDLE_SECONDS
    assert cpu < IDLE_SHARE * wall


def test_an_executor_goes_to_sleep_and_wakes_up() -> None:
    journal, graph = random_journal(4, 100)
    executor = Executor(3)
    prepared = executor.prepare(graph)
    for times in range(1, 6):
        executor.run(prepared)
        assert (journal.runs == times).all()
        time.sleep(0.02)  # not to order anything: whatever the workers do by now, the next step is whole
    executor.close()
