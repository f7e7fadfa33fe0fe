"""A merge stopped at every point where a crash makes a difference, then finished: exactly once, no slot lost.

The stopped code is the code that runs in production, with a step limit.
"""

import itertools

import numpy as np
import pytest

from bptcnn.memory import WeightBuffer, merging
from bptcnn.memory.layout import SEGMENT_FLOATS

PARAMETERS = 2 * SEGMENT_FLOATS + 5
SEGMENTS = 3
POINTS = 3 * SEGMENTS + 1  # intent, build and swap of each segment, and the end before `merged` is stored


class Bench:
    """A buffer with three writers, and the sum that it should hold."""

    def __init__(self) -> None:
        self.buffer = WeightBuffer.create(PARAMETERS, 3)
        self.expected = np.zeros(PARAMETERS, np.float32)
        self._seed = 0

    def commit(self, index: int) -> None:
        self._seed += 1
        delta = np.random.default_rng(self._seed).integers(-9, 10, PARAMETERS).astype(np.float32)
        writer = self.buffer.writer(index)
        writer.delta[:] = delta
        writer.commit(2.0, 1)
        self.expected += 2 * delta

    def crash(self, index: int, step: int) -> None:
        """Merge for the writer until `step`; 0 is before the first instruction."""
        if step:
            assert merging.merge(self.buffer.words, index, step) == 0
        self.buffer.validate()

    def submit(self, index: int) -> None:
        self.commit(index)
        self.buffer.writer(index).merge()

    def check(self) -> None:
        out = np.empty(PARAMETERS, np.float32)
        self.buffer.snapshot(out)
        assert np.array_equal(out, self.expected)
        self.buffer.validate()
        table = self.buffer.table()
        assert table.merged == table.sequences
        assert self.buffer.updates() == sum(table.sequences)


def test_the_points_are_all_there() -> None:
    bench = Bench()
    bench.commit(0)
    assert merging.merge(bench.buffer.words, 0, POINTS + 1) == 1
    bench.check()
    bench.commit(1)
    assert merging.merge(bench.buffer.words, 1, POINTS) == 0
    assert bench.buffer.pending(1)


@pytest.mark.parametrize("first", range(POINTS + 1))
def test_crash_then_crash_of_the_finish_with_others_merging_between(first: int) -> None:
    bench = Bench()
    for second, others in itertools.product(range(POINTS + 1), range(8)):
        bench.submit(2)
        bench.commit(0)
        bench.crash(0, first)
        if others & 1:
            bench.submit(1)
        remaining = merging.merge(bench.buffer.words, 0, second) if second else 0
        bench.buffer.validate()
        if others & 2:
            bench.submit(2)
        assert bench.buffer.finish(0) == (remaining == 0)
        bench.check()
        if others & 4:
            bench.submit(0)
    bench.check()
    bench.buffer.close()


@pytest.mark.parametrize("first", range(POINTS + 1))
def test_two_writers_crash_at_any_two_points(first: int) -> None:
    bench = Bench()
    for second, later in itertools.product(range(POINTS + 1), (0, 1)):
        bench.commit(0)
        bench.commit(1)
        bench.crash(0, first)
        bench.crash(1, second)
        bench.submit(2)
        assert bench.buffer.finish(later)
        bench.submit(later)  # the index is taken over while the other one is still unfinished
        assert bench.buffer.finish(1 - later)
        bench.check()
    bench.buffer.close()


@pytest.mark.parametrize("step", range(POINTS + 1))
def test_a_crash_before_the_next_commit_does_not_confuse_the_spare(step: int) -> None:
    """The intent that a finished merge left behind belongs to an older sequence than the next commit's."""
    bench = Bench()
    bench.commit(0)
    bench.crash(0, step)
    bench.buffer.finish(0)
    bench.commit(0)
    bench.buffer.validate()
    bench.submit(1)
    assert bench.buffer.merge_for(0, 2.0)
    bench.check()
    bench.buffer.store(np.zeros(PARAMETERS, np.float32))
    bench.expected[:] = 0
    bench.check()
    bench.buffer.close()


def test_a_crash_within_a_commit_leaves_the_submission_before_it() -> None:
    with WeightBuffer.create(PARAMETERS, 2) as buffer:
        for sequence in (1, 2, 3):
            user = np.full(4, sequence, np.int64)
            before = buffer.submission(0)
            assert merging.commit(buffer.words, 0, -1.0, 1000, -user, 1) == 0
            assert buffer.submission(0) == before
            assert not buffer.finish(0)
            buffer.writer(0).commit(sequence, 10, user.tolist())
            after = buffer.submission(0)
            assert (after.sequence, after.merged, after.scale) == (sequence, False, sequence)
            assert (after.samples, after.user) == (10 * sequence, (sequence,) * 4)
            assert buffer.finish(0)
