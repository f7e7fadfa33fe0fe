"""Epochs' seconds and speeds: right also where an epoch was trained ahead, in whole or in part."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from training.runs import data, run

from bptcnn.rates import rate
from bptcnn.training.checkpoint import read_checkpoint
from bptcnn.training.epoch_clock import NOTHING, EpochClock, Stretch


def test_an_epoch_that_was_trained_ahead_took_the_time_of_its_images() -> None:
    clock = EpochClock(0, NOTHING)
    clock.start(100.0)
    clock.stop(130.0)
    assert clock.cut(30_000, 20_000) == Stretch(10_000, 10.0)
    assert clock.ahead == Stretch(20_000, 20.0)
    found = clock.cut(30_000, 0)  # complete before it began: nothing ran in between
    assert found == Stretch(20_000, 20.0)
    assert found.images_per_second == 1000.0
    assert clock.total == 30.0


def test_evaluation_is_no_training_time() -> None:
    clock = EpochClock(0, NOTHING)
    clock.start(0.0)
    clock.stop(4.0)
    clock.stop(9.0)
    clock.start(10.0)
    clock.stop(12.0)
    assert clock.cut(600, 0) == Stretch(600, 6.0)


@given(st.lists(st.tuples(st.floats(0.0, 1e4), st.integers(0, 1000)), min_size=1, max_size=8), st.integers(0, 7))
def test_epochs_add_up_to_the_training_time_and_its_images(parts: list[tuple[float, int]], resumed: int) -> None:
    """Epochs of 1000 images, of which some are trained ahead; a run that is resumed goes on with what was ahead."""
    clock, now, images, epochs, seconds = EpochClock(0, NOTHING), 0.0, 0, [], 0.0
    for number, (took, ahead) in enumerate([*parts, (1.0, 0)], 1):
        if number == resumed:
            seconds += clock.total
            clock = EpochClock(images, clock.ahead)
        clock.start(now)
        now += took
        clock.stop(now)
        images = max(images, 1000 * number + ahead)
        epochs.append(clock.cut(images, images - 1000 * number))
    assert [epoch.images for epoch in epochs] == [1000] * len(epochs)
    assert sum(epoch.seconds for epoch in epochs) == pytest.approx(now)
    assert seconds + clock.total == pytest.approx(now)
    assert all(epoch.seconds >= 0.0 for epoch in epochs)


def test_a_speed_is_told_once_there_is_time_to_measure_it() -> None:
    clock = EpochClock(0, NOTHING)
    clock.start(0.0)
    assert clock.speed(1e-9, 20_000) == 0.0
    assert clock.speed(2.0, 20_000) == 10_000.0
    assert (rate(20_000, 0.0), rate(20_000, 1e-9), rate(20_000, -1.0), rate(10, 4.0)) == (0.0, 0.0, 0.0, 2.5)


@pytest.mark.parametrize("values", [(-1, 1.0), (1, -1.0), (1, float("nan")), (1, float("inf"))])
def test_what_cannot_be_is_refused(values: tuple[int, float]) -> None:
    with pytest.raises(ValueError, match="images in"):
        Stretch(*values)


def test_short_epochs_of_a_run_add_up(tmp_path: Path) -> None:
    """Epochs of two batches: many are complete before the one before them has ended."""
    epochs, samples = 60, 32
    result = run(tmp_path / "run", data(samples, 10), nodes=2, epochs=epochs, batch_size=16, local_steps=1)
    summary, rows = result.summary, result.epochs
    assert sum(row.seconds for row in rows) == pytest.approx(summary.train_seconds)
    assert sum(row.seconds * row.images_per_second for row in rows) == pytest.approx(samples * epochs)
    assert all(row.images_per_second * row.seconds == pytest.approx(samples) for row in rows)
    assert read_checkpoint(tmp_path / "run/last.safetensors").ahead == NOTHING
    again = run(tmp_path / "run", data(samples, 10), epochs=epochs + 20, local_steps=1, resume=True)
    assert sum(row.seconds for row in again.epochs) == pytest.approx(again.summary.train_seconds)
    assert all(row.images_per_second * row.seconds == pytest.approx(samples) for row in again.epochs)
