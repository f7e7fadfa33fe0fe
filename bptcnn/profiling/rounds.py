"""Timed rounds: threads that begin together, timed by the clock on the wall and by the CPU time of each."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bptcnn.errors import UserError
from bptcnn.threads import start_thread


@dataclass(frozen=True)
class Round:
    """Seconds from the first thread's start to the last one's end, and the CPU-seconds of each thread."""

    wall: float
    cpu: tuple[float, ...]


def count_for(run: Callable[[int], object], first: int, nanoseconds: int) -> int:
    """Return the count for which `run(count)` takes about `nanoseconds` of CPU; `first` is a count to begin with."""
    count = first
    while True:
        start = time.thread_time_ns()
        run(count)
        taken = max(1, time.thread_time_ns() - start)
        if taken >= nanoseconds // 20:
            return max(1, count * nanoseconds // taken)
        count *= 4


def together(work: Sequence[Callable[[], object]], rounds: int) -> list[Round]:
    """Run each callable in a thread of its own, all at once, `rounds` times after one to warm up.

    What a callable raises is raised here.
    """
    marks = [[(0, 0, 0)] * len(work) for _ in range(rounds + 1)]  # start, end, CPU time; nanoseconds
    barrier = threading.Barrier(len(work))
    failures: list[BaseException] = []

    def serve(index: int) -> None:
        try:
            for turn in range(rounds + 1):
                barrier.wait()
                start, start_cpu = time.perf_counter_ns(), time.thread_time_ns()
                work[index]()
                marks[turn][index] = start, time.perf_counter_ns(), time.thread_time_ns() - start_cpu
        except threading.BrokenBarrierError:
            return
        except BaseException as error:
            failures.append(error)
            barrier.abort()

    threads = [threading.Thread(target=serve, args=(index,), daemon=True) for index in range(len(work))]
    try:
        for thread in threads:
            start_thread(thread)
    except UserError:
        barrier.abort()
        raise
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return [_round(of_turn) for of_turn in marks[1:]]


def _round(marks: Sequence[tuple[int, int, int]]) -> Round:
    starts, ends, cpu = zip(*marks, strict=True)
    return Round(max(1, max(ends) - min(starts)) / 1e9, tuple(max(1, taken) / 1e9 for taken in cpu))
