"""Autotuning: candidates for a network's convolutions, measured as they run in its step, beside what the rules say.

    one step by the rules ─┐
                           ├─ traced in turn, round by round ──> time of each shape's tasks ──> choices ──> all of them
    one step by a variant ─┘                                                                    together, once more

A variant tries one candidate wherever it fits: an algorithm, what Winograd's tasks go over, a number of partial sums,
or a number of image ranges. So there are a few variants, whatever the number of layers. A candidate displaces the rule
only where it gains more than noise, and all that was chosen only counts if the whole step gains by it.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import median

from bptcnn.inner.algorithms import WINOGRAD
from bptcnn.inner.executor import Trace
from bptcnn.inner.graph import TaskGraph
from bptcnn.inner.lowering import Decision, lower
from bptcnn.inner.tuning import BY_RULE, Algorithm, TasksOver, Tuning
from bptcnn.kernels.unit import UNIT
from bptcnn.networks import Network
from bptcnn.precision import Precision
from bptcnn.profiling.host import cpu_name
from bptcnn.profiling.records import Trial, TuningRecord
from bptcnn.profiling.steps import MeasuredSteps, RandomBatches
from bptcnn.version import VERSION

_SECONDS = 12.0  # for all variants; one that has begun is finished
_MARGIN = 0.03  # of the time: what a candidate must gain
_HOPELESS = 0.15  # a variant that is slower by so much everywhere is not measured again
_STEP_MARGIN = 0.01  # what all choices together must gain
_AGREEING = 0.75  # of the rounds must favour a candidate
_LEAST_ROUNDS, _MOST_ROUNDS = 3, 15
_ROUND_SECONDS, _MOST_STEPS = 0.005, 50  # a round has as many steps as take that
_WARM_STEPS = 1  # after those that rank the tasks
_BATCHES = 4
_RANGES = (8, 32, 64)
_MOST_RANGES = 8  # for each thread: more only cut tasks into pieces
_PARTS = (8, 4)
_ALGORITHMS: tuple[Algorithm, ...] = (
    "bfloat16", "gathered", "pointwise", "small images", "winograd 5", "winograd 4", "winograd 2", "direct",
)  # fmt: skip
_OVER: tuple[TasksOver, ...] = ("channels by filter", "channels", "images")  # of Winograd's tasks
_STEP = "step"

Tell = Callable[[str], None]
Times = dict[str, float]  # by shape, and `_STEP`; nanoseconds


@dataclass(frozen=True)
class _Variant:
    """One candidate, for every shape that it fits; for none: for the whole step."""

    candidate: str
    tuning: Tuning

    @property
    def shapes(self) -> tuple[str, ...]:
        """What is timed."""
        return tuple(choice.shape for choice in self.tuning.choices) or (_STEP,)


def autotune(
    network: Network,
    batch_size: int,
    threads: int,
    precision: Precision = "float32",
    tell: Tell = lambda _: None,
) -> TuningRecord:
    """Measure the candidates; `tell` hears how far it is. Raises UserError where memory is too small for two steps."""
    begin = time.monotonic()
    decisions = lower(network, training=True, batch=batch_size, precision=precision).decisions
    variants = _variants(decisions, batch_size, threads)
    trials: list[Trial] = []
    with _Comparison(network, batch_size, threads, precision, decisions) as comparison:
        for number, variant in enumerate(variants):
            if time.monotonic() - begin > _SECONDS:
                break
            tell(f"tuning {network.name}: {number + 1} of {len(variants)}")
            trials += comparison.trials(variant, _SECONDS / len(variants))
        tuning, trials = _chosen(variants, trials)
        if tuning != BY_RULE:
            tell(f"tuning {network.name}: all together")
            trials += comparison.trials(_Variant("all that was chosen", tuning), _SECONDS / 4, whole=True)
            if trials[-1].ratio > 1 - _STEP_MARGIN:
                tuning = BY_RULE
            trials[-1] = replace(trials[-1], chosen=tuning != BY_RULE)
    seconds = time.monotonic() - begin
    about = network.name, network_digest(network), batch_size, precision, threads
    return TuningRecord(cpu_name(), UNIT.name, VERSION, *about, seconds, tuning, tuple(trials))


def network_digest(network: Network) -> str:
    """Return what tells networks apart that are computed in different ways: a digest of layers and input shape."""
    described = {name: value for name, value in network.to_dict().items() if name != "name"}
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:20]


def _variants(decisions: Sequence[Decision], batch_size: int, threads: int) -> list[_Variant]:
    """Return what to try, first what is likeliest to gain: there may be no time for the rest."""
    rules = {decision.choice.shape: decision for decision in decisions}
    usual = min(BY_RULE.ranges, batch_size)
    most = min(batch_size, _MOST_RANGES * threads)
    others = [ranges for ranges in _RANGES if threads <= ranges <= most and ranges != usual]
    found = [_Variant(f"{ranges} ranges", Tuning(ranges)) for ranges in others]
    unsummed = ("small images", "gathered", "bfloat16")
    summed = [d.choice for d in rules.values() if d.choice.algorithm not in unsummed]
    for parts in _PARTS:
        if summed and parts < usual:
            choices = tuple(replace(choice, parts=parts) for choice in summed)
            found.append(_Variant(f"{parts} parts", Tuning(choices=choices)))
    for algorithm in _ALGORITHMS:
        open_to = [d.choice for d in rules.values() if algorithm in d.algorithms and algorithm != d.choice.algorithm]
        if open_to:
            choices = tuple(replace(choice, algorithm=algorithm) for choice in open_to)
            found.append(_Variant(algorithm, Tuning(choices=choices)))
    tiled = [d.choice for d in rules.values() if d.choice.algorithm in WINOGRAD]
    for over in _OVER:
        if tiled:
            choices = tuple(replace(choice, over=over) for choice in tiled)
            found.append(_Variant(f"tasks over {over}", Tuning(choices=choices)))
    return found


def _chosen(variants: Sequence[_Variant], trials: Sequence[Trial]) -> tuple[Tuning, list[Trial]]:
    """Return the best of the candidates that gain, shape by shape, and the trials with those marked."""
    best: dict[str, Trial] = {}
    for trial in trials:
        if trial.chosen and (trial.shape not in best or trial.ratio < best[trial.shape].ratio):
            best[trial.shape] = trial
    tunings = {variant.candidate: variant.tuning for variant in variants}
    ranges = tunings[best[_STEP].candidate].ranges if _STEP in best else BY_RULE.ranges
    choices = [
        choice for shape, trial in best.items() for choice in tunings[trial.candidate].choices if choice.shape == shape
    ]
    marked = [replace(trial, chosen=best.get(trial.shape) is trial) for trial in trials]
    return Tuning(ranges, tuple(choices)), marked


class _Comparison:
    """A step by the rules, ready to take turns with others; a context manager."""

    def __init__(
        self,
        network: Network,
        batch_size: int,
        threads: int,
        precision: Precision,
        decisions: Sequence[Decision],
    ) -> None:
        self._network, self._batch_size, self._threads, self._precision = network, batch_size, threads, precision
        self._shapes = {layer: decision.choice.shape for decision in decisions for layer in decision.layers}
        self._batches = RandomBatches.draw(network, batch_size, _BATCHES)
        self._rules = self._steps(BY_RULE)
        span = _span(self._rules.traces(1, warm=0)[0])
        self._per_round = max(1, min(_MOST_STEPS, int(_ROUND_SECONDS * 1e9 / span)))

    def __enter__(self) -> "_Comparison":
        return self

    def __exit__(self, *_: object) -> None:
        self._rules.__exit__()

    def _steps(self, tuning: Tuning) -> MeasuredSteps:
        about = self._network, self._batch_size, self._threads, self._batches
        steps = MeasuredSteps(*about, tuning, self._precision)
        for turn in range(_WARM_STEPS):
            steps.step(turn)
        return steps

    def trials(self, variant: _Variant, seconds: float, whole: bool = False) -> list[Trial]:
        """Compare a variant with the rules; `whole`: by the whole step alone. `chosen`: it gains."""
        rounds: list[tuple[Times, Times]] = []
        shapes = (_STEP,) if whole else variant.shapes
        end = time.monotonic() + seconds
        with self._steps(variant.tuning) as steps:
            while len(rounds) < _LEAST_ROUNDS or (len(rounds) < _MOST_ROUNDS and time.monotonic() < end):
                rules, mine = self._times(self._rules), self._times(steps)
                rounds.append((rules, mine))
                if min(mine[shape] / rules[shape] for shape in shapes) > 1 + _HOPELESS:
                    break
        return [_trial(variant.candidate, shape, rounds) for shape in shapes]

    def _times(self, steps: MeasuredSteps) -> Times:
        """Return what each shape's tasks and the whole step take, as medians over a round."""
        traces = steps.traces(self._per_round, warm=0)
        found = [dict(self._by_shape(steps.graph, trace)) for trace in traces]
        return {shape: median(times[shape] for times in found) for shape in found[0]}

    def _by_shape(self, graph: TaskGraph, trace: Trace) -> Iterator[tuple[str, float]]:
        totals = dict.fromkeys(self._shapes.values(), 0.0)
        for task, taken in zip(graph.tasks, (trace.ends - trace.starts).tolist(), strict=True):
            shape = self._shapes.get(task.label.partition(" ")[0])
            if shape is not None:
                totals[shape] += taken
        yield from totals.items()
        yield _STEP, _span(trace)


def _span(trace: Trace) -> float:
    return float(trace.ends.max() - trace.starts.min())


def _trial(candidate: str, shape: str, rounds: Sequence[tuple[Times, Times]]) -> Trial:
    ratios = [mine[shape] / rules[shape] for rules, mine in rounds]
    ratio = median(ratios)
    gains = ratio < 1 - _MARGIN and sum(r < 1 for r in ratios) >= _AGREEING * len(ratios)
    by_rule, mine = (median(times[side][shape] for times in rounds) / 1e6 for side in (0, 1))
    return Trial(shape, candidate, by_rule, mine, ratio, gains)
