import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bptcnn.outer.agwu import gamma, over_stale, submission_scale


@st.composite
def tables(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    nodes = draw(st.integers(1, 8))
    updates = draw(st.integers(0, 10**7))
    versions = np.array(draw(st.lists(st.integers(0, updates), min_size=nodes, max_size=nodes)), np.int64)
    qualities = np.array(draw(st.lists(st.floats(0, 1), min_size=nodes, max_size=nodes)))
    live = np.array(draw(st.lists(st.booleans(), min_size=nodes, max_size=nodes)))
    live[draw(st.integers(0, nodes - 1))] = True
    return versions, qualities, live, updates


@given(tables())
def test_gammas_of_live_nodes_sum_to_one_and_staler_is_never_heavier(table) -> None:  # type: ignore[no-untyped-def]
    versions, _, live, updates = table
    nodes = np.flatnonzero(live)
    gammas = np.array([gamma(int(node), versions, live, updates) for node in nodes])
    assert gammas.sum() == pytest.approx(1.0)
    for one, first in zip(nodes, gammas, strict=True):
        for other, second in zip(nodes, gammas, strict=True):
            assert versions[one] > versions[other] or first <= second * (1 + 1e-12)


@given(tables())
def test_scales_lie_between_the_published_one_and_gamma(table) -> None:  # type: ignore[no-untyped-def]
    versions, qualities, live, updates = table
    node = int(np.flatnonzero(live)[0])
    weight = gamma(node, versions, live, updates)
    published = submission_scale("agwu-published", node, versions, qualities, live, updates)
    relative = submission_scale("agwu", node, versions, qualities, live, updates)
    assert published == pytest.approx(weight * qualities[node])
    assert published <= relative * (1 + 1e-12) <= weight * (1 + 1e-9)


def test_by_hand() -> None:
    live = np.array([True, True, False])
    versions = np.array([10, 5, 0])
    qualities = np.array([0.5, 0.25, 1.0])
    weight = np.exp(0.5) / (np.exp(1.0) + np.exp(0.5))
    assert gamma(1, versions, live, 10) == pytest.approx(weight)
    assert submission_scale("agwu-published", 1, versions, qualities, live, 10) == pytest.approx(weight * 0.25)
    assert submission_scale("agwu", 1, versions, qualities, live, 10) == pytest.approx(weight * 0.5)


def test_the_first_update_weighs_live_nodes_equally() -> None:
    assert gamma(0, np.zeros(4, np.int64), np.array([True, True, True, False]), 0) == pytest.approx(1 / 3)


def test_a_single_node_merges_whole() -> None:
    for updates in (0, 1, 1000):
        versions = np.array([updates])
        assert submission_scale("agwu", 0, versions, np.array([0.3]), np.array([True]), updates) == 1.0


def test_quality_zero() -> None:
    live, versions = np.array([True, True]), np.zeros(2, np.int64)
    assert submission_scale("agwu", 0, versions, np.array([0.0, 0.5]), live, 3) == 0.0
    assert submission_scale("agwu", 0, versions, np.array([0.0, np.nan]), live, 3) == pytest.approx(0.5)
    assert submission_scale("agwu-published", 0, versions, np.array([0.0, np.nan]), live, 3) == 0.0


def test_a_version_read_after_the_counter_counts_as_current() -> None:
    live = np.array([True, True])
    assert gamma(0, np.array([4, 9]), live, 4) == pytest.approx(0.5)


def test_impossible_arguments_are_refused() -> None:
    live, versions = np.array([True, False]), np.zeros(2, np.int64)
    with pytest.raises(ValueError, match="not live"):
        gamma(1, versions, live, 1)
    with pytest.raises(ValueError, match="accuracy"):
        submission_scale("agwu", 0, versions, np.array([np.nan, 0.0]), live, 1)
    with pytest.raises(ValueError, match="no such rule"):
        submission_scale("sgwu", 0, versions, np.array([0.5, 0.5]), live, 1)  # type: ignore[arg-type]


def test_over_stale() -> None:
    assert over_stale(3, 9, 5)
    assert not over_stale(4, 9, 5)
    assert not over_stale(0, 10**6, None)
