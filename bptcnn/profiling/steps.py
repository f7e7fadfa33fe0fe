"""Training steps on random images: timed whole, or traced task by task."""

import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bptcnn.inner.executor import Executor, Trace
from bptcnn.inner.graph import TaskGraph
from bptcnn.inner.step_counts import StepCounts
from bptcnn.inner.subnetwork import Subnetwork
from bptcnn.inner.tuning import BY_RULE, Tuning
from bptcnn.networks import Network
from bptcnn.precision import Precision

BATCHES = 16
"""Different ones in turn: a single batch is learnt by heart, and vanishing gradients become slow denormal numbers."""

WARM_STEPS = 3
"""Before measuring: caches, and threads that sleep."""

LEAST_STEPS = 5
RATE, MOMENTUM = 1e-3, 0.9
"""A full step, with a rate at which random labels do no harm."""


@dataclass(frozen=True)
class RandomBatches:
    """Random images, (batches * batch, H, W, C), uint8 or float32 in [0, 1), and labels; `orders`: a batch a row."""

    images: npt.NDArray[np.uint8] | npt.NDArray[np.float32]
    labels: npt.NDArray[np.int32]
    orders: npt.NDArray[np.int32]

    @classmethod
    def draw(cls, network: Network, batch: int, batches: int = BATCHES, as_bytes: bool = True) -> "RandomBatches":
        """Draw them, the same ones each time; as bytes, as image files hold them, or as numbers."""
        random = np.random.default_rng(0)
        shape = (batches * batch, *network.input_shape)
        images: npt.NDArray[np.uint8] | npt.NDArray[np.float32]
        images = random.integers(0, 256, shape, np.uint8) if as_bytes else random.random(shape, np.float32)
        labels = random.integers(0, network.classes, batches * batch, np.int32)
        return cls(images, labels, np.arange(batches * batch, dtype=np.int32).reshape(batches, batch))


class MeasuredSteps:
    """Steps of a network with weights as a run starts from; a context manager.

    Raises UserError where there is too little memory.
    """

    def __init__(
        self,
        network: Network,
        batch_size: int,
        threads: int,
        batches: RandomBatches,
        tuning: Tuning = BY_RULE,
        precision: Precision = "float32",
    ) -> None:
        self._executor = Executor(threads)
        try:
            self._subnetwork = Subnetwork(network, batch_size, self._executor, tuning=tuning, precision=precision)
        except BaseException:
            self._executor.close()
            raise
        self._subnetwork.weights[:] = network.initial_weights(0)
        self._batches = batches

    def __enter__(self) -> "MeasuredSteps":
        return self

    def __exit__(self, *_: object) -> None:
        self._executor.close()

    @property
    def graph(self) -> TaskGraph:
        """The step's task graph, in whose order traces are."""
        return self._subnetwork.graph

    @property
    def weights(self) -> npt.NDArray[np.float32]:
        """The flat weight vector, a view."""
        return self._subnetwork.weights

    def step(self, turn: int) -> None:
        """Train one batch: forward, backward and update."""
        batches = self._batches
        order = batches.orders[turn % len(batches.orders)]
        self._subnetwork.step(batches.images, batches.labels, order, RATE, MOMENTUM)

    def median_seconds(self, seconds: float) -> float:
        """Return the median time of a step, over `seconds` after a few to warm up."""
        return self.timed(seconds)[0]

    def timed(self, seconds: float) -> tuple[float, StepCounts]:
        """Return the median time of a step, and what was counted, over `seconds` after a few to warm up."""
        for turn in range(WARM_STEPS):
            self.step(turn)
        before, end = self._executor.counts(), time.perf_counter() + seconds
        taken: list[float] = []
        while len(taken) < LEAST_STEPS or time.perf_counter() < end:
            start = time.perf_counter()
            self.step(WARM_STEPS + len(taken))
            taken.append(time.perf_counter() - start)
        return float(np.median(taken)), self._executor.counts().since(before)

    def traces(self, count: int, warm: int = WARM_STEPS) -> list[Trace]:
        """Return the traces of so many whole steps, update included, after some to warm up; at least one was before."""
        for turn in range(warm):
            self.step(turn)
        prepared = self._executor.prepare(self.graph, traced=True)
        found = []
        for _ in range(count):
            self._executor.run(prepared)  # what the last step was told still stands: its batch, its rate
            found.append(prepared.trace())
        return found
