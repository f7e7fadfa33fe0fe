"""Speeds from profiles, and estimates without."""

import profile_examples as examples
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bptcnn.profiling import NodeSpeed, Profile, comparable_speeds, estimated_speed, node_speed, profiled_speed


def speeds(*entries: dict[str, object]) -> Profile:
    return Profile(examples.host(), tuple(examples.network(**entry) for entry in entries))


def test_an_entry_gives_its_speed() -> None:
    assert profiled_speed("cnn2", 64, 2, examples.profile()) == 8000.0


def test_the_nearest_batch_size_counts_first() -> None:
    profile = speeds(
        {"batch_size": 16, "threads": 1, "images_per_second": 1000.0},
        {"batch_size": 128, "threads": 4, "images_per_second": 4800.0},
    )
    assert profiled_speed("cnn2", 20, 4, profile) == 4000.0
    assert profiled_speed("cnn2", 100, 1, profile) == 1200.0


def test_then_the_nearest_number_of_threads_in_proportion() -> None:
    profile = speeds({"threads": 1, "images_per_second": 900.0}, {"threads": 4, "images_per_second": 2400.0})
    assert [profiled_speed("cnn2", 64, threads, profile) for threads in (1, 3, 4)] == [900.0, 1800.0, 2400.0]


def test_threads_beyond_the_cores_add_nothing() -> None:
    profile = speeds({"threads": 2, "images_per_second": 100.0})
    assert profiled_speed("cnn2", 64, 64, profile) == 200.0  # the host has 4 cores


def test_images_of_another_shape_do_not_count_if_asked() -> None:
    profile = speeds({"threads": 2, "images_per_second": 100.0})
    assert profiled_speed("cnn2", 64, 2, profile, input_shape=(28, 28, 1)) == 100.0
    assert profiled_speed("cnn2", 64, 2, profile, input_shape=(32, 32, 3)) == 2 * 3.6


def test_without_an_entry_cores_times_clock() -> None:
    assert profiled_speed("vgg16", 64, 3, examples.profile()) == pytest.approx(3 * 3.6)
    assert profiled_speed("vgg16", 64, 9, examples.profile()) == pytest.approx(4 * 3.6)
    assert estimated_speed(2, 4, 0.0) == 5.0


def test_nodes_with_and_without_a_profile_compare() -> None:
    measured = [NodeSpeed(8000.0, 4.0), NodeSpeed(1500.0, 1.0), NodeSpeed(3200.0, 2.0)]  # 2000, 1500, 1600 a GHz
    assert comparable_speeds([*measured, NodeSpeed(None, 3.0)]) == [8000.0, 1500.0, 3200.0, 4800.0]
    assert comparable_speeds([NodeSpeed(None, 3.0), NodeSpeed(None, 1.5)]) == [3.0, 1.5]
    assert comparable_speeds([]) == []


def test_a_node_is_estimated_even_with_an_entry() -> None:
    assert node_speed("cnn2", 64, 2, examples.profile()) == NodeSpeed(8000.0, 2 * 3.6)


@given(st.integers(1, 512), st.integers(1, 512))
def test_without_a_profile_this_host_is_estimated(batch: int, threads: int) -> None:
    one, many = (profiled_speed("cnn2", batch, count, None) for count in (1, threads))
    assert 0 < one <= many <= one * threads


@given(examples.profiles, st.integers(1, 1000), st.integers(1, 1000))
def test_a_speed_is_positive(profile: Profile, batch: int, threads: int) -> None:
    names = [entry.name for entry in profile.network] or ["cnn2"]
    assert all(profiled_speed(name, batch, threads, profile) > 0 for name in names)
