"""What training with each of the inner layer's algorithms costs in accuracy: a part of `accuracy.py`.

One node trains in this process: the same seeds draw the same weights and orders of the images for every algorithm.
"""

import argparse
import statistics
from collections.abc import Sequence
from typing import get_args

import numpy as np
from runs import Kept

import bptcnn as bpt
from bptcnn.data import Dataset, order
from bptcnn.inner.executor import Executor
from bptcnn.inner.lowering import Decision, lower
from bptcnn.inner.subnetwork import Subnetwork
from bptcnn.inner.tuning import Algorithm, Choice, Tuning
from bptcnn.kernels.unit import MATRIX_UNIT
from bptcnn.networks import Conv2D, Dense, Flatten, MaxPool2D, Network, load_network
from bptcnn.precision import Precision
from bptcnn.profiling.tunings import tuning_of, tuning_record
from bptcnn.training.evaluation import Evaluator

BATCH, MOMENTUM = 64, 0.9
BAR = 0.3  # points
TUNED = "as tuned"


def several(input_shape: Sequence[int], classes: int) -> Network:
    """Return a small network whose convolutions have every algorithm among them, of 28x28 images in batches of 64."""
    layers = [
        Conv2D(32, 3, activation="relu"),
        MaxPool2D(2),
        Conv2D(64, 3, activation="relu"),
        MaxPool2D(2),
        Conv2D(64, 1, activation="relu"),
        Conv2D(64, 3, activation="relu"),
        MaxPool2D(2),
        Conv2D(64, 3, padding="valid", activation="relu"),
        Flatten(),
        Dense(classes),
    ]
    return Network(input_shape, layers, "several")


def compare_algorithms(told: argparse.Namespace) -> None:
    """Print the accuracies after equal epochs with each algorithm forced on all convolutions that may go by it."""
    kept, dataset = Kept(told.results), bpt.data.load(told.data)
    shape, classes = dataset.train.input_shape, dataset.classes
    for network in (load_network(told.network, shape, classes), several(shape, classes)):
        found: dict[str, list[float]] = {}
        ways = _ways(network)
        for seed in range(told.seeds):
            for way in ways:
                key = f"algorithms {told.data} {network.name} {way} {told.epochs} {told.lr} {seed}"
                if key not in kept:
                    kept[key] = _accuracy(network, dataset, way, told, seed)
                found.setdefault(way, []).append(100.0 * kept[key])
                print(f"{network.name}, seed {seed}, {way}: {found[way][-1]:.2f} %", flush=True)
        _print_table(network, told, found)


def _ways(network: Network) -> list[str]:
    """Return the algorithms that some convolution may go by, "direct" first, and "as tuned"."""
    able = {algorithm for d in _decisions(network, "bf16" if MATRIX_UNIT else "float32") for algorithm in d.algorithms}
    return [*(algorithm for algorithm in get_args(Algorithm) if algorithm in able), TUNED]


def _decisions(network: Network, precision: Precision) -> tuple[Decision, ...]:
    return lower(network, training=True, batch=BATCH, precision=precision).decisions


def _precision(way: str) -> Precision:
    return "bf16" if way == "bfloat16" else "float32"


def _tuning(network: Network, way: str, threads: int) -> Tuning:
    """Return what computes convolutions in a way where they may be, directly elsewhere."""
    if way == TUNED:
        return tuning_of(tuning_record(network, BATCH, threads))
    (algorithm,) = (one for one in get_args(Algorithm) if one == way)
    able = {d.choice.shape: way in d.algorithms for d in _decisions(network, _precision(way))}
    return Tuning(choices=tuple(Choice(shape, algorithm if one else "direct") for shape, one in able.items()))


def _accuracy(network: Network, dataset: Dataset, way: str, told: argparse.Namespace, seed: int) -> float:
    """Train; return the test accuracy, a share of 1."""
    train = dataset.train
    tuning = _tuning(network, way, told.threads)
    evaluator, executor = Evaluator(network, told.threads), Executor(told.threads)
    try:
        subnetwork = Subnetwork(network, BATCH, executor, tuning=tuning, precision=_precision(way))
        subnetwork.weights[:] = network.initial_weights(seed)
        for epoch in range(told.epochs):
            shuffled = order(len(train), seed * told.epochs + epoch)
            for begin in range(0, len(train), BATCH):
                images = np.ascontiguousarray(shuffled[begin : begin + BATCH])
                subnetwork.step(train.images, train.labels, images, float(told.lr), MOMENTUM)
        return evaluator.accuracy(subnetwork.weights, dataset.test)
    finally:
        executor.close()
        evaluator.close()


def _print_table(network: Network, told: argparse.Namespace, found: dict[str, list[float]]) -> None:
    """Means against that of direct convolution: within the bar, or the range over the seeds where that is wider."""
    direct = found["direct"]
    allowed = max(BAR, max(direct) - min(direct))
    print(f"\n{network.name}:")
    print("| algorithm | of each convolution | test accuracy, %, mean (range) | against direct | bar |")
    print("|---|---|---|---|---|")
    for way, values in found.items():
        tuning = _tuning(network, way, told.threads)
        decisions = lower(network, True, tuning=tuning, batch=BATCH, precision=_precision(way)).decisions
        chosen = ", ".join(decision.choice.algorithm for decision in decisions)
        mean, difference = statistics.mean(values), statistics.mean(values) - statistics.mean(direct)
        row = f"{mean:.2f} ({min(values):.2f} to {max(values):.2f}) | {difference:+.2f}"
        print(f"| {way} | {chosen} | {row} | {allowed:.2f}: {'met' if difference >= -allowed else 'missed'} |")
    print()
