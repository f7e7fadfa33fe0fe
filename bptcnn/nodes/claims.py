"""Whether what a host says of a submission can be: against what it was sent, and against the coordinator's own clock.

A host may be slow and may lie; what it says is what its share of the data, and the time it is given, follow from.
"""

from collections import deque
from dataclasses import dataclass

from bptcnn.nodes.exchange import Iteration
from bptcnn.outer import Seconds, Work
from bptcnn.untrusted import Count

MOST_LOSS = 1e6  # of an image, as a mean: logits of a million, of which an honest node has thousands before it refuses
_PARTS_OF_TIME = 2.0  # clocks differ, and a request may overlap with a submission that is under way...
_SPARE_SECONDS = 10.0  # ...and what is said of the first moments is rounded
_TIMES = ("compute_seconds", "wait_seconds", "communication_seconds", "timed_seconds", "transfer_seconds")


class Impossible(Exception):
    """What the node sent cannot be: it is out."""


@dataclass
class Submission(Iteration):
    """The head of a SUBMIT frame."""

    version: Count = 0
    transfer_seconds: Seconds = 0.0


class Claims:
    """Judges the submissions of one agent, in their order; it came at `began`, seconds on any clock."""

    def __init__(self, began: float) -> None:
        self._began = began
        self._seconds = dict.fromkeys(_TIMES, 0.0)

    def require_possible(self, said: Submission, now: float) -> None:
        """Raise Impossible for a submission, received `now`, that contradicts itself or the clock."""
        if not said.samples or said.correct > said.samples:
            raise Impossible(f"it submitted {said.correct} right of {said.samples} samples")
        if said.timed_samples > said.samples:
            raise Impossible(f"it timed {said.timed_samples} of {said.samples} samples")
        if said.loss_sum > MOST_LOSS * said.samples:
            raise Impossible(f"it submitted a loss of {said.loss_sum:g} over {said.samples} samples")
        most = _PARTS_OF_TIME * (now - self._began) + _SPARE_SECONDS
        for name in _TIMES:
            self._seconds[name] += getattr(said, name)
            if self._seconds[name] > most:
                raise Impossible(f"it says {name} of {self._seconds[name]:g}, and came {now - self._began:.0f} s ago")


class Shipments:
    """What a node was sent and has not submitted yet: (epoch, samples) in order. One thread adds, another takes."""

    def __init__(self) -> None:
        self._runs: deque[tuple[int, int]] = deque()

    def add(self, work: Work) -> None:
        """Samples were sent."""
        self._runs.append((work.epoch, len(work.indices)))

    def take(self, epoch: int, samples: int) -> None:
        """They come back trained; raise Impossible unless they are the next ones and of one epoch."""
        left = samples
        while left > 0:
            if not self._runs or self._runs[0][0] != epoch:
                raise Impossible(f"it submitted {samples} samples of epoch {epoch} that it was not sent")
            sent = self._runs.popleft()[1]
            if sent > left:
                self._runs.appendleft((epoch, sent - left))
            left -= sent
