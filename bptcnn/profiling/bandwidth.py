"""Memory bandwidth by the triad a = b + s * c of J. McCalpin's STREAM: 12 bytes counted per element of float32.

Each thread has arrays of its own, touched first by itself, so that they lie in its memory on a machine with several.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from bptcnn.kernels.compilation import compiled
from bptcnn.profiling.rounds import together

FloatArray = npt.NDArray[np.float32]

_BYTES_PER_ELEMENT = 12
_ROUNDS = 5


@compiled("void(float32[::1], float32[::1], float32[::1], float32)")
def triad(a: FloatArray, b: FloatArray, c: FloatArray, scale: np.float32) -> None:
    """a = b + scale * c, arrays of one length."""
    for i in range(a.size):
        a[i] = b[i] + scale * c[i]


def measure_bandwidth(threads: int, total_bytes: int) -> float:
    """Return the GB/s that `threads` threads reach together on arrays of `total_bytes`, the best of several rounds."""
    elements = max(1, total_bytes // (_BYTES_PER_ELEMENT * threads))

    def worker() -> Callable[[], None]:
        arrays: list[FloatArray] = []

        def run() -> None:
            if not arrays:  # the round that warms up
                arrays.extend(np.full(elements, value, np.float32) for value in (0.0, 1.0, 2.0))
            triad(arrays[0], arrays[1], arrays[2], np.float32(3.0))

        return run

    rounds = together([worker() for _ in range(threads)], _ROUNDS)
    return threads * elements * _BYTES_PER_ELEMENT / min(turn.wall for turn in rounds) / 1e9
