"""Subnetwork: a full copy of the network on one node, stepped by the executor."""

import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bptcnn.errors import UserError
from bptcnn.inner.arena import Arena
from bptcnn.inner.executor import Executor, KernelError, PreparedGraph, Trace
from bptcnn.inner.graph import TaskGraph
from bptcnn.inner.lowering import lower
from bptcnn.inner.plan import Plan
from bptcnn.inner.step_settings import (
    BYTES,
    CORRECT,
    IMAGES,
    LABELS,
    LOSS,
    NODE,
    ORDER,
    SAMPLES,
    SEED,
    STEP,
    Located,
    StepSettings,
)
from bptcnn.inner.tasks import StepBuilder
from bptcnn.inner.tuning import BY_RULE, Tuning
from bptcnn.kernels.loss import LABEL_OUT_OF_RANGE
from bptcnn.kernels.unit import require_precision
from bptcnn.networks import Network
from bptcnn.precision import Precision

FloatArray = npt.NDArray[np.float32]
ImageArray = npt.NDArray[np.float32] | npt.NDArray[np.uint8]
IndexArray = npt.NDArray[np.int32]

_MEASURED_STEPS = 5  # a task's cost is its median over so many steps,
_MEASURED_SECONDS = 0.3  # or over fewer where they take longer


@dataclass(frozen=True)
class StepResult:
    """Mean loss over a batch, and how many of its images were classified correctly before the update."""

    loss: float
    correct: int
    images: int


