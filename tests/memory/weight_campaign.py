"""Writers and readers in processes of their own on one weight buffer, with and without kills.

    python weight_campaign.py MODE SEED COUNT     prints what it saw as JSON, exits 1 at the first wrong number

`kill`: COUNT writers are killed at random instructions, finished and replaced while the others merge and readers
copy. `exact`: every writer makes COUNT submissions. One thread, so that forking is safe: a kill costs milliseconds.
"""

import json
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial

import numpy as np
import numpy.typing as npt

from bptcnn.memory import SharedMemory, WeightBuffer
from bptcnn.memory.layout import SEGMENT_FLOATS

Numbers = npt.NDArray[np.int64]
WRITERS = 3
READERS = 1
PARAMETERS = 2 * SEGMENT_FLOATS + 101
STOP, SNAPSHOTS, TORN = range(3)
DEADLINE_SECONDS = 60.0
# segment s counts in units of s + 1
UNITS = (1 + np.arange(PARAMETERS) // SEGMENT_FLOATS).astype(np.float32)


def submitted(writer: int, sequences: Numbers) -> tuple[Numbers, Numbers]:
    """Return the numbers that submissions add per unit, and their scales: never 0, their sums small (exact)."""
    numbers = (7 * sequences + 4 * writer) % 11 - 5
    block = sequences // 11
    return np.where(numbers == 0, 6 - block // 2 % 2 * 12, numbers), 1 + block % 2


def words(sequence: int) -> tuple[int, ...]:
    """Return the user's words of a submission: `Writer.submit` leaves 0."""
    return (sequence,) * 4 if sequence % 2 else (0,) * 4


def torn(weights: npt.NDArray[np.float32]) -> int:
    """Return how many segments of a copy are not one number times their unit."""
    segments = [weights[first : first + SEGMENT_FLOATS] for first in range(0, PARAMETERS, SEGMENT_FLOATS)]
    return sum(bool(np.any(s != s[0]) or s[0] % unit) for s, unit in zip(segments, np.unique(UNITS), strict=True))


def write(buffer: WeightBuffer, index: int, submissions: int) -> None:
    """Submit that often; -1 is until killed. Children of a parent that gave up end by themselves."""
    parent = os.getppid()
    writer = buffer.writer(index)
    sequence = buffer.submission(index).sequence
    out, other = np.empty(PARAMETERS, np.float32), np.empty(PARAMETERS, np.float32)
    while submissions != 0 and os.getppid() == parent:
        sequence += 1
        numbers, scales = submitted(index, np.array([sequence]))
        np.multiply(UNITS, np.float32(numbers[0]), out=writer.delta)
        if sequence % 2:
            assert writer.commit(int(scales[0]), 3, words(sequence)) == sequence
            writer.merge()
        else:
            assert writer.submit(int(scales[0]), 3, out, other)[0] == sequence
            assert not torn(out)
            assert np.array_equal(out, other)
        submissions -= 1


def read(buffer: WeightBuffer, flags: Numbers) -> None:
    """Copy until told to stop: a segment must be one number times its unit, a record of one submission."""
    out = np.empty(PARAMETERS, np.float32)
    parent = os.getppid()
    while not flags[STOP] and os.getppid() == parent:
        buffer.snapshot(out)
        flags[SNAPSHOTS] += 1
        flags[TORN] += torn(out)
        for writer in range(WRITERS):
            record = buffer.submission(writer)
            flags[TORN] += record.samples != 3 * record.sequence or record.user != words(record.sequence)


def fork(action: Callable[[], None]) -> int:
    child = os.fork()
    if child == 0:
        status = 3
        try:
            action()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return child


def check(buffer: WeightBuffer) -> None:
    """Compare the quiet buffer with the committed sequence numbers."""
    buffer.validate()
    total = 0
    for writer in range(WRITERS):
        record = buffer.submission(writer)
        assert record.merged
        assert record.samples == 3 * record.sequence
        total += int(np.dot(*submitted(writer, np.arange(1, record.sequence + 1))))
    out = np.empty(PARAMETERS, np.float32)
    buffer.snapshot(out)
    assert np.array_equal(out, UNITS * np.float32(total)), (out[::SEGMENT_FLOATS], total)
    assert buffer.updates() == sum(buffer.table().sequences)


def spin(seconds: float) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def kill(buffer: WeightBuffer, writer: int, child: int) -> bool:
    """Kill a writer, wait for its end, finish for it; return whether it left a submission unmerged."""
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), f"writer {writer} ended by itself: {status}"
    unmerged = buffer.finish(writer)
    assert not buffer.pending(writer)
    return unmerged


def kill_campaign(buffer: WeightBuffer, seed: int, kills: int) -> tuple[int, int]:
    """Return how many were killed, and how many of them between commit and the end of their merge."""
    choose = random.Random(seed)
    done = unmerged = 0
    while done < kills:
        children: dict[int, int] = {}
        for _ in range(12):
            for writer in set(range(WRITERS)) - set(children):
                children[writer] = fork(partial(write, buffer, writer, -1))
            victim = choose.randrange(WRITERS)
            before = buffer.submission(victim).sequence
            deadline = time.monotonic() + DEADLINE_SECONDS
            while buffer.submission(victim).sequence == before:
                assert time.monotonic() < deadline, "a writer makes no progress"
            spin(choose.uniform(0, 400e-6))
            unmerged += kill(buffer, victim, children.pop(victim))
            done += 1
        for writer, child in sorted(children.items(), key=lambda item: choose.random()):
            unmerged += kill(buffer, writer, child)
            done += 1
        check(buffer)
    return done, unmerged


def main(mode: str, seed: int, count: int) -> None:
    assert len(os.listdir("/proc/self/task")) == 1, "forking needs a single thread"
    killed = unmerged = 0
    with WeightBuffer.create(PARAMETERS, WRITERS) as buffer, SharedMemory.create(64, "flags") as memory:
        flags = memory.view(np.int64, (3,))
        readers = [fork(partial(read, buffer, flags)) for _ in range(READERS)]
        if mode == "kill":
            killed, unmerged = kill_campaign(buffer, seed, count)
        else:
            children = [fork(partial(write, buffer, writer, count)) for writer in range(WRITERS)]
            assert [os.waitpid(child, 0)[1] for child in children] == [0] * WRITERS
            check(buffer)
        flags[STOP] = 1
        assert [os.waitpid(reader, 0)[1] for reader in readers] == [0] * READERS
        assert flags[TORN] == 0, f"{flags[TORN]} torn segments or records in {flags[SNAPSHOTS]} copies"
        seen = {"killed": killed, "unmerged": unmerged, "updates": buffer.updates(), "snapshots": int(flags[SNAPSHOTS])}
    print(json.dumps(seen))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
