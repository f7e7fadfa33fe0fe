"""What a local agent is told on its standard input, and arrays in shared memory."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bptcnn.inner.tuning import BY_RULE, Tuning
from bptcnn.memory import SharedMemory
from bptcnn.nodes.configuration import AgentConfiguration


@dataclass(frozen=True)
class SharedArray:
    """An array in shared memory: the inherited descriptor, the element type and the shape."""

    fd: int
    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Bytes."""
        return int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize

    @classmethod
    def put(
        cls, array: npt.NDArray[Any], name: str, order: npt.NDArray[np.integer[Any]] | None = None
    ) -> tuple["SharedArray", SharedMemory]:
        """Copy `array`, or array[order], a permutation, into new shared memory; UserError where there is too little."""
        memory = SharedMemory.create(max(1, array.nbytes), name)
        shared = memory.view(array.dtype.type, array.shape)
        if order is None:
            shared[...] = array
        else:
            np.take(array, order, 0, shared, mode="clip")  # the one mode that makes no second copy
        return cls(memory.fd, array.dtype.str, array.shape), memory

    def attach(self) -> tuple[npt.NDArray[Any], SharedMemory]:
        """Map the array in a process that has inherited the descriptor."""
        memory = SharedMemory.attach(self.fd, self.size)
        return memory.view(np.dtype(self.dtype).type, self.shape), memory


@dataclass(frozen=True, kw_only=True)
class LocalConfiguration(AgentConfiguration):
    """A node on this machine: weights and samples (in the run's order) are in shared memory, by descriptor.

    `optimizer_fd`: its `OptimizerMemory`, for a velocity where there is momentum. `clock_fd`: the run's clock.
    `cores`: the numbers of those that it keeps to, empty: any.
    `tuning`: how its steps are computed, the same for all nodes of a machine.
    """

    nodes: int  # writers of the weight buffer
    weights_fd: int
    images: SharedArray
    labels: SharedArray
    optimizer_fd: int
    clock_fd: int
    cores: tuple[int, ...] = ()
    tuning: Tuning = BY_RULE

    @property
    def descriptors(self) -> tuple[int, ...]:
        """Those that the agent inherits."""
        return self.weights_fd, self.images.fd, self.labels.fd, self.optimizer_fd, self.clock_fd
