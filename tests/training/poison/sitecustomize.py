"""Imported by every Python that has this folder on its path: makes agents go wrong.

POISON="HOW NODES FIRST COUNT": before their steps FIRST to FIRST + COUNT - 1, counted from 0, nodes such as "0,2"
"diverge" (their weights become NaN) or "raise" an exception.
"""

import os
import sys

import numpy as np
import numpy.typing as npt

if "bptcnn.nodes.agent" in sys.orig_argv:
    from bptcnn.nodes.exchange import Iteration
    from bptcnn.nodes.loop import Loop

    how, nodes, first, count = os.environ["POISON"].split()
    poisoned = range(int(first), int(first) + int(count))
    healthy, steps = Loop._step, iter(range(sys.maxsize))

    def step(self: Loop, batch: npt.NDArray[np.int32], rate: float, iteration: Iteration) -> None:
        if next(steps) in poisoned and str(self._configuration.node) in nodes.split(","):
            if how == "raise":
                raise RuntimeError("poisoned")
            self._subnetwork.weights[:] = np.nan
        healthy(self, batch, rate, iteration)

    Loop._step = step  # type: ignore[method-assign]
