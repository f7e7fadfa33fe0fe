"""A trial: how fast a node trains alone, measured before the run on weights that are thrown away.

It waits no longer than _MOST_WAITS times the trial: what an emulated node would still have had to wait is added to what
it took.

Nothing of it stays: the weights are as in a new subnetwork, velocity and the number of the next step, by which dropout
draws, as they were.
"""

import time
from collections.abc import Callable

import numpy as np

from bptcnn.inner.subnetwork import ImageArray, IndexArray, Subnetwork
from bptcnn.nodes.configuration import AgentConfiguration
from bptcnn.nodes.throttle import Throttle
from bptcnn.outer import Trial, Tried

_RATE = 1e-4  # small: what is learned does not matter
_MOST_WAITS = 5.0


def run_trial(
    trial: Trial,
    configuration: AgentConfiguration,
    subnetwork: Subnetwork,
    images: ImageArray,
    labels: IndexArray,
    clock: Callable[[], float],
) -> Tried:
    """Train whole batches of samples drawn at random, as in the run, until the trial's time or steps are used up.

    A first step, untimed and unthrottled, warms up; one is timed at least. An emulated node keeps to its limit.
    """
    draw = np.random.default_rng(configuration.node)
    order = draw.permutation(len(images)).astype(np.int32)
    batch = min(configuration.batch_size, len(order))
    next_step = subnetwork.next_step
    velocity = subnetwork.velocity.copy() if subnetwork.velocity.any() else None
    subnetwork.restart()
    subnetwork.weights[:] = subnetwork.network.initial_weights(0)

    def step(number: int) -> None:
        first = number * batch % (len(order) - batch + 1)
        chosen = order[first : first + batch]
        subnetwork.step(images, labels, chosen, _RATE, configuration.momentum, configuration.weight_decay)

    waited = unwaited = 0.0

    def wait(seconds: float) -> None:
        nonlocal waited, unwaited
        short = min(seconds, max(0.0, _MOST_WAITS * trial.seconds - waited))
        time.sleep(short)
        waited += short
        unwaited = seconds - short  # it stays owed

    step(0)
    throttle = Throttle(configuration.cpu_limit, clock, time.process_time, wait)
    began, steps, seconds = clock(), 0, 0.0
    while steps == 0 or (steps < trial.steps and seconds < trial.seconds):
        steps += 1
        step(steps)
        throttle.pay()
        seconds = clock() - began + unwaited
    subnetwork.restart()
    subnetwork.next_step = next_step
    if velocity is not None:
        subnetwork.velocity[:] = velocity
    return Tried(configuration.node, time.monotonic(), steps * batch, seconds)
