"""Profiles of networks: counts that must be right, numbers that must be plausible."""

import numpy as np
import pytest

from bptcnn import networks
from bptcnn.inner.executor import Trace
from bptcnn.inner.graph import GraphBuilder, Task
from bptcnn.inner.lowering import operations
from bptcnn.networks import Conv2D, Dense, Flatten, MaxPool2D, Network
from bptcnn.profiling import NetworkProfile, profile_host, profile_network
from bptcnn.profiling.network import _flops, _layers, _overhead, measure_network
from bptcnn.profiling.steps import MeasuredSteps, RandomBatches

SMALL = Network(
    (12, 12, 1),
    [Conv2D(4, 3, activation="relu"), MaxPool2D(2), Conv2D(8, 3), MaxPool2D(3, 1), Flatten(), Dense(10)],
    "small",
)


def check(profile: NetworkProfile, network: Network, batch: int, threads: int) -> None:
    assert (profile.name, profile.input_shape) == (network.name, network.input_shape)
    assert (profile.batch_size, profile.threads) == (batch, threads)
    assert 0 < profile.images_per_second < float("inf")
    assert 0 < profile.peak_share <= 1.2
    assert 0 <= profile.idle_share <= 1
    assert profile.other_ms > 0
    assert all(layer.forward_ms > 0 and layer.backward_ms >= 0 for layer in profile.layer)


@pytest.mark.parametrize("threads", [1, 2])
def test_every_operation_has_its_layer(threads: int) -> None:
    profile = profile_network(SMALL, 8, threads, peak=1e4, seconds=0.05)
    check(profile, SMALL, 8, threads)
    assert [layer.name for layer in profile.layer] == ["conv1", "conv2", "pool2", "dense1"]
    for layer in profile.layer:
        assert (layer.forward_gflops > 0) == (layer.name != "pool2")
        assert layer.backward_ms > 0
        assert layer.forward_peak_share == pytest.approx(layer.forward_gflops / 1e4 * threads)


def test_the_step_counts_every_gradient() -> None:
    profile = profile_network(SMALL, 8, 1, peak=1e4, seconds=0.05)
    flops = sum(8 * m * n for m, n in ((2 * 12 * 12 * 9 * 4, 2), (2 * 6 * 6 * 9 * 4 * 8, 3), (2 * 4 * 4 * 8 * 10, 3)))
    per_step = 8 / profile.images_per_second
    assert profile.peak_share == pytest.approx(flops / per_step / 1e9 / 1e4)


def test_a_host_with_networks() -> None:
    profile = profile_host([networks.lenet5(), SMALL], 4, threads=[1, 2], name="here", seconds=0.02)
    assert profile.host.name == "here"
    assert [(entry.name, entry.threads) for entry in profile.network] == [
        ("lenet5", 1),
        ("lenet5", 2),
        ("small", 1),
        ("small", 2),
    ]
    check(profile.network[0], networks.lenet5(), 4, 1)


def test_the_first_operation_has_one_gradient() -> None:
    from bptcnn.inner.lowering import operations

    found = [_flops(op, 8) for op in operations(SMALL)]
    conv1, conv2, dense1 = 2 * 8 * 12 * 12 * 9 * 4, 2 * 8 * 6 * 6 * 9 * 4 * 8, 2 * 8 * 4 * 4 * 8 * 10
    assert found == [(conv1, conv1), (conv2, 2 * conv2), (0, 0), (dense1, 2 * dense1)]


def made_up(labels: list[str]) -> tuple[GraphBuilder, list[Task]]:
    builder = GraphBuilder()
    for label in labels:
        builder.add(Task(label, 0, 0, 0, 1, 0, 1.0), ())
    return builder, builder.tasks


def test_labels_go_to_their_layer_and_direction() -> None:
    labels = ["load", "conv1 pack forward", "conv1 forward", "conv1 backward", "conv1 reduce", "conv1 update"]
    labels += ["dense1 mask", "dense1 by input", "dense1 by weight", "dense1 forward", "loss", "conv12 forward"]
    builder, _ = made_up(labels)
    graph = builder.build(0)
    milliseconds = {label: 2**n for n, label in enumerate(labels)}
    durations = np.array([milliseconds.get(task.label, 0) for task in graph.tasks], np.int64) * 1_000_000
    starts = np.arange(len(durations), dtype=np.int64)
    noise = [0, 5, -5]  # the median has none
    traces = [Trace(starts, starts + durations + n, np.zeros_like(starts)) for n in noise]
    layers, other = _layers(operations(SMALL), 8, graph, traces, peak=100.0)
    times = {layer.name: (layer.forward_ms, layer.backward_ms) for layer in layers}
    assert times["conv1"] == (2 + 4, 8 + 16 + 32)
    assert times["dense1"] == (512, 64 + 128 + 256)
    assert times["conv2"] == times["pool2"] == (0, 0)
    assert other == 1 + 1024 + 2048
    conv1 = layers[0]
    assert conv1.forward_gflops == pytest.approx(2 * 8 * 12 * 12 * 9 * 4 / 6e6)
    assert conv1.forward_peak_share == pytest.approx(conv1.forward_gflops / 100)
    assert layers[1].forward_gflops == 0


def test_the_overhead_is_the_usual_gap_between_a_workers_tasks() -> None:
    starts, ends = np.array([100, 0, 300, 40, 210], np.int64), np.array([200, 30, 310, 70, 290], np.int64)
    trace = Trace(starts, ends, np.array([0, 1, 0, 1, 0], np.int64))  # gaps 10, 10, 10
    assert _overhead([trace]) == 10
    waiting = Trace(starts[:2] * 100, starts[:2] * 100 + 1, np.array([0, 0], np.int64))
    assert _overhead([trace, trace, waiting]) == 10
    assert _overhead([Trace(starts[:1], ends[:1], starts[:1])]) == 0


def test_traced_steps_train_and_their_costs_come_with_the_graph() -> None:
    with MeasuredSteps(SMALL, 8, 1, RandomBatches.draw(SMALL, 8, 2)) as steps:
        assert np.array_equal(steps.weights, SMALL.initial_weights(0))
        for turn in range(3):
            steps.step(turn)
        before = steps.weights.copy()
        traces = steps.traces(2)
        assert (steps.weights != before).mean() > 0.9, "a traced step leaves the update out"
        assert all((trace.ends > trace.starts).all() for trace in traces)
    measured = measure_network(SMALL, 8, 1, peak=1e4, seconds=0.02)
    assert {f"{name} update" for name in ("conv1", "conv2", "dense1")} < {task.label for task in measured.graph.tasks}
    layers = sum(layer.forward_ms + layer.backward_ms for layer in measured.profile.layer)
    assert sum(measured.graph.costs) / 1e6 == pytest.approx(layers + measured.profile.other_ms, rel=1e-3)
    assert 0 < measured.overhead < 1e6
    assert measured.counts.steps >= 5
    assert measured.counts.steals == (0,)
    assert measured.profile.idle_share == measured.counts.idle_share


@pytest.mark.parametrize("as_bytes", [True, False])
def test_random_batches(as_bytes: bool) -> None:
    batches = RandomBatches.draw(SMALL, 8, 3, as_bytes)
    assert batches.images.shape == (24, 12, 12, 1)
    assert batches.images.dtype == (np.uint8 if as_bytes else np.float32)
    assert sorted(batches.orders.ravel()) == list(range(24))
    assert batches.orders.shape == (3, 8)
    assert set(batches.labels) <= set(range(10))
    again = RandomBatches.draw(SMALL, 8, 3, as_bytes)
    assert np.array_equal(again.images, batches.images)
