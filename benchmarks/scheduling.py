"""What the scheduler costs: empty tasks on 1 and 2 threads, and its share of a training step.

    python benchmarks/scheduling.py

The share is the part of the workers' time in cnn2's step, at batch 64 on one thread, that no task spends, from traces.
"""

import time

import numpy as np

from bptcnn.inner.executor import Executor, end_of_step
from bptcnn.inner.graph import GraphBuilder, Task, TaskGraph
from bptcnn.inner.subnetwork import Subnetwork
from bptcnn.networks import cnn2

WIDTH, LEVELS, ROUNDS = 16, 200, 60


def lattice() -> TaskGraph:
    """Return a graph of empty tasks, each waiting for two of the level before."""
    builder, before = GraphBuilder(), list[int]()
    for _ in range(LEVELS):
        task = Task("empty", end_of_step, 0, 0, 0, 0, 1.0)
        before = [builder.add(task, [before[i], before[(i + 1) % WIDTH]] if before else []) for i in range(WIDTH)]
    return builder.build(end_of_step)


def empty_task_ns(threads: int) -> float:
    """Return nanoseconds per empty task, the median over rounds."""
    executor, graph = Executor(threads), lattice()
    prepared = executor.prepare(graph)
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter_ns()
        executor.run(prepared)
        times.append((time.perf_counter_ns() - start) / len(graph.tasks))
    executor.close()
    return float(np.median(times))


def step_share() -> float:
    """Return the share of cnn2's step on one thread that is spent between tasks."""
    executor = Executor(1)
    subnetwork = Subnetwork(cnn2(), 64, executor)
    samples = np.random.default_rng(0).random((64, 28, 28, 1), np.float32)
    labels = np.zeros(64, np.int32)
    shares = []
    for _ in range(ROUNDS):
        trace = subnetwork.traced(samples, labels)
        span = trace.ends.max() - trace.starts.min()
        shares.append(1.0 - (trace.ends - trace.starts).sum() / span)
    executor.close()
    return float(np.median(shares))


def main() -> None:
    """Print the three figures."""
    for threads in (1, 2):
        print(f"empty tasks, {threads} threads: {empty_task_ns(threads):.0f} ns each")
    print(f"cnn2, batch 64, 1 thread: {step_share():.2%} of the step between tasks")


if __name__ == "__main__":
    main()
