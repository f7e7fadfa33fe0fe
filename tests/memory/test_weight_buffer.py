"""The weight buffer used by one process at a time, against a plain numpy model; numbers are small dyadics, so exact."""

import os
import subprocess
import sys
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bptcnn.available import available_bytes
from bptcnn.errors import UserError
from bptcnn.memory import WeightBuffer
from bptcnn.memory.layout import SEGMENT_FLOATS, Layout

SIZES = (1, 2, 15, SEGMENT_FLOATS - 1, SEGMENT_FLOATS, SEGMENT_FLOATS + 1, 2 * SEGMENT_FLOATS + 77)
ACTIONS = ("submit", "merge", "merge_for", "finish", "refresh", "quality", "store")


def contents(buffer: WeightBuffer) -> npt.NDArray[np.float32]:
    out = np.full(buffer.layout.parameters, np.nan, np.float32)
    buffer.snapshot(out)
    return out


@dataclass
class Model:
    """What the buffer should hold."""

    weights: npt.NDArray[np.float32]
    sequences: list[int]
    samples: list[int]
    bases: list[int]
    qualities: list[float]
    live: list[bool] = field(default_factory=list)


def act(buffer: WeightBuffer, model: Model, action: str, index: int, seed: int, scale: float) -> None:
    """Do one thing to both."""
    numbers = np.random.default_rng(seed).integers(-8, 9, buffer.layout.parameters).astype(np.float32)
    writer = buffer.writer(index)
    if action == "store":
        buffer.store(numbers)
        model.weights = numbers
    elif action == "quality":
        buffer.set_live(index, seed % 2 == 0)
        assert writer.publish(scale).qualities[index] == scale
        model.qualities[index], model.live[index] = scale, seed % 2 == 0
    elif action == "refresh":
        out = np.empty_like(numbers)
        assert writer.refresh(out) == sum(model.sequences)
        assert np.array_equal(out, model.weights)
        model.bases[index] = sum(model.sequences)
    else:
        writer.delta[:] = numbers
        model.sequences[index] += 1
        model.samples[index] += seed
        user = (0,) * 4 if action == "submit" else (seed, -1, 2**62, index)
        if action == "submit":
            out, other = np.empty_like(numbers), np.empty_like(numbers)
            model.bases[index] = sum(model.sequences)
            found = writer.submit(scale, seed, out, *([other] if seed % 2 else []))
            assert found == (model.sequences[index], model.bases[index])
            for copy in [out, other][: 1 + seed % 2]:
                assert np.array_equal(copy, contents(buffer))
        else:
            assert writer.commit(scale, seed, user) == model.sequences[index]
            assert writer.pending
            assert np.array_equal(contents(buffer), model.weights)
        if action == "merge":
            writer.merge()
        elif action == "finish":
            assert buffer.finish(index)
            model.live[index] = False
        elif action == "merge_for":
            scale = scale + 1
            assert buffer.merge_for(index, scale)
        model.weights = model.weights + np.float32(scale) * numbers
        record = buffer.submission(index)
        assert (record.sequence, record.merged, record.scale) == (model.sequences[index], True, scale)
        assert (record.samples, record.user) == (model.samples[index], user)


@settings(max_examples=60, deadline=None)
@given(
    parameters=st.sampled_from(SIZES),
    writers=st.integers(1, 9),
    script=st.lists(
        st.tuples(
            st.sampled_from(ACTIONS),
            st.integers(0, 8),
            st.integers(0, 1000),
            st.sampled_from([-2.0, -1.0, 0.0, 0.5, 1.0, 3.0]),
        ),
        max_size=25,
    ),
)
def test_any_sequence_of_actions_matches_the_model(
    parameters: int, writers: int, script: list[tuple[str, int, int, float]]
) -> None:
    zeros = [0] * writers
    model = Model(np.zeros(parameters, np.float32), zeros[:], zeros[:], zeros[:], [0.0] * writers, [False] * writers)
    with WeightBuffer.create(parameters, writers) as buffer:
        for action, index, seed, scale in script:
            act(buffer, model, action, index % writers, seed, scale)
            buffer.validate()
            assert np.array_equal(contents(buffer), model.weights)
            assert buffer.updates() == sum(model.sequences)
        table = buffer.table()
        assert table.base_versions == model.bases
        assert table.qualities == model.qualities
        assert table.live == model.live
        assert table.sequences == table.merged == model.sequences


