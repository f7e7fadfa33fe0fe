"""What changes from step to step: words and numbers that kernels read through their addresses."""

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

IMAGES, SAMPLES, BYTES, ORDER, LABELS, CORRECT, SEED, NODE, STEP = range(9)  # words
RATE, MOMENTUM, DECAY, LOSS = range(4)  # numbers


@dataclass(frozen=True)
class StepSettings:
    """`words`: images, samples address, samples are bytes, order address, labels address, correct predictions,
    and what dropout draws by: seed, node, number of the step.

    `numbers`: learning rate (NaN: no update), momentum, weight decay, mean loss.
    """

    words: npt.NDArray[np.int64]
    numbers: npt.NDArray[np.float32]

    @classmethod
    def create(cls) -> "StepSettings":
        """Return settings of a step that does nothing yet."""
        return cls(np.zeros(9, np.int64), np.full(4, np.nan, np.float32))

    def word(self, index: int) -> int:
        """Address of a word."""
        return int(self.words.ctypes.data) + 8 * index

    def number(self, index: int) -> int:
        """Address of a number."""
        return int(self.numbers.ctypes.data) + 4 * index


class Located:
    """The address of an array that is mostly the last one again: numpy takes two microseconds to tell it."""

    def __init__(self) -> None:
        self._array: Callable[[], npt.NDArray[Any] | None] = lambda: None
        self._address = 0

    def address(self, array: npt.NDArray[Any]) -> int:
        """Return the address of the array's first element."""
        if self._array() is not array:
            self._array, self._address = weakref.ref(array), int(array.ctypes.data)
        return self._address
