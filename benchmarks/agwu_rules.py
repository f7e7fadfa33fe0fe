"""AGWU's rules side by side: how fast and how far nodes train together, for each way to weigh a submission.

    python benchmarks/agwu_rules.py [--rules agwu,agwu-published] [--nodes "1.0,0.5,0.25,0.25;8"] [--local-steps 4,16]
                                    [--staleness none,4] [--seeds 3] [--processes 2] [--results FILE.jsonl]

Real training in virtual time, in one process: the coordinator, IDPA, AGWU, the weight buffer and the training step are
those of a run, only the clock is not (`outer/simulator.py`), so that 8 nodes can be timed on any machine, and a run
repeats bit for bit. lenet5 on part of Fashion-MNIST, batch 64, momentum 0.9. Everything runs over seeds, which draw
weights, order and delays.

The table: test accuracy in the last epoch, mean and range; the speed-up to an accuracy over one node of
speed 1.0 (same seed), mean and range, as a share of what the nodes' summed speed would give (0: never there), a mean
over a few target accuracies. `--results` keeps every run in a file and takes from it what is there.
"""

import argparse
import json
import math
import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any, get_args
from unittest.mock import patch

import numpy as np
from runs import Kept, node_name

from bptcnn.data import Samples, load
from bptcnn.inner.executor import Executor
from bptcnn.inner.subnetwork import Subnetwork
from bptcnn.memory import WeightBuffer
from bptcnn.networks import load_network
from bptcnn.nodes import exchange
from bptcnn.nodes.divergence import Diverged
from bptcnn.nodes.optimizer_memory import OptimizerMemory
from bptcnn.outer import Conditions, NodeProfile, RunSettings, SimulatedNode, simulate, submission_scale
from bptcnn.outer.agwu import AsynchronousRule, gamma, relative_quality
from bptcnn.training.evaluation import Evaluator
from bptcnn.training.settings import parse_nodes

_BATCH = 64
_RATE, _MOMENTUM = 0.05, 0.9
_SPEED = 10_000.0  # images/s of a node of speed 1.0: its value matters to the costs below only
_DELAY_SECONDS = 0.001  # of a message, at most
_MERGE_SECONDS = 0.0003
_EVALUATE_EVERY = 2500  # images
_LAST = 4  # evaluations whose mean is a run's accuracy: one alone is noisy at a constant learning rate
_TEST_IMAGES = 2500

Versions = Sequence[int]
Floats = Sequence[float]
Flags = Sequence[bool]
Scale = Callable[[int, Versions, Floats, Flags, int], float]


# ---- rules -----------------------------------------------------------------------------------------------------------


def _constant(factor: float) -> Scale:
    def scale(node: int, _: Versions, qualities: Floats, live: Flags, __: int) -> float:
        return (factor if sum(live) > 1 else 1.0) * relative_quality(node, qualities, live)

    return scale


def _by_count(power: float) -> Scale:
    """m^-power."""
    return lambda node, _, qualities, live, __: float(sum(live)) ** -power * relative_quality(node, qualities, live)


def _by_staleness(power: float) -> Scale:
    """(1 + s)^-power, s being how many updates were merged since the node's copy."""

    def scale(node: int, versions: Versions, qualities: Floats, live: Flags, updates: int) -> float:
        stale = max(0, updates - versions[node])
        return float((1.0 + stale) ** -power) * relative_quality(node, qualities, live)

    return scale


def _gamma_to(power: float) -> Scale:
    def scale(node: int, versions: Versions, qualities: Floats, live: Flags, updates: int) -> float:
        return float(gamma(node, versions, live, updates) ** power) * relative_quality(node, qualities, live)

    return scale


def _kept(rule: AsynchronousRule) -> Scale:
    return lambda *table: submission_scale(rule, *table)


RULES: dict[str, Scale] = {
    **{rule: _kept(rule) for rule in get_args(AsynchronousRule)},
    "constant-0.5": _constant(0.5),
    "whole": _constant(1.0),
    "count-1": _by_count(1.0),
    "count-0.75": _by_count(0.75),
    "count-0.5": _by_count(0.5),
    "gamma-0.5": _gamma_to(0.5),
    "stale-1": _by_staleness(1.0),
    "stale-0.75": _by_staleness(0.75),
    "stale-0.5": _by_staleness(0.5),
    "stale-0.25": _by_staleness(0.25),
}
"""All but agwu-published are times Q over the best live Q."""


