"""Compiled loops for the tests of atomics: they hold no GIL, so Python threads run them at the same time.

Loops that could wait for ever if an atomic were wrong have a deadline (nanoseconds of the monotonic clock), and return
less than was asked for when it passes.
"""

from numba import njit

from bptcnn.kernels.atomics import (
    compare_and_swap,
    fence_acquire,
    fence_release,
    fetch_add,
    fetch_and,
    fetch_or,
    first_set_bit,
    futex_wait,
    futex_wake,
    load_acquire,
    monotonic_ns,
    spin_pause,
    store_release,
)
from bptcnn.kernels.compilation import compiled
from bptcnn.kernels.pointers import words


@compiled("int64(int64)")
def load(address):  # type: ignore[no-untyped-def]
    return load_acquire(address)


@compiled("void(int64, int64)")
def store(address, value):  # type: ignore[no-untyped-def]
    store_release(address, value)


@compiled("int64(int64, int64)")
def add_once(address, value):  # type: ignore[no-untyped-def]
    return fetch_add(address, value)


@compiled("int64(int64, int64)")
def or_once(address, value):  # type: ignore[no-untyped-def]
    return fetch_or(address, value)


@compiled("int64(int64, int64)")
def and_once(address, value):  # type: ignore[no-untyped-def]
    return fetch_and(address, value)


@compiled("int64(int64, int64, int64)")
def swap_once(address, expected, desired):  # type: ignore[no-untyped-def]
    return compare_and_swap(address, expected, desired)


@compiled("int64(int64)")
def lowest_bit(word):  # type: ignore[no-untyped-def]
    return first_set_bit(word)


@compiled("int64()")
def clock():  # type: ignore[no-untyped-def]
    return monotonic_ns()


@compiled("void(int64, int64, int64)")
def wait_once(address, expected, nanoseconds):  # type: ignore[no-untyped-def]
    futex_wait(address, expected, nanoseconds)


@compiled("void(int64, int64)")
def wake(address, count):  # type: ignore[no-untyped-def]
    futex_wake(address, count)


@njit(inline="always")
def _gather(gate, parties):  # type: ignore[no-untyped-def]
    """Start together: wait until `parties` threads are in here. Without the GIL, or short loops would not overlap."""
    fetch_add(gate, 1)
    while load_acquire(gate) < parties:
        spin_pause()


@compiled("int64(int64, int64, int64, int64)")
def add_many(address, count, gate, parties):  # type: ignore[no-untyped-def]
    """Add 1 `count` times; return the sum of what was there before."""
    _gather(gate, parties)
    total = 0
    for _ in range(count):
        total += fetch_add(address, 1)
        spin_pause()  # the optimiser cannot look into it: were the addition not atomic, it would fold the loop
    return total


@compiled("int64(int64, int64, int64, int64)")
def swap_many(address, count, gate, parties):  # type: ignore[no-untyped-def]
    """Add 1 `count` times by compare-and-swap; return the number of swaps that failed."""
    _gather(gate, parties)
    failed = 0
    for _ in range(count):
        while True:
            now = load_acquire(address)
            if compare_and_swap(address, now, now + 1) == 1:
                break
            failed += 1
    return failed


@compiled("int64(int64, int64, int64, int64, int64)")
def flip_many(address, bit, count, gate, parties):  # type: ignore[no-untyped-def]
    """Set and clear one's own bit `count` times; return how often it was not as one had left it."""
    _gather(gate, parties)
    wrong = 0
    mask = 1 << bit
    for _ in range(count):
        wrong += fetch_or(address, mask) & mask != 0
        spin_pause()
        wrong += fetch_and(address, ~mask) & mask == 0
        spin_pause()
    return wrong


@compiled("int64(int64, int64, int64, int64, int64)")
def lock_many(lock, numbers, count, gate, parties):  # type: ignore[no-untyped-def]
    """Count two plain numbers up together under a spin lock; return how often they differed."""
    _gather(gate, parties)
    wrong = 0
    pair = words(numbers, 16)
    for _ in range(count):
        while compare_and_swap(lock, 0, 1) == 0:
            spin_pause()
        wrong += pair[0] != pair[8]
        pair[0] += 1
        pair[8] += 1
        store_release(lock, 0)
    return wrong


@compiled("int64(int64, int64, int64, int64, int64)")
def publish(address, count, deadline, gate, parties):  # type: ignore[no-untyped-def]
    """Write words 8 and 16, then release the round's number in word 0; wait for word 24 to follow. Return rounds."""
    _gather(gate, parties)
    data = words(address, 32)
    for turn in range(1, count + 1):
        data[8] = turn * 3
        data[16] = turn * 7
        store_release(address, turn)
        while load_acquire(address + 8 * 24) != turn:
            if monotonic_ns() > deadline:
                return turn - 1
            spin_pause()
    return count


@compiled("int64(int64, int64, int64, int64, int64)")
def subscribe(address, count, deadline, gate, parties):  # type: ignore[no-untyped-def]
    """The other side of `publish`; return how many rounds were seen whole."""
    _gather(gate, parties)
    data = words(address, 32)
    whole = 0
    for turn in range(1, count + 1):
        while load_acquire(address) != turn:
            if monotonic_ns() > deadline:
                return whole
            spin_pause()
        whole += data[8] == turn * 3 and data[16] == turn * 7
        store_release(address + 8 * 24, turn)
    return whole


@compiled("void(int64, int64, int64, int64)")
def seqlock_write(address, count, gate, parties):  # type: ignore[no-untyped-def]
    """Write words 8 to 15 `count` times; word 0 is odd meanwhile."""
    _gather(gate, parties)
    data = words(address, 16)
    for turn in range(1, count + 1):
        store_release(address, 2 * turn - 1)
        fence_release()
        for i in range(8, 16):
            data[i] = turn
        store_release(address, 2 * turn)


@compiled("int64(int64, int64, int64, int64, int64)")
def seqlock_read(address, last, deadline, gate, parties):  # type: ignore[no-untyped-def]
    """Read until version `last`; return how many reads that looked whole were torn, or -1 past the deadline."""
    _gather(gate, parties)
    data = words(address, 16)
    torn = 0
    while True:
        before = load_acquire(address)
        low, high = data[8], data[8]
        for i in range(9, 16):
            low, high = min(low, data[i]), max(high, data[i])
        fence_acquire()
        after = load_acquire(address)
        if before == after and before & 1 == 0:
            torn += low != high
            if before == 2 * last:
                return torn
        if monotonic_ns() > deadline:
            return -1
        spin_pause()


@compiled("int64(int64, int64, int64, int64, int64, int64)")
def rally(address, side, count, deadline, gate, parties):  # type: ignore[no-untyped-def]
    """Two sides take turns `count` times, asleep while it is not theirs; return the turns taken in time."""
    _gather(gate, parties)
    for turn in range(count):
        while load_acquire(address) != 2 * turn + side:
            now = load_acquire(address)
            if now != 2 * turn + side:
                futex_wait(address, now, 60_000_000_000)
            if monotonic_ns() > deadline:
                return turn
        fetch_add(address, 1)
        futex_wake(address, 1)
    return count
