"""A local node's optimizer state in memory that it shares with the coordinator's process.

One side writes while the other waits for its message: the coordinator before the agent starts, the agent before it says
Paused. An agent that is killed while it writes leaves memory that holds nothing.
"""

from typing import Self

import numpy as np
import numpy.typing as npt

from bptcnn.memory import SharedMemory
from bptcnn.nodes.optimizer_state import OptimizerState

_HELD, _STEP, _HAS_VELOCITY, _USUAL_LOSS = range(4)  # words; the last one is a float64, NaN for none
_HEAD_BYTES = 64


class OptimizerMemory:
    """Room for a state whose velocity has up to `parameters` elements: 0 where a run is without momentum."""

    def __init__(self, memory: SharedMemory, parameters: int) -> None:
        """Use `create` or `attach`."""
        self._memory = memory
        self._parameters = parameters

    @classmethod
    def create(cls, parameters: int) -> Self:
        """Allocate; raise UserError where memory is too small."""
        return cls(SharedMemory.create(cls.size(parameters), "optimizer state"), parameters)

    @classmethod
    def attach(cls, fd: int, parameters: int) -> Self:
        """Map it in a process that has inherited the descriptor, which this takes over."""
        return cls(SharedMemory.attach(fd, cls.size(parameters)), parameters)

    @staticmethod
    def size(parameters: int) -> int:
        """Bytes."""
        return _HEAD_BYTES + 4 * parameters

    @property
    def fd(self) -> int:
        """Descriptor to hand to a child process by `pass_fds`."""
        return self._memory.fd

    def put(self, state: OptimizerState) -> None:
        """Replace what is held."""
        words = self._words()
        words[_HELD] = 0
        words[_STEP], words[_HAS_VELOCITY] = state.step, state.velocity is not None
        words.view(np.float64)[_USUAL_LOSS] = np.nan if state.usual_loss is None else state.usual_loss
        if state.velocity is not None:
            self._velocity()[:] = state.velocity
        words[_HELD] = 1

    def get(self) -> OptimizerState | None:
        """Return what is held, None for nothing; its velocity is a view of the memory, valid until the next `put`."""
        words = self._words()
        if not words[_HELD]:
            return None
        usual = float(words.view(np.float64)[_USUAL_LOSS])
        velocity = self._velocity() if words[_HAS_VELOCITY] else None
        return OptimizerState(int(words[_STEP]), None if np.isnan(usual) else usual, velocity)

    def forget(self) -> None:
        """Hold nothing."""
        self._words()[_HELD] = 0

    def close(self) -> None:
        """Free it; safe to call again."""
        self._memory.close()

    def _words(self) -> npt.NDArray[np.int64]:
        return self._memory.view(np.int64, (_HEAD_BYTES // 8,))

    def _velocity(self) -> npt.NDArray[np.float32]:
        return self._memory.view(np.float32, (self._parameters,), _HEAD_BYTES)
