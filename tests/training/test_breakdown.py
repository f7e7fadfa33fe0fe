"""Where the nodes' time went: what is counted where, and when efficiency is known."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bptcnn.outer import NodeTotals
from bptcnn.training.breakdown import Share, break_down, efficiency

SECONDS = st.floats(0.0, 1e6)


def totals(**values: float) -> NodeTotals:
    return NodeTotals(**{name: int(value) if name == "images" else value for name, value in values.items()})


def test_every_part_is_what_the_nodes_told() -> None:
    local = totals(
        images=1000,
        compute_seconds=10.0,
        wait_seconds=1.0,
        communication_seconds=0.5,
        live_seconds=12.0,
        paused_seconds=0.25,
        recording_seconds=2.0,
    )
    host = totals(
        images=400,
        compute_seconds=8.0,
        wait_seconds=2.0,
        communication_seconds=1.5,
        live_seconds=12.0,
        paused_seconds=5.0,
        recording_seconds=2.0,
    )
    found = break_down([Share(local, False, 125.0), Share(host, True, 50.0)])
    assert (found.compute, found.waiting, found.merging, found.communication) == (18.0, 3.0, 0.5, 1.5)
    assert (found.imbalance, found.evaluation) == (0.25, 4.0), "a host trains on while its stub is paused"
    assert found.other == pytest.approx(24.0 - 18.0 - 3.0 - 0.5 - 1.5 - 0.25)
    assert found.slowdown == pytest.approx(18.0 - 1000 / 125.0 - 400 / 50.0)
    assert found.total == pytest.approx(28.0)


@given(times=st.lists(st.tuples(SECONDS, SECONDS, SECONDS, SECONDS, SECONDS, SECONDS, st.booleans()), max_size=5))
def test_the_parts_add_up(times: list[tuple[float, ...]]) -> None:
    names = ("compute", "wait", "communication", "live", "paused", "recording")
    shares = []
    for *seconds, host in times:
        told = {f"{name}_seconds": value for name, value in zip(names, seconds, strict=True)}
        shares.append(Share(totals(**told), bool(host), 1.0))
    found = break_down(shares)
    parts = found.compute + found.waiting + found.merging + found.communication + found.imbalance + found.evaluation
    assert found.total == pytest.approx(parts + found.other)
    assert found.total >= sum(share.totals.live_seconds + share.totals.recording_seconds for share in shares) * 0.999999
    assert found.other >= 0.0


def test_efficiency_is_known_where_all_that_trained_were_measured() -> None:
    worked, idle = totals(images=10), totals()
    assert efficiency(90.0, [Share(worked, False, 60.0), Share(worked, False, 40.0)]) == pytest.approx(0.9)
    assert efficiency(90.0, [Share(worked, False, 100.0), Share(idle, True, None)]) == pytest.approx(0.9)
    assert efficiency(90.0, [Share(worked, False, 100.0), Share(worked, True, None)]) is None
    assert efficiency(90.0, [Share(worked, False, None)]) is None
    assert efficiency(0.0, []) is None