# ---- a run -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """One run; `staleness` None: no bound."""

    rule: str
    nodes: tuple[float, ...]
    local_steps: int
    staleness: int | None
    seed: int
    images: int
    epochs: int
    data: str = "fashion-mnist"
    network: str = "lenet5"

    @property
    def key(self) -> str:
        """The case as text."""
        return json.dumps(asdict(self))


@dataclass(frozen=True)
class Outcome:
    """A curve of (virtual seconds, test accuracy), and images/s over the nodes' summed. No curve: the run diverged."""

    curve: list[tuple[float, float]]
    efficiency: float
    updates: int

    @property
    def accuracy(self) -> float:
        """The mean of the last few."""
        return statistics.mean(accuracy for _, accuracy in self.curve[-_LAST:]) if self.curve else 0.0

    def seconds_to(self, target: float) -> float:
        """When the target was first reached, between two points of the curve; infinity if never."""
        before = (0.0, 0.0)
        for point in self.curve:
            if point[1] >= target:
                return before[0] + (point[0] - before[0]) * (target - before[1]) / (point[1] - before[1])
            before = point
        return math.inf


class Team:
    """Virtual nodes that take turns with one subnetwork: a `Learner` over the weight buffer that real nodes share."""

    def __init__(self, machine: "Machine", case: Case, settings: RunSettings) -> None:
        subnetwork, count = machine.subnetwork, len(case.nodes)
        self._machine, self._settings = machine, settings
        subnetwork.restart()
        weights = subnetwork.network.initial_weights(case.seed)
        self.buffer = WeightBuffer.create(weights.size, count)
        self.buffer.store(weights)
        for node in range(count):
            self.buffer.set_live(node, True)
        nothing = OptimizerMemory.create(0)  # nobody pauses
        self._exchanges = [exchange.SharedExchange(self.buffer, node, "agwu", nothing) for node in range(count)]
        self._iterations = [exchange.Iteration(0) for _ in range(count)]
        self._kept = [(weights.copy(), np.zeros_like(weights)) for _ in range(count)]
        self._present: int | None = None
        self._committed = 0
        self.curve: list[tuple[float, float]] = []

    def _seat(self, node: int) -> Subnetwork:
        """Give the subnetwork to `node`: it finds its weights and velocity as it left them."""
        subnetwork = self._machine.subnetwork
        if node != self._present:
            for vector, column in ((subnetwork.weights, 0), (subnetwork.velocity, 1)):
                if self._present is not None:
                    self._kept[self._present][column][:] = vector
                vector[:] = self._kept[node][column]
            self._present = node
        return subnetwork

    def refresh(self, node: int) -> None:
        """Copy the weight set."""
        self._exchanges[node].begin(self._seat(node).weights)
        self._iterations[node] = exchange.Iteration(0)

    def step(self, node: int, epoch: int, samples: list[int]) -> None:
        """Train a batch."""
        train, rate = self._machine.train, self._settings.learning_rates[epoch - 1]
        order = np.array(samples, np.int32)
        result = self._seat(node).step(train.images, train.labels, order, rate, _MOMENTUM, 0.0)
        iteration = self._iterations[node]
        iteration.samples += result.images
        iteration.loss_sum += result.loss * result.images
        iteration.correct += result.correct

    def submit(self, node: int, time: float) -> tuple[float, int]:
        """Commit and merge; evaluate where it is due."""
        iteration = self._iterations[node]
        self._exchanges[node].submit(self._seat(node).weights, iteration)
        before, self._committed = self._committed, self._committed + iteration.samples
        if before // _EVALUATE_EVERY != self._committed // _EVALUATE_EVERY:
            self.curve.append((time, self.accuracy()))
        return iteration.loss_sum, iteration.correct

    def merge(self, scales: tuple[tuple[int, float], ...], time: float) -> None:
        """Not under AGWU."""
        raise NotImplementedError

    def accuracy(self) -> float:
        """Return the weight set's accuracy on the test images."""
        weights = np.empty(self.buffer.layout.parameters, np.float32)
        self.buffer.snapshot(weights)
        return self._machine.evaluator.accuracy(weights, self._machine.test)


class Machine:
    """What all runs of a process share."""

    def __init__(self, data: str, images: int, name: str) -> None:
        dataset = load(data)
        train = dataset.train
        self.train = Samples(train.images[:images], train.labels[:images])
        self.test = Samples(dataset.test.images[:_TEST_IMAGES], dataset.test.labels[:_TEST_IMAGES])
        network = load_network(name, train.input_shape, dataset.classes)
        self.subnetwork = Subnetwork(network, _BATCH, Executor(1))
        self.evaluator = Evaluator(network, 1)


machine_for = cache(Machine)


