"""Timelines: JSON that trace viewers load, tasks of one worker one after the other."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from bptcnn import networks
from bptcnn.errors import UserError
from bptcnn.inner.executor import Trace
from bptcnn.inner.graph import GraphBuilder, Task, TaskGraph
from bptcnn.profiling import trace_step, write_trace


def graph() -> TaskGraph:
    builder = GraphBuilder()
    first = builder.add(Task("conv1 forward", 0, 0, 0, 4, 0, 3.0), ())
    builder.add(Task("conv1 backward", 0, 0, 4, 8, 1, 2.0), [first])
    return builder.build(0)


def times(starts: list[int], ends: list[int], workers: list[int]) -> Trace:
    return Trace(*(np.array(values, np.int64) for values in (starts, ends, workers)))


def test_a_real_step(tmp_path: Path) -> None:
    step = trace_step(networks.lenet5(), 8, 2)
    write_trace(tmp_path / "trace.json", step.graph, step.trace)
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    slices = [event for event in events if event["ph"] == "X"]
    assert sorted(event["name"] for event in slices) == sorted(task.label for task in step.graph.tasks)
    assert min(event["ts"] for event in slices) == 0
    tracks = {event["tid"] for event in slices}
    assert tracks <= {0, 1}
    for track in tracks:
        spans = sorted(
            (round(event["ts"] * 1000), round((event["ts"] + event["dur"]) * 1000))
            for event in slices
            if event["tid"] == track
        )
        assert all(end <= following for (_, end), (following, _) in itertools.pairwise(spans))
    assert {event["tid"] for event in events if event["name"] == "thread_name"} == tracks


def test_what_a_slice_holds(tmp_path: Path) -> None:
    write_trace(tmp_path / "trace.json", graph(), times([5_000, 6_500, 8_000], [6_500, 8_000, 8_001], [1, 0, 0]))
    document = json.loads((tmp_path / "trace.json").read_text())
    slices = [event for event in document["traceEvents"] if event["ph"] == "X"]
    assert slices[1] == {
        "name": "conv1 backward",
        "cat": "backward",
        "ph": "X",
        "ts": 1.5,
        "dur": 1.5,
        "pid": 0,
        "tid": 0,
        "args": {"first": 4, "last": 8, "part": 1},
    }
    assert [event["name"] for event in slices] == ["conv1 forward", "conv1 backward", "end"]


@pytest.mark.parametrize(
    ("starts", "ends", "workers"),
    [
        ([0, 5, 20], [10, 15, 21], [0, 0, 0]),
        ([0, 10, 20], [10, 9, 21], [0, 0, 0]),
        ([0, 10], [10, 20], [0, 0]),
    ],
    ids=["overlap", "backwards", "other graph"],
)
def test_a_trace_that_cannot_be_is_our_fault(
    tmp_path: Path, starts: list[int], ends: list[int], workers: list[int]
) -> None:
    with pytest.raises(ValueError, match=r"overlaps|tasks"):
        write_trace(tmp_path / "trace.json", graph(), times(starts, ends, workers))
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot write"):
        write_trace(tmp_path, graph(), times([0, 1, 2], [1, 2, 3], [0, 0, 0]))
    assert not list(tmp_path.iterdir())
