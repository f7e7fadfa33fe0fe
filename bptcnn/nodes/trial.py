"""A trial: how fast a node trains alone, measured before the run on weights that are thrown away.

Nothing of it stays: weights, velocity and the count of steps, by which dropout draws, are as in a new subnetwork.
"""

import time

import numpy as np

from bptcnn.inner.subnetwork import ImageArray, IndexArray, Subnetwork
from bptcnn.nodes.configuration import AgentConfiguration
from bptcnn.nodes.throttle import Throttle
from bptcnn.outer import Trial, Tried

_RATE = 1e-4  # small: what is learned does not matter


def run_trial(
    trial: Trial,
    configuration: AgentConfiguration,
    subnetwork: Subnetwork,
    images: ImageArray,
    labels: IndexArray,
) -> Tried:
    """Train whole batches of samples drawn at random, as in the run, until the trial's time or steps are used up.

    A first step, untimed and unthrottled, warms up; one is timed at least. An emulated node keeps to its limit.
    """
    draw = np.random.default_rng(configuration.node)
    order = draw.permutation(len(images)).astype(np.int32)
    batch = min(configuration.batch_size, len(order))
    subnetwork.weights[:] = subnetwork.network.initial_weights(0)

    def step(number: int) -> None:
        first = number * batch % (len(order) - batch + 1)
        chosen = order[first : first + batch]
        subnetwork.step(images, labels, chosen, _RATE, configuration.momentum, configuration.weight_decay)

    step(0)
    throttle = Throttle(configuration.cpu_limit, time.monotonic, time.process_time, time.sleep)
    began, steps, seconds = time.monotonic(), 0, 0.0
    while steps == 0 or (steps < trial.steps and seconds < trial.seconds):
        steps += 1
        step(steps)
        throttle.pay()
        seconds = time.monotonic() - began
    subnetwork.restart()
    return Tried(configuration.node, time.monotonic(), steps * batch, seconds)
