"""A network on this machine: each operation's time and GFLOP/s, and the speed of whole training steps."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bptcnn.inner.executor import Executor, Trace
from bptcnn.inner.graph import TaskGraph
from bptcnn.inner.lowering import operations
from bptcnn.inner.operation import Operation
from bptcnn.inner.subnetwork import Subnetwork
from bptcnn.networks import Network
from bptcnn.profiling.host import measure_host
from bptcnn.profiling.records import LayerProfile, NetworkProfile, Profile

_BATCHES = 16  # a single batch is learnt by heart, and vanishing gradients become slow denormal numbers
_TRACED_STEPS = 9
_WARM_STEPS = 3  # before measuring: caches, and threads that sleep
_LEAST_STEPS = 5
_RATE, _MOMENTUM = 1e-3, 0.9  # a full step, with a rate at which random labels do no harm


@dataclass(frozen=True)
class TracedStep:
    """One step's timeline, as `write_trace` takes it."""

    graph: TaskGraph
    trace: Trace


@dataclass(frozen=True)
class _Samples:
    """Random images (uint8) and labels: `_BATCHES` batches."""

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int32]
    batch: int

    @classmethod
    def random(cls, network: Network, batch: int) -> "_Samples":
        generator = np.random.default_rng(0)
        count = _BATCHES * batch
        images = generator.integers(0, 256, (count, *network.input_shape), np.uint8)
        return cls(images, generator.integers(0, network.classes, count, np.int32), batch)

    def trace(self, subnetwork: Subnetwork, turn: int) -> Trace:
        first = turn % _BATCHES * self.batch
        return subnetwork.traced(self.images[first : first + self.batch], self.labels[first : first + self.batch])


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
    """Measure training steps of `network`: traced ones for the layers, then `seconds` of whole ones for the speed.

    peak: GFLOP/s that `threads` threads reach together (`Host.peak`).
    """
    executor = Executor(threads)
    try:
        subnetwork = Subnetwork(network, batch_size, executor)
        samples = _Samples.random(network, batch_size)
        step_seconds = _measure_steps(subnetwork, samples, seconds)
        traces = [samples.trace(subnetwork, turn) for turn in range(_TRACED_STEPS)]
        graph = subnetwork.trace_graph
    finally:
        executor.close()
    layers, other = _layers(network, batch_size, graph, traces, peak / threads)
    flops = sum(sum(_flops(op, batch_size)) for op in operations(network))
    return NetworkProfile(
        name=network.name,
        input_shape=network.input_shape,
        batch_size=batch_size,
        threads=threads,
        images_per_second=batch_size / step_seconds,
        peak_share=flops / step_seconds / 1e9 / peak,
        idle_share=float(np.median([_idle_share(trace, threads) for trace in traces])),
        other_ms=other,
        layer=layers,
    )


def trace_step(network: Network, batch_size: int, threads: int) -> TracedStep:
    """Return the timeline of one step on random images, after a few to warm up."""
    executor = Executor(threads)
    try:
        subnetwork = Subnetwork(network, batch_size, executor)
        samples = _Samples.random(network, batch_size)
        traces = [samples.trace(subnetwork, turn) for turn in range(_WARM_STEPS + 1)]
        return TracedStep(subnetwork.trace_graph, traces[-1])
    finally:
        executor.close()


def _measure_steps(subnetwork: Subnetwork, samples: _Samples, seconds: float) -> float:
    """Return the median seconds of a whole step: forward, backward and update."""
    orders = np.arange(_BATCHES * samples.batch, dtype=np.int32).reshape(_BATCHES, samples.batch)
    taken: list[float] = []
    end = float("inf")
    while len(taken) < _WARM_STEPS + _LEAST_STEPS or time.perf_counter() < end:
        start = time.perf_counter()
        subnetwork.step(samples.images, samples.labels, orders[len(taken) % _BATCHES], _RATE, _MOMENTUM)
        taken.append(time.perf_counter() - start)
        if len(taken) == _WARM_STEPS:
            end = time.perf_counter() + seconds
    return float(np.median(taken[_WARM_STEPS:]))


def _layers(
    network: Network, batch: int, graph: TaskGraph, traces: Sequence[Trace], peak: float
) -> tuple[tuple[LayerProfile, ...], float]:
    """Return the layers, and the milliseconds of tasks that belong to none; `peak` is that of one thread.

    A task's label is "<operation> <what>"; what names no "forward" is backward.
    """
    durations = np.median([trace.ends - trace.starts for trace in traces], axis=0) / 1e6
    found = operations(network)
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


def _idle_share(trace: Trace, threads: int) -> float:
    span = int(trace.ends.max() - trace.starts.min())
    busy = int((trace.ends - trace.starts).sum())
    return min(1.0, max(0.0, 1 - busy / (threads * span))) if span > 0 else 0.0
