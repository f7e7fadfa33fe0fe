"""Imported by every Python that has this folder on its path: makes agents diverge.

POISON="NODES FIRST COUNT": the weights of these nodes, as in "0,2", become NaN before their steps FIRST to
FIRST + COUNT - 1, counted from 0.
"""

import os
import sys

import numpy as np
import numpy.typing as npt

if "bptcnn.nodes.agent" in sys.orig_argv:
    from bptcnn.nodes.exchange import Iteration
    from bptcnn.nodes.loop import Loop

    nodes, first, count = os.environ["POISON"].split()
    poisoned = range(int(first), int(first) + int(count))
    healthy, steps = Loop._step, iter(range(sys.maxsize))

    def step(self: Loop, batch: npt.NDArray[np.int32], rate: float, iteration: Iteration) -> None:
        if next(steps) in poisoned and str(self._configuration.node) in nodes.split(","):
            self._subnetwork.weights[:] = np.nan
        healthy(self, batch, rate, iteration)

    Loop._step = step  # type: ignore[method-assign]