def play(case: Case) -> Outcome:
    """Train in virtual time."""
    machine = machine_for(case.data, case.images, case.network)
    profiles = tuple(NodeProfile(f"n{node}", speed) for node, speed in enumerate(case.nodes))
    rates = (_RATE,) * case.epochs
    settings = RunSettings(
        profiles, len(machine.train), case.epochs, _BATCH, case.local_steps, rates, "agwu", seed=case.seed
    )
    team = Team(machine, case, settings)
    nodes = tuple(SimulatedNode(_SPEED * speed) for speed in case.nodes)
    conditions = Conditions(
        delay=_DELAY_SECONDS,
        merge_seconds=_MERGE_SECONDS,
        evaluation_seconds=0.0,
        staleness=case.staleness,
        seed=case.seed,
    )
    rule = RULES[case.rule]
    try:
        with patch.object(exchange, "submission_scale", lambda _, *table: rule(*table)):
            run = simulate(settings, nodes, conditions, validate=False, learner=team)
    except Diverged:
        return Outcome([], math.nan, 0)
    return Outcome(team.curve, run.efficiency, run.counters.updates)


def play_all(cases: list[Case], processes: int, path: Path | None) -> dict[Case, Outcome]:
    """Play what is not kept yet, and keep it."""
    kept = Kept(path)
    missing = [case for case in dict.fromkeys(cases) if case.key not in kept]
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        for case, outcome in zip(missing, pool.map(play, missing), strict=True):
            kept[case.key] = asdict(outcome)
    return {case: Outcome(**kept[case.key]) for case in cases}


# ---- the table -------------------------------------------------------------------------------------------------------


def _range(values: list[float], digits: int) -> str:
    low, high = min(values), max(values)
    return f"{statistics.mean(values):.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def _row(outcomes: list[Outcome], alone: list[Outcome], summed: float, targets: list[float]) -> str:
    accuracies = _range([100.0 * outcome.accuracy for outcome in outcomes], 1)
    shares = [
        statistics.mean(one.seconds_to(target) / many.seconds_to(target) / summed for target in targets)
        for one, many in zip(alone, outcomes, strict=True)
    ]
    return f"{accuracies} | {_range(shares, 2)}"


def main() -> None:
    """Play and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rules", default=",".join(RULES))
    parser.add_argument("--nodes", default="2;1.0,0.5,0.25,0.25;4;8", help="as of `train --nodes`, with ; between")
    parser.add_argument("--local-steps", default="4,8,16,32")
    parser.add_argument("--staleness", default="none")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--data", default="fashion-mnist")
    parser.add_argument("--network", default="lenet5")
    parser.add_argument("--targets", default="0.78,0.80,0.82", help="accuracies that the speed-up is a mean over")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--results", type=Path)
    told = parser.parse_args()
    common: dict[str, Any] = {key: getattr(told, key) for key in ("images", "epochs", "data", "network")}
    seeds = range(told.seeds)
    alone = [Case("agwu", (1.0,), 16, None, seed, **common) for seed in seeds]
    teams = [parse_nodes(spec) for spec in told.nodes.split(";")]
    bounds = [None if bound == "none" else int(bound) for bound in told.staleness.split(",")]
    steps = [int(count) for count in told.local_steps.split(",")]
    groups = list(product(teams, told.rules.split(","), steps, bounds))
    cases = [Case(rule, team, count, bound, seed, **common) for team, rule, count, bound in groups for seed in seeds]
    outcomes = play_all([*alone, *cases], told.processes, told.results)
    singles = [outcomes[case] for case in alone]
    targets = [float(target) for target in told.targets.split(",")]
    times = [statistics.mean(single.seconds_to(target) for single in singles) for target in targets]
    accuracies = _range([100.0 * single.accuracy for single in singles], 1)
    reached = ", ".join(f"{seconds:.2f} s to {target:.0%}" for seconds, target in zip(times, targets, strict=True))
    print(f"one node alone: {accuracies} %, {reached}\n")
    print(
        "| nodes | rule | local steps | staleness | accuracy, % | share of the ideal speed-up | images/s of the sum |"
    )
    print("|---|---|---|---|---|---|---|")
    for team, rule, count, bound in groups:
        found = [outcomes[Case(rule, team, count, bound, seed, **common)] for seed in seeds]
        efficiency = statistics.mean(outcome.efficiency for outcome in found)
        cells = _row(found, singles, sum(team), targets)
        how = f"{node_name(team)} | {rule} | {count} | {'none' if bound is None else bound}"
        print(f"| {how} | {cells} | {efficiency:.3f} |")


if __name__ == "__main__":
    main()
