"""SGWU: the synchronous update, in its reference form (average of weight sets) and in the form that merges deltas.

Source: BPT-CNN (Chen et al., TPDS 2019, arXiv 1810.07742): W(i) = sum_j W_j(i) Q_j / sum_j Q_j. All nodes start from
the same W(i-1), so it equals W(i-1) + sum_j scale_j * (W_j - W(i-1)) with scale_j = Q_j / sum Q.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from bptcnn.own_settings import import_numexpr

numexpr = import_numexpr()


def merge_scales(qualities: Sequence[float] | npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Q_j / sum Q, float64 (m,), summing to 1; equal if all Q are 0. ValueError for a Q that is no accuracy."""
    values = np.asarray(qualities, np.float64)
    if values.size == 0 or not np.all((values >= 0.0) & (values <= 1.0)):
        raise ValueError(f"accuracies must lie in [0, 1]: {values}")
    best = values.max()
    if best == 0.0:
        return np.full(values.size, 1.0 / values.size)
    relative = values / best
    return np.asarray(relative / relative.sum(), np.float64)


def average(
    weight_sets: Sequence[npt.NDArray[np.float32]], qualities: Sequence[float] | npt.NDArray[np.float64]
) -> npt.NDArray[np.float32]:
    """The weighted average of m weight sets, each float32 (parameters,); call it from one thread only (numexpr)."""
    if len(weight_sets) != len(qualities):
        raise ValueError(f"{len(weight_sets)} weight sets but {len(qualities)} accuracies")
    result = np.zeros_like(weight_sets[0])
    for weights, scale in zip(weight_sets, merge_scales(qualities), strict=True):
        # a Python float would promote the whole expression to float64
        operands = {"result": result, "scale": np.float32(scale), "weights": weights}
        numexpr.evaluate("result + scale * weights", local_dict=operands, global_dict={}, out=result, sanitize=False)
    return result


def waiting(times: Sequence[float] | npt.NDArray[np.float64]) -> float:
    """What one synchronous merge cost: sum over its nodes of (T_max - T_j), in seconds; T_j: when j submitted."""
    values = np.asarray(times, np.float64)
    return float(np.sum(values.max() - values)) if values.size else 0.0
