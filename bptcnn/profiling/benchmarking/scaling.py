"""What threads gain: a step's speed on all of them over that on one, beside what the machine itself allows."""

import time
from contextlib import ExitStack
from functools import partial
from statistics import median

from bptcnn.inner.tuning import Tuning
from bptcnn.networks import Network
from bptcnn.precision import Precision
from bptcnn.profiling.benchmarking.records import Scaling
from bptcnn.profiling.rounds import together
from bptcnn.profiling.steps import WARM_STEPS, MeasuredSteps, RandomBatches


def measure_scaling(
    network: Network,
    batch_size: int,
    threads: int,
    tuning: Tuning,
    precision: Precision,
    rounds: int,
    seconds: float,
) -> Scaling:
    """Measure in `rounds` rounds, about `seconds` of each kind of step in turn.

    Raises UserError where there is too little memory: the copies together need `threads` times as much as a run.
    """
    batches = RandomBatches.draw(network, batch_size)
    with ExitStack() as stack:
        counts = [*(1 for _ in range(threads)), threads]
        *copies, shared = [
            stack.enter_context(MeasuredSteps(network, batch_size, count, batches, tuning, precision))
            for count in counts
        ]
        count = max(1, round(seconds / copies[0].median_seconds(0.0)))
        images = count * batch_size
        found = []
        for _ in range(rounds):
            one, all_ = images / _seconds(copies[0], count), threads * images / _seconds(shared, threads * count)
            (round_,) = together([partial(_seconds, copy, count) for copy in copies], 1)
            found.append((one, all_, threads * images / round_.wall))
    one_speeds, all_speeds, copies_speeds = zip(*found, strict=True)
    return Scaling(
        threads=threads,
        one_images_per_second=median(one_speeds),
        all_images_per_second=median(all_speeds),
        copies_images_per_second=median(copies_speeds),
        speed_up=median(all_ / one for one, all_, _ in found),
        ceiling=median(copies / one for one, _, copies in found),
    )


def _seconds(steps: MeasuredSteps, count: int) -> float:
    """Return what `count` steps take."""
    begin = time.perf_counter()
    for turn in range(WARM_STEPS, WARM_STEPS + count):
        steps.step(turn)
    return time.perf_counter() - begin
