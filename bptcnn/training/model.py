"""Model: one network on this machine, for Python users."""

import math
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from bptcnn.data import Dataset, Samples
from bptcnn.errors import UserError
from bptcnn.inner.executor import Executor
from bptcnn.inner.subnetwork import Subnetwork
from bptcnn.names import path_of
from bptcnn.networks import Network
from bptcnn.precision import Precision
from bptcnn.profiling import usable_cores
from bptcnn.profiling.tunings import tuning_of, tuning_record
from bptcnn.training.checkpoint import read_checkpoint
from bptcnn.training.evaluation import Evaluator
from bptcnn.training.run_folder import RunFolder
from bptcnn.training.settings import check_choice, check_whole


class Model:
    """A network with weights, trained and evaluated by this process's threads.

    `threads` None: the usable cores. The weights start from `seed`, by He's initialisation, and dropout draws by it.
    An idle model uses no CPU.
    `autotune`: choose the step's algorithms by measuring, 1 to 20 s where this machine has not done so before; a
    model made without starts at once. With `precision` "bf16" training's convolutions multiply bfloat16 numbers, with
    float32 sums and weights; predictions are float32's. Raises UserError where the CPU lacks that.
    """

    def __init__(
        self,
        network: Network,
        batch_size: int = 64,
        threads: int | None = None,
        seed: int = 0,
        autotune: bool = False,
        precision: Precision = "float32",
    ) -> None:
        check_choice("precision", precision, Precision)
        check_whole("batch_size", batch_size, 1)
        check_whole("seed", seed, 0)
        if threads is not None:
            check_whole("threads", threads, 1)
        self.network = network
        self.batch_size = batch_size
        self._threads = threads or usable_cores()
        record = tuning_record(network, batch_size, self._threads, precision) if autotune else None
        self._executor = Executor(self._threads)
        tuning = tuning_of(record)
        self._subnetwork = Subnetwork(
            network, batch_size, self._executor, tuning=tuning, precision=precision, keeps_gradient=True, seed=seed
        )
        self._subnetwork.weights[:] = network.initial_weights(seed)
        self._evaluator: Evaluator | None = None

    @property
    def weights(self) -> npt.NDArray[np.float32]:
        """The flat weight vector (network.size,), a writable view; network.parameters says what lies where."""
        return self._subnetwork.weights

    def loss_and_gradient(
        self, x: npt.NDArray[np.float32], labels: npt.NDArray[np.integer]
    ) -> tuple[float, npt.NDArray[np.float32]]:
        """Return the mean cross-entropy over the batch and its gradient, flat float32 (network.size,), a copy.

        x: float32, or uint8 for value / 255, (N, H, W, C); labels: integers (N,), 1 <= N <= batch_size. Raises
        UserError for other shapes and for labels that are no class.
        """
        result = self._subnetwork.step(self._images(x, self.batch_size), self._labels(labels, len(x)))
        return result.loss, self._subnetwork.gradient.copy()

    def train_step(
        self,
        x: npt.NDArray[np.float32],
        labels: npt.NDArray[np.integer],
        lr: float,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
    ) -> float:
        """Update the weights by SGD on one batch; return its mean loss before the update. Arguments as above."""
        if not all(map(math.isfinite, (lr, momentum, weight_decay))):
            raise UserError(f"lr, momentum and weight_decay must be finite, not {lr}, {momentum}, {weight_decay}")
        images = self._images(x, self.batch_size)
        return self._subnetwork.step(images, self._labels(labels, len(x)), None, lr, momentum, weight_decay).loss

    def predict(self, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return logits (N, classes) for x as above, any N."""
        return self._evaluation().logits(self.weights, self._images(x, None))

    def evaluate(self, dataset: Dataset | Samples) -> float:
        """Return the accuracy, a share of 1, on a dataset's test images, or on samples.

        Raises UserError where there are none, or a label is no class of the network.
        """
        samples = dataset.test if isinstance(dataset, Dataset) else dataset
        self._images(samples.images, None)
        if not len(samples):
            raise UserError("there are no images to evaluate on")
        self._require_classes(samples)
        return self._evaluation().accuracy(self.weights, samples)

    def _evaluation(self) -> Evaluator:
        if self._evaluator is None:
            self._evaluator = Evaluator(self.network, self._threads)
        return self._evaluator

    def _images(self, x: npt.NDArray[np.generic], most: int | None) -> npt.NDArray[np.float32]:
        images = np.asarray(x)
        if images.ndim != 4 or images.shape[1:] != self.network.input_shape:
            height, width, channels = self.network.input_shape
            turned = images.shape[1:] == (channels, height, width)
            remedy = ": turn them with x.transpose(0, 2, 3, 1)" if turned else ""
            raise UserError(f"images must be (N, {height}, {width}, {channels}), not {images.shape}{remedy}")
        if most is not None and not 1 <= len(images) <= most:
            raise UserError(f"a batch holds 1 to {most} images, not {len(images)}")
        if images.dtype != np.uint8 and not np.issubdtype(images.dtype, np.floating):
            raise UserError(f"images must be floating-point, or uint8 for value / 255, not {images.dtype}")
        if images.dtype == np.uint8:
            return np.ascontiguousarray(images)
        return np.ascontiguousarray(images, np.float32)

    def _labels(self, labels: npt.NDArray[np.integer], count: int) -> npt.NDArray[np.int32]:
        found = np.asarray(labels)
        if found.shape != (count,) or not np.issubdtype(found.dtype, np.integer):
            raise UserError(f"labels must be {count} integers, one an image, not {found.dtype} {found.shape}")
        if count and not 0 <= found.min() <= found.max() < self.network.classes:
            raise UserError(f"labels must be from 0 to {self.network.classes - 1}, not {found.min()} to {found.max()}")
        return np.ascontiguousarray(found, np.int32)

    def _require_classes(self, samples: Samples) -> None:
        known = self.network.classes
        if samples.labels.max() >= known:
            strange = int(np.count_nonzero(samples.labels >= known))
            raise UserError(
                f"{strange:,} of {len(samples):,} labels are no class of {self.network.name}, which tells {known} "
                f"classes apart, 0 to {known - 1}: the largest is {samples.labels.max()}; give data with its classes"
            )

    def close(self) -> None:
        """End the worker threads; safe to call again."""
        self._executor.close()
        if self._evaluator is not None:
            self._evaluator.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def load(run_dir: str | Path, last: bool = False, batch_size: int = 64, threads: int | None = None) -> Model:
    """Return the model of a run at its best epoch, or its last one. Raises UserError where there is none."""
    folder = RunFolder.open(path_of(run_dir))
    checkpoint = read_checkpoint(folder.last if last else folder.best)
    model = Model(checkpoint.network, batch_size, threads)
    model.weights[:] = checkpoint.weights
    return model