class Subnetwork:
    """One network, one batch size, `threads` workers: forward, backward and update as one task graph.

    `tuning` says how convolutions are computed: with the same one, results are the same bits on any number of workers.
    Training keeps `weights`, `velocity` and, with `keeps_gradient`, `gradient`: flat float32 vectors (network.size,),
    writable views. The gradient is the last step's; where it is not kept, its parts share memory until the update. With
    `direct`, no convolution goes by Winograd's algorithm, whose rounding is some ten times coarser. With `precision`
    "bf16" convolutions multiply bfloat16 numbers; raises UserError where the CPU does not. Dropout draws by `seed`,
    `node` (any words) and `next_step`. `arena`: where all buffers are to lie; a GuardedArena watches them.
    """

    def __init__(
        self,
        network: Network,
        batch_size: int,
        executor: Executor,
        training: bool = True,
        direct: bool = False,
        tuning: Tuning = BY_RULE,
        precision: Precision = "float32",
        keeps_gradient: bool = False,
        seed: int = 0,
        node: int = 0,
        arena: Arena | None = None,
    ) -> None:
        self.network = network
        self.batch_size = batch_size
        self._executor = executor
        self._settings = StepSettings.create()
        self._settings.words[[SEED, NODE]] = seed, node
        require_precision(precision)
        lowered = lower(network, training, direct, tuning, batch_size, precision)
        self._plan = Plan(lowered, batch_size, executor.threads, training, self._settings, keeps_gradient, arena)
        self._plan.allocate()
        self._graph = StepBuilder(self._plan).build()
        self.weights = self._vector("weights")
        self.gradient = self._vector("gradient") if self._plan.keeps_gradient else np.zeros(0, np.float32)
        self.velocity = self._vector("velocity") if training else np.zeros(0, np.float32)
        self._labels, self._order = np.zeros(batch_size, np.int32), np.zeros(batch_size, np.int32)
        self._located_samples, self._located_labels = Located(), Located()
        self._order_address = int(self._order.ctypes.data)
        self._prepared = executor.prepare(self._graph)
        self._measure_costs()
        self.restart()  # steps on zeros write neither weights nor velocity: have their memory before any work

    def _vector(self, name: str) -> FloatArray:
        return self._plan.arena.view(name, self.network.size)

    @property
    def graph(self) -> TaskGraph:
        """The task graph, ranked by measured costs."""
        return self._prepared.graph

    def _measure_costs(self) -> None:
        """Rank the tasks by what they cost here: medians over a few steps on zeros, without an update."""
        samples = np.zeros((self.batch_size, *self.network.input_shape), np.uint8)
        traces: list[Trace] = []
        end = time.monotonic() + _MEASURED_SECONDS
        while not traces or (len(traces) < _MEASURED_STEPS and time.monotonic() < end):
            traces.append(self.traced(samples, self._labels))
        costs = np.median([trace.ends - trace.starts for trace in traces], axis=0)
        self._prepared = self._executor.prepare(self._graph.with_costs([float(cost) for cost in costs]))

    @property
    def next_step(self) -> int:
        """The number of the next step, by which dropout draws: every `step` counts."""
        return int(self._settings.words[STEP])

    @next_step.setter
    def next_step(self, number: int) -> None:
        self._settings.words[STEP] = number

    def restart(self) -> None:
        """Forget all training: weights, velocity and the count of steps, by which dropout draws, are 0 again."""
        self.weights[:] = 0.0
        self.velocity[:] = 0.0
        self.next_step = 0

    def traced(self, samples: ImageArray, labels: IndexArray) -> Trace:
        """Run one step without update on the first batch of `samples`, recording every task; see `trace_graph`."""
        prepared = self._executor.prepare(self._graph, traced=True)
        self._run(prepared, samples, labels, None, len(samples[: self.batch_size]), np.nan, 0.0, 0.0)
        return prepared.trace()

    @property
    def trace_graph(self) -> TaskGraph:
        """The graph whose order `traced` reports in."""
        return self._graph

    def step(
        self,
        samples: ImageArray,
        labels: IndexArray,
        order: IndexArray | None = None,
        rate: float = float("nan"),
        momentum: float = 0.0,
        decay: float = 0.0,
    ) -> StepResult:
        """Compute loss and gradient of one batch and, unless `rate` is NaN, update the weights.

        samples: (N, H, W, C) float32, or uint8 for value / 255, C-contiguous; labels: (N,) int32. With `order`, int32,
        the batch is samples[order]; without, all N. At most batch_size images. Raises UserError for a label that is no
        class.
        """
        images = len(samples) if order is None else len(order)
        if not 1 <= images <= self.batch_size:
            raise ValueError(f"a step takes 1 to {self.batch_size} images, not {images}")
        self._run(self._prepared, samples, labels, order, images, rate, momentum, decay)
        settings = self._settings
        settings.words[STEP] += 1
        loss, correct = float(settings.numbers[LOSS]), int(settings.words[CORRECT])
        return StepResult(loss, correct, images)

    def forward(self, samples: ImageArray) -> FloatArray:
        """Return logits (N, classes), a copy, for 1 to batch_size images."""
        if not 1 <= len(samples) <= self.batch_size:
            raise ValueError(f"a pass takes 1 to {self.batch_size} images, not {len(samples)}")
        self._run(self._prepared, samples, self._labels, None, len(samples), np.nan, 0.0, 0.0)
        return self._plan.logits[: len(samples)].copy()

    def _run(
        self,
        prepared: PreparedGraph,
        samples: ImageArray,
        labels: IndexArray,
        order: IndexArray | None,
        images: int,
        rate: float,
        momentum: float,
        decay: float,
    ) -> None:
        settings = self._settings
        settings.words[IMAGES] = images
        settings.words[SAMPLES] = self._located_samples.address(samples)
        settings.words[BYTES] = samples.dtype == np.uint8
        settings.words[LABELS] = self._located_labels.address(labels)
        if order is None:
            settings.words[ORDER] = 0
        else:
            self._order[:images] = order
            settings.words[ORDER] = self._order_address
        settings.numbers[:LOSS] = rate, momentum, decay
        self._plan.arena.before_step()
        try:
            self._executor.run(prepared)
        except KernelError as error:
            if error.status == LABEL_OUT_OF_RANGE:
                raise UserError(f"a label is outside 0 to {self.network.classes - 1}") from None
            raise
        self._plan.arena.after_step()


def memory_needed(
    network: Network, batch_size: int, threads: int, precision: Precision = "float32", training: bool = True
) -> int:
    """Return the bytes that a subnetwork has for itself."""
    lowered = lower(network, training=training, batch=batch_size, precision=precision)
    return Plan(lowered, batch_size, threads, training, StepSettings.create()).arena.size
