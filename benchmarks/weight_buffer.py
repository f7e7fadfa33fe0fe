"""Merging and copying 10.5 M weights in shared memory, against a plain copy of as many bytes.

    python benchmarks/weight_buffer.py

Each writer process alternates memcpy, merge and snapshot, so all three meet the same load; medians per process, then
over processes. With more writers than cores the times include waiting for a core.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np

from bptcnn.memory import SharedMemory, WeightBuffer

PARAMETERS = 10_500_000
ROUNDS = 40
WRITERS = (1, 2, 4)


def _milliseconds(action: Callable[[], object]) -> float:
    start = time.perf_counter_ns()
    action()
    return (time.perf_counter_ns() - start) / 1e6


def write(fd: int, ready: int, index: int, writers: int) -> None:
    """Run one writer process and print its median times of memcpy, merge and snapshot in ms."""
    with WeightBuffer.attach(fd, PARAMETERS, writers) as buffer, SharedMemory.attach(ready, 8 * writers) as memory:
        writer = buffer.writer(index)
        writer.delta[:] = 1
        source, target = np.ones((2, PARAMETERS), np.float32)
        buffer.snapshot(target)
        arrived = memory.view(np.int64, (writers,))
        arrived[index] = 1
        while not arrived.all():
            os.sched_yield()
        times = []
        for _ in range(ROUNDS):
            copied = _milliseconds(lambda: np.copyto(target, source))
            writer.commit(1.0, 1)
            times.append((copied, _milliseconds(writer.merge), _milliseconds(lambda: buffer.snapshot(target))))
        print(*np.median(times, axis=0))


def measure(writers: int) -> tuple[float, float, float]:
    """Return the median times of memcpy, merge and snapshot in ms with this many writers at once."""
    with WeightBuffer.create(PARAMETERS, writers) as buffer, SharedMemory.create(8 * writers, "ready") as ready:
        fds = (buffer.fd, ready.fd)
        command = [sys.executable, __file__, *map(str, fds)]
        processes = [
            subprocess.Popen([*command, str(index), str(writers)], pass_fds=fds, stdout=subprocess.PIPE, text=True)
            for index in range(writers)
        ]
        times = [[float(word) for word in process.communicate()[0].split()] for process in processes]
        out = np.empty(PARAMETERS, np.float32)
        buffer.snapshot(out)
        assert np.all(out == writers * ROUNDS), "updates were lost"
        buffer.validate()
    copied, merged, snapped = np.median(times, axis=0)
    return float(copied), float(merged), float(snapped)


def main() -> None:
    """Print the table."""
    print(f"{PARAMETERS:,} weights, {PARAMETERS * 4 / 1e6:.0f} MB, medians in ms")
    print("writers  memcpy   merge  ratio  snapshot  ratio")
    for writers in WRITERS:
        copied, merged, snapped = measure(writers)
        print(f"{writers:7} {copied:7.2f} {merged:7.2f} {merged / copied:6.2f} {snapped:9.2f} {snapped / copied:6.2f}")


if __name__ == "__main__":
    if len(sys.argv) == 1:
        main()
    else:
        write(*map(int, sys.argv[1:]))