def test_merging_and_finishing_twice_changes_nothing() -> None:
    with WeightBuffer.create(20_000, 2) as buffer:
        writer = buffer.writer(1)
        writer.delta[:] = 3
        writer.commit(1.0, 1)
        writer.merge()
        writer.merge()
        assert not buffer.finish(1)
        assert not buffer.merge_for(1, 5.0)
        assert not buffer.finish(0)
        assert np.all(contents(buffer) == 3)
        assert buffer.updates() == 1


def test_a_staged_delta_that_was_not_committed_never_happened() -> None:
    with WeightBuffer.create(20_000, 2) as buffer:
        buffer.writer(0).delta[:] = np.nan
        assert not buffer.finish(0)
        assert not contents(buffer).any()
        assert buffer.submission(0).sequence == 0


def test_a_scale_of_zero_counts_and_changes_nothing() -> None:
    with WeightBuffer.create(20_000, 2) as buffer:
        writer = buffer.writer(0)
        writer.delta[:] = np.inf
        writer.commit(0.0, 64)
        writer.merge()
        assert not contents(buffer).any()
        assert buffer.updates() == 1
        assert buffer.submission(0).samples == 64


def test_a_nan_stays_visible() -> None:
    with WeightBuffer.create(20_000, 1) as buffer:
        writer = buffer.writer(0)
        writer.delta[:] = 0
        writer.delta[17] = np.nan
        writer.commit(1.0, 1)
        writer.merge()
        assert np.flatnonzero(np.isnan(contents(buffer))).tolist() == [17]


def test_a_pending_submission_guards_its_delta() -> None:
    with WeightBuffer.create(100, 2) as buffer:
        writer = buffer.writer(0)
        writer.commit(1.0, 1)
        with pytest.raises(RuntimeError, match="not merged"):
            _ = writer.delta
        with pytest.raises(RuntimeError, match="not merged"):
            writer.commit(1.0, 1)
        with pytest.raises(RuntimeError, match="not merged"):
            writer.submit(1.0, 1, np.empty(100, np.float32))
        with pytest.raises(RuntimeError, match="not merged"):
            buffer.store(np.zeros(100, np.float32))
        writer.merge()
        writer.delta[:] = 1


def test_what_makes_no_sense_is_refused() -> None:
    with WeightBuffer.create(100, 2) as buffer:
        writer = buffer.writer(0)
        for scale, samples, user in [(np.nan, 1, (0,) * 4), (1.0, -1, (0,) * 4), (1.0, 1, (0,) * 3)]:
            with pytest.raises(ValueError, match="no submission"):
                writer.commit(scale, samples, user)
        for scale, samples in [(np.inf, 1), (1.0, -1)]:
            with pytest.raises(ValueError, match="no submission"):
                writer.submit(scale, samples, np.empty(100, np.float32))
        for index in (-1, 2):
            with pytest.raises(IndexError):
                buffer.writer(index)
            with pytest.raises(IndexError):
                buffer.finish(index)
        wrong = [np.zeros(99, np.float32), np.zeros(100), np.zeros(200, np.float32)[::2]]
        for array in wrong:
            with pytest.raises(ValueError, match="expected contiguous float32"):
                buffer.snapshot(array)  # type: ignore[arg-type]
            with pytest.raises(ValueError, match="expected contiguous float32"):
                writer.refresh(np.zeros(100, np.float32), array)  # type: ignore[arg-type]
            with pytest.raises(ValueError, match="expected contiguous float32"):
                writer.submit(1.0, 1, array)  # type: ignore[arg-type]
            with pytest.raises(ValueError, match="expected contiguous float32"):
                buffer.store(array)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="closed"):
        buffer.updates()
    for parameters, writers in [(0, 1), (1, 0), (2**36, 1)]:
        with pytest.raises(ValueError, match="weight"):
            Layout(parameters, writers)


