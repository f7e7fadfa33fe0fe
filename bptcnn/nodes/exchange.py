"""How a node's weights reach the global weight set: the protocol, and the way through shared memory.

One object per node holds its place in the weight buffer (`Committer`): in the node itself where memory is shared, in
the coordinator's process for a node behind a network.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from bptcnn.kernels import rounding
from bptcnn.memory import NOWHERE, WeightBuffer
from bptcnn.nodes.divergence import require_finite
from bptcnn.nodes.optimizer_memory import OptimizerMemory
from bptcnn.nodes.optimizer_state import OptimizerState
from bptcnn.outer import Losses, Seconds, Submitted, Update, submission_scale
from bptcnn.untrusted import Count

FloatArray = npt.NDArray[np.float32]


@dataclass
class Iteration:
    """What one local iteration has done so far. The first step of a run, which warms up, is not timed."""

    epoch: Count
    samples: Count = 0
    loss_sum: Losses = 0.0
    correct: Count = 0
    compute_seconds: Seconds = 0.0
    wait_seconds: Seconds = 0.0
    communication_seconds: Seconds = 0.0  # in which training stood still for it
    timed_samples: Count = 0
    timed_seconds: Seconds = 0.0

    def include(self, earlier: "Iteration") -> None:
        """Count what the local iterations before it have done, which are of the same epoch."""
        self.samples += earlier.samples
        self.loss_sum += earlier.loss_sum
        self.correct += earlier.correct
        self.compute_seconds += earlier.compute_seconds
        self.wait_seconds += earlier.wait_seconds
        self.communication_seconds += earlier.communication_seconds
        self.timed_samples += earlier.timed_samples
        self.timed_seconds += earlier.timed_seconds


@dataclass(frozen=True)
class Receipt:
    """A submission as committed: its number, the node's samples over all of them, how many updates it was behind.

    `moved`: bytes of weights each way. `version`: that of the global weights which the node has been given, if it has.
    """

    sequence: int
    samples_committed: int
    staleness: int
    moved: int = 0
    version: int | None = None

    def report(self, node: int, time: float, iteration: Iteration, count: int = 1) -> Submitted:
        """Return the event that tells the coordinator of this submission, the last of `count` that `iteration` sums."""
        return Submitted(
            node=node,
            time=time,
            sequence=self.sequence,
            samples_committed=self.samples_committed,
            staleness=self.staleness,
            bytes_sent=self.moved * count,
            bytes_received=self.moved * count,
            **vars(iteration),
        )


class Exchange(Protocol):
    """A node's way to the global weight set; weight vectors are float32 (parameters,)."""

    overlapped: bool  # a submission travels while the node trains on

    def begin(self, weights: FloatArray) -> None:
        """Before a local iteration: bring `weights` up to date."""
        ...

    def settle(self, weights: FloatArray) -> None:
        """Between two batches: work in what has arrived, without waiting."""
        ...

    def ready(self) -> bool:
        """Tell whether a local iteration may end here: better not while the last submission travels."""
        ...

    def updates_behind(self) -> int:
        """Return how many updates were merged since the node's last copy."""
        ...

    def submit(self, weights: FloatArray, iteration: Iteration) -> Receipt | None:
        """Hand over what `weights` have learned since they were brought up to date; None: it is reported elsewhere.

        Raises Diverged where that is not finite: then nothing has happened.
        """
        ...

    def forget(self) -> None:
        """Drop what was learned since the last submission: the next `begin` brings the global weight set as it is.

        Nothing may travel: see `ready`.
        """
        ...

    def restore(self, velocity: FloatArray) -> None:
        """Before anything is trained: fill in the velocity that the node starts with; without one, leave it."""
        ...

    def keep(self, state: OptimizerState) -> None:
        """At a pause: hand over what the node's next step depends on, in a copy."""
        ...


class Committer:
    """One node's place in the weight buffer: under AGWU it merges, under SGWU the coordinator does once all have."""

    def __init__(self, buffer: WeightBuffer, node: int, update: Update) -> None:
        self._buffer = buffer
        self._writer = buffer.writer(node)
        self._staged = buffer.delta(node)
        self._node = node
        self._update: Update = update
        self.samples_committed = buffer.submission(node).samples

    def refresh(self, out: FloatArray, other: FloatArray = NOWHERE) -> int:
        """Copy the weight set, once or twice; publish and return the version that the node starts from."""
        return self._writer.refresh(out, other)

    def updates(self) -> int:
        """Return the number of submissions merged so far."""
        return self._buffer.updates()

    def pending(self) -> bool:
        """Tell whether the last commit is not merged yet."""
        return self._writer.pending

    @property
    def delta(self) -> FloatArray:
        """Where to stage what the node has learned since the copy of `version`."""
        return self._writer.delta

    def commit(
        self, version: int, samples: int, correct: int, largest: float, out: FloatArray, other: FloatArray = NOWHERE
    ) -> Receipt:
        """Commit the staged delta with the scale that the update rule gives; under AGWU merge it and refresh.

        `version` is what it was trained from; `correct` of its `samples` were right; `largest` bounds its magnitudes.
        Raises Diverged where it is not finite.
        """
        require_finite(self._staged, largest)
        table = self._writer.publish(correct / samples)
        updates, refreshed = sum(table.merged), None
        if self._update == "sgwu":
            sequence = self._writer.commit(0.0, samples)  # the coordinator weighs the round
        else:
            scale = submission_scale(
                self._update, self._node, table.base_versions, table.qualities, table.live, updates
            )
            sequence, refreshed = self._writer.submit(scale, samples, out, other)
        self.samples_committed += samples
        return Receipt(sequence, self.samples_committed, updates - version, self._staged.nbytes, refreshed)


class SharedExchange:
    """Over a weight buffer that the node has mapped: everything is done at once."""

    overlapped = False

    def __init__(self, buffer: WeightBuffer, node: int, update: Update, optimizer: OptimizerMemory) -> None:
        self._committer = Committer(buffer, node, update)
        self._optimizer = optimizer
        self._base = np.empty(buffer.layout.parameters, np.float32)
        self._version = self._committer.refresh(self._base)  # of the base; memory is there before the clock runs
        self._refreshed: FloatArray | None = None  # weights that are the base, by the last submission

    def begin(self, weights: FloatArray) -> None:
        """Copy the weight set, unless the last submission has and nothing was merged since."""
        if weights is not self._refreshed or self._committer.updates() != self._version:
            self._version = self._committer.refresh(self._base, weights)

    def settle(self, weights: FloatArray) -> None:
        """Nothing travels."""

    def ready(self) -> bool:
        """Return True: nothing travels."""
        return True

    def updates_behind(self) -> int:
        """Return the updates since the copy."""
        return self._committer.updates() - self._version

    def submit(self, weights: FloatArray, iteration: Iteration) -> Receipt:
        """Stage the difference to the copy and commit it; under AGWU `weights` are the global ones then."""
        largest = rounding.subtract(weights, self._base, self._committer.delta)
        samples, correct = iteration.samples, iteration.correct
        receipt = self._committer.commit(self._version, samples, correct, largest, self._base, weights)
        self._refreshed = None
        if receipt.version is not None:
            self._refreshed, self._version = weights, receipt.version
        return receipt

    def forget(self) -> None:
        """Have `begin` copy the weight set."""
        self._refreshed = None

    def restore(self, velocity: FloatArray) -> None:
        """Copy it from the memory."""
        state = self._optimizer.get()
        if state is not None and state.velocity is not None:
            velocity[:] = state.velocity

    def keep(self, state: OptimizerState) -> None:
        """Copy it into the memory."""
        self._optimizer.put(state)
