"""Divergence: when what a node has learned is refused, so that it is never merged.

Refused is a loss or a weight that is no number, and a loss that has exploded: above EXPLODED times that of the node's
first batch or of guessing, whichever is larger, as a mean over a batch or over the local iteration. Of fewer than
FEWEST images the others count as 0: a single image that a good network gets wrong can cost a lot.
Imports nothing that compiles.
"""

import math

import numpy as np
import numpy.typing as npt

EXPLODED = 10.0  # training recovers from less
FEWEST = 64
LARGEST_STEP = 100.0  # lenet5 at a learning rate of 0.3, far too high, takes one of 17 in eight batches and recovers

_FAR_BELOW = 2.0**118  # a squared norm whose sum in float32 cannot overflow, however it is rounded


class Diverged(ArithmeticError):
    """Loss or weights are no longer numbers, or the loss has exploded."""


def require_finite(progress: npt.NDArray[np.float32], largest: float = math.inf) -> None:
    """Raise Diverged where what a node has learned is beyond numbers, or its norm is.

    `largest`: an upper bound of the magnitudes. Where it is small enough, `progress` need not be looked at.
    """
    if largest * largest * progress.size < _FAR_BELOW:
        return
    with np.errstate(over="ignore", invalid="ignore"):
        size = np.dot(progress, progress)
    if not np.isfinite(size):
        raise Diverged("the weights are no longer finite")


def require_step(progress: npt.NDArray[np.float32], weights: npt.NDArray[np.float32], largest: float) -> None:
    """Raise Diverged where a host's difference is more than LARGEST_STEP times the `weights` that it is to change.

    Both float32 (n,), compared by their norms, and `weights` count as 0.1 each at least, for those of a network that
    starts at 0. `largest`: the largest magnitude in `progress`.
    """
    most = LARGEST_STEP * max(_norm(weights), 0.1 * math.sqrt(weights.size))
    if not (largest * math.sqrt(progress.size) <= most or _norm(progress) <= most):
        raise Diverged(f"what it learned is more than {LARGEST_STEP:g} times the weights")


def _norm(values: npt.NDArray[np.float32]) -> float:
    with np.errstate(over="ignore", invalid="ignore"):
        return math.sqrt(float(np.dot(values, values)))


class LossBound:
    """Judges one node's losses; the first one says what its weights were like before it trained.

    `usual`: what the first one said, where the node goes on from a checkpoint; None: nothing yet.
    """

    def __init__(self, classes: int, usual: float | None = None) -> None:
        self._guessing = math.log(classes)
        self.usual = usual

    def require_usual(self, loss: float, images: int) -> None:
        """Raise Diverged for a mean `loss` over so many images that must not count."""
        if not math.isfinite(loss):
            raise Diverged(f"the loss became {loss}")
        if self.usual is None:
            self.usual = max(self._guessing, loss)
        if loss * images > EXPLODED * self.usual * max(images, FEWEST):
            raise Diverged(f"the loss rose to {loss:.4g}, from {self.usual:.4g} or less at the start")
