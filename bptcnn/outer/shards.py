"""The order in which samples are trained, and how a shard is divided: pure functions of seed, epoch and node."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from bptcnn.outer.messages import Indices
from bptcnn.outer.partition import Floats, largest_remainder


def first_order(samples: int, seed: int) -> Indices:
    """All samples, shuffled by the seed: the order in which the first epoch's allocation rounds give them out."""
    return np.random.default_rng([seed, 1]).permutation(samples).astype(np.int32)


def epoch_order(shard: Indices, seed: int, epoch: int, node: int) -> Indices:
    """The node's shard in its order for an epoch; the order of `shard` itself does not matter."""
    return np.random.default_rng([seed, epoch, node]).permutation(np.sort(shard)).astype(np.int32)


def interleave(total: int, weights: Sequence[float] | Floats) -> npt.NDArray[np.int64]:
    """Deal `total` places to m weights so that every stretch of them, not only the whole, is near proportional.

    Returns for each place the index of its weight, int64 (total,); the counts are those of `largest_remainder`.
    """
    counts = largest_remainder(total, weights)
    dealt = np.repeat(np.arange(counts.size), counts)
    places = np.concatenate([(np.arange(count) + 0.5) / count for count in counts]) if total else np.empty(0)
    return np.asarray(dealt[np.argsort(places, kind="stable")], np.int64)
