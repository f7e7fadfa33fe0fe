"""A network on this machine: each operation's time and GFLOP/s, and the speed of whole training steps."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bptcnn.inner.executor import Trace
from bptcnn.inner.graph import TaskGraph
from bptcnn.inner.lowering import operations
from bptcnn.inner.operation import Operation
from bptcnn.inner.step_counts import StepCounts
from bptcnn.inner.tuning import BY_RULE, Tuning
from bptcnn.networks import Network
from bptcnn.precision import Precision
from bptcnn.profiling.host import measure_host
from bptcnn.profiling.records import LayerProfile, NetworkProfile, Profile
from bptcnn.profiling.steps import MeasuredSteps, RandomBatches

_TRACED_STEPS = 9


@dataclass(frozen=True)
class TracedStep:
    """One step's timeline, as `write_trace` takes it."""

    graph: TaskGraph
    trace: Trace


@dataclass(frozen=True)
class MeasuredNetwork:
    """A network's profile, its task graph with measured costs, what was counted in the steps that were timed, and the
    nanoseconds a thread spends between tasks.
    """

    profile: NetworkProfile
    graph: TaskGraph
    counts: StepCounts
    overhead: float


def profile_host(
    networks: Sequence[Network],
    batch_size: int,
    threads: int | Sequence[int] | None = None,
    name: str | None = None,
    seconds: float = 2.0,
) -> Profile:
    """Measure this machine and each network with each number of threads (default: all usable cores).

    `name` stands for the host name in the profile; `seconds` are spent on whole steps per network and thread number.
    """
    host = measure_host(name)
    counts = [threads] if isinstance(threads, int) else list(threads or [host.cores])
    measured = [
        profile_network(network, batch_size, count, host.peak(count), seconds)
        for network in networks
        for count in counts
    ]
    return Profile(host, tuple(measured))


def profile_network(
    network: Network, batch_size: int, threads: int, peak: float, seconds: float = 2.0
) -> NetworkProfile:
    """Measure training steps of `network`: `seconds` of whole ones for the speed, then traced ones for the layers.

    peak: GFLOP/s that `threads` threads reach together (`Host.peak`).
    """
    return measure_network(network, batch_size, threads, peak, seconds).profile


def measure_network(
    network: Network,
    batch_size: int,
    threads: int,
    peak: float,
    seconds: float = 2.0,
    tuning: Tuning = BY_RULE,
    precision: Precision = "float32",
) -> MeasuredNetwork:
    """Measure as `profile_network` does, and return what each task of a step costs, too."""
    batches = RandomBatches.draw(network, batch_size)
    with MeasuredSteps(network, batch_size, threads, batches, tuning, precision) as steps:
        step_seconds, counts = steps.timed(seconds)
        traces = steps.traces(_TRACED_STEPS)
        graph = steps.graph
    layers, other = _layers(operations(network, precision), batch_size, graph, traces, peak / threads)
    profile = NetworkProfile(
        name=network.name,
        input_shape=network.input_shape,
        batch_size=batch_size,
        threads=threads,
        images_per_second=batch_size / step_seconds,
        peak_share=flops_per_image(network) * batch_size / step_seconds / 1e9 / peak,
        idle_share=counts.idle_share,
        other_ms=other,
        layer=layers,
    )
    costs = np.median([trace.ends - trace.starts for trace in traces], axis=0)
    return MeasuredNetwork(profile, graph.with_costs([float(cost) for cost in costs]), counts, _overhead(traces))


def trace_step(network: Network, batch_size: int, threads: int, tuning: Tuning = BY_RULE) -> TracedStep:
    """Return the timeline of one step on random images, after a few to warm up."""
    with MeasuredSteps(network, batch_size, threads, RandomBatches.draw(network, batch_size), tuning) as steps:
        return TracedStep(steps.graph, steps.traces(1)[0])


def flops_per_image(network: Network) -> int:
    """Return the operations that training takes per image, both gradients included, by the direct algorithm."""
    return sum(sum(_flops(op, 1)) for op in operations(network))


def _layers(
    found: Sequence[Operation], batch: int, graph: TaskGraph, traces: Sequence[Trace], peak: float
) -> tuple[tuple[LayerProfile, ...], float]:
    """Return the layers, those of the operations `found`, and the milliseconds of tasks that belong to none.

    A task's label is "<operation> <what>"; what names no "forward" is backward. `peak` is that of one thread.
    """
    durations = np.median([trace.ends - trace.starts for trace in traces], axis=0) / 1e6
    forward = dict.fromkeys((op.name for op in found), 0.0)
    backward = dict(forward)
    other = 0.0
    for task, milliseconds in zip(graph.tasks, durations, strict=True):
        name, _, what = task.label.partition(" ")
        if name not in forward:
            other += float(milliseconds)
        elif "forward" in what:
            forward[name] += float(milliseconds)
        else:
            backward[name] += float(milliseconds)
    layers = []
    for op in found:
        flops = _flops(op, batch)
        speeds = [_gflops(count, ms) for count, ms in zip(flops, (forward[op.name], backward[op.name]), strict=True)]
        shares = [speed / peak for speed in speeds]
        layers.append(LayerProfile(op.name, forward[op.name], backward[op.name], *speeds, *shares))
    return tuple(layers), other


def _flops(op: Operation, batch: int) -> tuple[int, int]:
    """Return the operations of a batch, forward and backward: nobody asks for the gradient by the network's input."""
    flops = 2 * batch * op.multiply_adds
    return flops, flops * (2 if op.inputs[0] != 0 else 1)


def _gflops(flops: int, milliseconds: float) -> float:
    return flops / milliseconds / 1e6 if milliseconds > 0 else 0.0


def _overhead(traces: Sequence[Trace]) -> float:
    """Return the median nanoseconds between two tasks of a worker; where it waits they are more, which is rarer."""
    gaps: list[float] = []
    for trace in traces:
        for worker in np.unique(trace.workers):
            own = np.flatnonzero(trace.workers == worker)
            own = own[np.argsort(trace.starts[own])]
            gaps += (trace.starts[own[1:]] - trace.ends[own[:-1]]).tolist()
    return float(np.median(gaps)) if gaps else 0.0
