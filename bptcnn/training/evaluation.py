"""Accuracy of a weight set on images: a forward-only subnetwork with the usable cores."""

import numpy as np
import numpy.typing as npt

from bptcnn.available import tightest
from bptcnn.data import Samples
from bptcnn.errors import UserError
from bptcnn.inner.executor import Executor
from bptcnn.inner.subnetwork import Subnetwork, memory_needed
from bptcnn.networks import Network

_LARGEST_BATCH = 256  # images at a time, or as many as memory has room for


class Evaluator:
    """Computes logits and accuracy. Close it, or let it be collected: idle, it uses memory only.

    `reserved`: bytes that others will need, which it leaves free, with a batch of one image if need be.
    """

    def __init__(self, network: Network, threads: int, reserved: int = 0) -> None:
        self._executor = Executor(threads)
        self._batch = _LARGEST_BATCH
        room = tightest(shared=True).free - reserved
        while reserved and self._batch > 1 and memory_needed(network, self._batch, threads, training=False) > room:
            self._batch //= 2
        while True:
            try:
                self._subnetwork = Subnetwork(network, self._batch, self._executor, training=False)
                return
            except UserError:
                if self._batch == 1:
                    self.close()
                    raise
                self._batch //= 2

    def logits(self, weights: npt.NDArray[np.float32], images: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
        """Return logits (N, classes) of images (N, H, W, C), float32 or uint8, any N."""
        self._subnetwork.weights[:] = weights
        network = self._subnetwork.network
        found = np.empty((len(images), network.classes), np.float32)
        for begin in range(0, len(images), self._batch):
            part = images[begin : begin + self._batch]
            found[begin : begin + len(part)] = self._subnetwork.forward(part)  # type: ignore[arg-type]
        return found

    def accuracy(self, weights: npt.NDArray[np.float32], samples: Samples) -> float:
        """Return the share of `samples` that the largest logit classifies correctly."""
        return float(np.mean(self.logits(weights, samples.images).argmax(1) == samples.labels))

    def close(self) -> None:
        """End the worker threads."""
        self._executor.close()
