"""Atomics under real threads: compiled loops without the GIL, four at a time on whatever cores there are."""

import threading
import time
from collections.abc import Callable

import atomic_kernels as kernels
import numpy as np
import numpy.typing as npt
import pytest

THREADS = 4
SECOND = 1_000_000_000


def deadline() -> int:
    """Far enough for a busy machine; a wait that reaches it has failed."""
    return time.monotonic_ns() + 60 * SECOND


def together(functions: list[Callable[[int, int], int | None]]) -> list[int | None]:
    """Call each function with (gate, parties) in a thread of its own; return their results."""
    results: list[int | None] = [None] * len(functions)
    gate = np.zeros(1, np.int64)

    def run(index: int) -> None:
        results[index] = functions[index](gate.ctypes.data, len(functions))

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(functions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@pytest.fixture
def memory() -> npt.NDArray[np.int64]:
    return np.zeros(64, np.int64)


def test_each_operation_alone(memory: npt.NDArray[np.int64]) -> None:
    here = memory[8:].ctypes.data
    kernels.store(here, -5)
    assert kernels.load(here) == -5
    assert kernels.add_once(here, 7) == -5
    assert kernels.or_once(here, 0b1001) == 2
    assert kernels.and_once(here, 0b1010) == 0b1011
    assert kernels.swap_once(here, 3, 99) == 0
    assert memory[8] == 0b1010
    assert kernels.swap_once(here, 0b1010, -(2**63)) == 1
    assert memory[8] == -(2**63)
    memory[8] = 0
    assert not memory.any(), "no other word was touched"


def test_additions_are_not_lost(memory: npt.NDArray[np.int64]) -> None:
    count = 400_000
    totals = together([lambda *start: kernels.add_many(memory.ctypes.data, count, *start)] * THREADS)
    assert memory[0] == THREADS * count
    assert sum(total or 0 for total in totals) == memory[0] * (memory[0] - 1) // 2, "each number was seen once"


def test_swaps_are_not_lost(memory: npt.NDArray[np.int64]) -> None:
    count = 400_000
    together([lambda *start: kernels.swap_many(memory.ctypes.data, count, *start)] * THREADS)
    assert memory[0] == THREADS * count


def test_bits_of_one_word_belong_to_their_threads(memory: npt.NDArray[np.int64]) -> None:
    def flip(bit: int) -> Callable[[int, int], int]:
        return lambda *start: int(kernels.flip_many(memory.ctypes.data, bit, 200_000, *start))

    assert together([flip(bit) for bit in (0, 1, 31, 63)]) == [0] * 4
    assert memory[0] == 0


def test_a_lock_of_swap_and_release_excludes(memory: npt.NDArray[np.int64]) -> None:
    numbers = memory[16:].ctypes.data
    assert together([lambda *start: kernels.lock_many(memory.ctypes.data, numbers, 20_000, *start)] * 3) == [0] * 3
    assert memory[16] == memory[24] == 60_000


def test_what_is_written_before_a_release_is_seen_after_its_acquire(memory: npt.NDArray[np.int64]) -> None:
    here, count, until = memory.ctypes.data, 500, deadline()
    rounds = together(
        [
            lambda *start: kernels.publish(here, count, until, *start),
            lambda *start: kernels.subscribe(here, count, until, *start),
        ]
    )
    assert rounds == [count, count]


def test_fences_make_a_seqlock(memory: npt.NDArray[np.int64]) -> None:
    here, count, until = memory.ctypes.data, 100_000, deadline()
    torn = together(
        [lambda *start: kernels.seqlock_write(here, count, *start)]
        + [lambda *start: kernels.seqlock_read(here, count, until, *start)] * 2
    )
    assert torn[1:] == [0, 0]


def test_two_threads_wake_each_other(memory: npt.NDArray[np.int64]) -> None:
    here, count, until = memory.ctypes.data, 1_000, deadline()
    turns = together(
        [
            lambda *start: kernels.rally(here, 0, count, until, *start),
            lambda *start: kernels.rally(here, 1, count, until, *start),
        ]
    )
    assert turns == [count, count]
    assert memory[0] == 2 * count


def test_nobody_sleeps_on_a_word_that_has_changed(memory: npt.NDArray[np.int64]) -> None:
    memory[0] = 1
    before = time.monotonic_ns()
    kernels.wait_once(memory.ctypes.data, 0, 200 * SECOND)
    assert time.monotonic_ns() - before < 100 * SECOND


@pytest.mark.parametrize("nanoseconds", [0, 1, 2_000_000])
def test_a_sleep_ends_by_itself(memory: npt.NDArray[np.int64], nanoseconds: int) -> None:
    kernels.wait_once(memory.ctypes.data, 0, nanoseconds)


def test_waking_when_nobody_sleeps_does_nothing(memory: npt.NDArray[np.int64]) -> None:
    kernels.wake(memory.ctypes.data, 1 << 30)
    assert not memory.any()


@pytest.mark.parametrize("bit", range(64))
def test_the_lowest_set_bit(bit: int) -> None:
    word = int(np.array(1 << bit, np.uint64).view(np.int64))
    above = int(np.array((0xFFFF_FFFF_FFFF_FFFF << bit) % 2**64, np.uint64).view(np.int64))
    assert kernels.lowest_bit(word) == kernels.lowest_bit(above) == bit


def test_the_clock_is_pythons_monotonic_clock() -> None:
    for _ in range(100):
        before = time.monotonic_ns()
        between = kernels.clock()
        assert before <= between <= time.monotonic_ns()
