"""How a node's weights reach the global weight set: through shared memory, merged by the node itself."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from bptcnn.memory import WeightBuffer
from bptcnn.outer import Update, submission_scale

FloatArray = npt.NDArray[np.float32]


class Diverged(ArithmeticError):
    """Loss or weights are no longer numbers."""


@dataclass(frozen=True)
class Receipt:
    """A submission as committed: its number, the node's samples over all of them, how many updates it was behind."""

    sequence: int
    samples_committed: int
    staleness: int


class Exchange(Protocol):
    """A node's way to the global weight set; weight vectors are float32 (parameters,)."""

    def refresh(self, out: FloatArray) -> int:
        """Copy the weight set into `out`; return its version."""
        ...

    def updates(self) -> int:
        """Return the version of the weight set now."""
        ...

    def submit(self, base: FloatArray, weights: FloatArray, samples: int, correct: int) -> Receipt:
        """Commit `weights`, trained on `samples` from the copy `base`; `correct` of them were right."""
        ...


class SharedExchange:
    """Over a `WeightBuffer`: under AGWU the node merges, under SGWU the coordinator does once all have submitted."""

    def __init__(self, buffer: WeightBuffer, node: int, update: Update) -> None:
        self._buffer = buffer
        self._writer = buffer.writer(node)
        self._node = node
        self._update: Update = update
        self._version = 0
        self._committed = buffer.submission(node).samples

    def refresh(self, out: FloatArray) -> int:
        """Copy the weight set; publish the version that this node starts from."""
        self._version = self._writer.refresh(out)
        return self._version

    def updates(self) -> int:
        """Return the number of submissions merged so far."""
        return self._buffer.updates()

    def submit(self, base: FloatArray, weights: FloatArray, samples: int, correct: int) -> Receipt:
        """Stage the difference, commit it with the scale that the update rule gives, and merge it under AGWU."""
        delta = self._writer.delta
        np.subtract(weights, base, out=delta)
        with np.errstate(over="ignore", invalid="ignore"):
            size = np.dot(delta, delta)
        if not np.isfinite(size):
            raise Diverged("the weights are no longer finite: training diverged, try a smaller learning rate")
        self._buffer.set_quality(self._node, correct / samples)
        updates = self._buffer.updates()
        scale = 0.0  # SGWU: the coordinator weighs the round
        if self._update != "sgwu":
            table = self._buffer.table()
            scale = submission_scale(
                self._update, self._node, table.base_versions, table.qualities, table.live, updates
            )
        self._committed += samples
        sequence = self._writer.commit(scale, samples)
        if self._update != "sgwu":
            self._writer.merge()
        return Receipt(sequence, self._committed, updates - self._version)
