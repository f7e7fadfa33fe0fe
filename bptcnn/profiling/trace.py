"""Timelines in Chrome's trace format, which chrome://tracing and Perfetto show: a track per worker, a slice per task.

Format: "Trace Event Format" of the Chromium project. Times are microseconds with three decimals, that is nanoseconds.
"""

import json
import os
from typing import Any

from bptcnn.files import write_atomically
from bptcnn.inner.executor import Trace
from bptcnn.inner.graph import TaskGraph


def write_trace(path: str | os.PathLike[str], graph: TaskGraph, trace: Trace) -> None:
    """Write one step's timeline. `graph` is the graph whose order `trace` has: `Subnetwork.trace_graph`.

    Raises ValueError where they do not fit together or tasks overlap on a worker, UserError where the file cannot be
    written.
    """
    if not len(graph.tasks) == len(trace.starts) == len(trace.ends) == len(trace.workers):
        raise ValueError(f"the trace has {len(trace.starts)} tasks, the graph {len(graph.tasks)}")
    document = {"traceEvents": _events(graph, trace), "displayTimeUnit": "ns"}
    write_atomically(path, json.dumps(document, separators=(",", ":")))


def _events(graph: TaskGraph, trace: Trace) -> list[dict[str, Any]]:
    starts, ends, workers = (array.tolist() for array in (trace.starts, trace.ends, trace.workers))
    origin = min(starts)
    events: list[dict[str, Any]] = [_named("process_name", 0, "bptcnn step")]
    events += [_named("thread_name", worker, f"worker {worker}") for worker in sorted(set(workers))]
    last_end: dict[int, int] = {}
    for index in sorted(range(len(starts)), key=lambda i: (starts[i], ends[i])):
        task, worker, start, end = graph.tasks[index], workers[index], starts[index], ends[index]
        if end < start or start < last_end.get(worker, origin):
            raise ValueError(f"task {task.label} overlaps another one of worker {worker}")
        last_end[worker] = end
        events.append(
            {
                "name": task.label,
                "cat": task.label.rpartition(" ")[2],
                "ph": "X",
                "ts": (start - origin) / 1000,
                "dur": (end - start) / 1000,
                "pid": 0,
                "tid": worker,
                "args": {"first": task.first, "last": task.last, "part": task.part},
            }
        )
    return events


def _named(what: str, worker: int, name: str) -> dict[str, Any]:
    return {"name": what, "ph": "M", "pid": 0, "tid": worker, "args": {"name": name}}