def test_a_buffer_beyond_memory_is_the_users_error() -> None:
    with pytest.raises(UserError, match="need"):
        WeightBuffer.create(available_bytes() // 4, 4)


def test_attaching_with_another_shape_is_refused() -> None:
    with WeightBuffer.create(20_000, 3) as buffer:
        fd = os.dup(buffer.fd)
        with pytest.raises(ValueError, match="no weight buffer of 10000"):
            WeightBuffer.attach(fd, 10_000, 3)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)


@settings(max_examples=200, deadline=None)
@given(parameters=st.integers(1, 10**9), writers=st.integers(1, 500))
def test_parts_of_the_layout_do_not_overlap(parameters: int, writers: int) -> None:
    shape = Layout(parameters, writers)
    assert 8 * (16 + shape.segments) <= shape.control
    assert shape.control + 256 * writers <= shape.staging
    assert shape.staging_bytes >= 4 * parameters
    assert shape.slot_bytes - shape.slot_header >= 4 * min(SEGMENT_FLOATS, parameters)
    assert shape.slot_header >= 8 * writers
    assert shape.size >= shape.pool + (shape.segments + writers) * shape.slot_bytes
    assert all(part % 64 == 0 for part in (shape.control, shape.staging, shape.pool, shape.slot_bytes))


def test_memory_is_one_weight_set_plus_a_staged_delta_and_a_slot_per_writer() -> None:
    weights, writers = 10_500_000, 4
    assert Layout(weights, writers).size < 1.01 * 4 * (weights * (1 + writers) + SEGMENT_FLOATS * writers)


CHILD = """
import sys
import numpy as np
from bptcnn.memory import WeightBuffer
fd, index, rounds = map(int, sys.argv[1:])
with WeightBuffer.attach(fd, 40_000, 2) as buffer:
    writer = buffer.writer(index)
    out = np.empty(40_000, np.float32)
    for number in range(rounds):
        writer.refresh(out)
        writer.delta[:] = number
        writer.commit(index + 1, 10)
        writer.merge()
"""


def test_child_processes_write_by_descriptor() -> None:
    rounds = 300
    with WeightBuffer.create(40_000, 2) as buffer:
        for _ in range(2):  # the second pair takes the indices over
            children = [
                subprocess.Popen([sys.executable, "-c", CHILD, *map(str, (buffer.fd, i, rounds))], pass_fds=[buffer.fd])
                for i in range(2)
            ]
            assert [child.wait() for child in children] == [0, 0]
        assert np.all(contents(buffer) == 2 * 3 * sum(range(rounds)))
        assert buffer.updates() == 4 * rounds
        assert [buffer.submission(i).samples for i in range(2)] == [20 * rounds, 20 * rounds]
        buffer.validate()


def test_a_spare_writer_costs_its_slot_only_until_it_is_admitted() -> None:
    size = 4 * SEGMENT_FLOATS
    with WeightBuffer.create(size, 2, spare=8) as buffer, WeightBuffer.create(size, 10) as whole:

        def allocated(of: WeightBuffer) -> int:
            return 512 * os.fstat(of.fd).st_blocks

        assert allocated(buffer) == allocated(whole) - 8 * 4 * size
        buffer.admit(5)
        buffer.admit(5)
        assert allocated(buffer) == allocated(whole) - 7 * 4 * size
        writer = buffer.writer(5)
        writer.delta[:] = 2.0
        writer.commit(0.5, 3)
        writer.merge()
        assert np.all(contents(buffer) == 1.0)
        assert (buffer.updates(), buffer.submission(5).samples) == (1, 3)
        buffer.validate()
        with pytest.raises(IndexError):
            buffer.admit(10)


def test_a_spare_writer_that_memory_does_not_suffice_for_is_the_users_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with WeightBuffer.create(SEGMENT_FLOATS, 1, spare=1) as buffer:
        monkeypatch.setattr("bptcnn.memory.shared.available_bytes", lambda: 1000)
        with pytest.raises(UserError, match="a further node"):
            buffer.admit(1)
