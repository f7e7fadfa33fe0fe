"""AGWU: the weight an asynchronous submission is merged with, as a pure function of the table that the nodes share.

  W(i) = W(i-1) + scale * (W_j - W(k_j))

Source: BPT-CNN (Chen et al., TPDS 2019, arXiv 1810.07742): scale = gamma_j * Q_j, kept as `agwu-published`.
Deviation: the default rule `agwu` takes Q_j relative to the best live node's Q, because gamma * Q alone shrinks early
updates, when all Q are small.
"""

import math
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

AsynchronousRule = Literal["agwu", "agwu-published"]


def gamma(node: int, base_versions: npt.NDArray[np.int64], live: npt.NDArray[np.bool_], updates: int) -> float:
    """The share of `node`: exp(k_j/(i-1)) / sum over live l of exp(k_l/(i-1)), with i-1 = `updates`; 1/m at i = 1.

    `base_versions` int64 (m,): the update counter read before each node's last copy; `live` bool (m,). A version read
    later than the counter (the table is not read atomically) counts as current. ValueError if `node` is not live.
    """
    if not live[node]:
        raise ValueError(f"node {node} is not live, its submission has no weight")
    if updates < 0:
        raise ValueError(f"the update counter cannot be {updates}")
    if updates == 0:
        return 1.0 / int(np.count_nonzero(live))
    own = min(int(base_versions[node]), updates)
    # relative to the node's own exponent nothing overflows: all lie within [0, 1]
    exponents = ((min(version, updates) - own) / updates for version in base_versions[live].tolist())
    return 1.0 / sum(map(math.exp, exponents))


def submission_scale(
    rule: AsynchronousRule,
    node: int,
    base_versions: npt.NDArray[np.int64],
    qualities: npt.NDArray[np.float64],
    live: npt.NDArray[np.bool_],
    updates: int,
) -> float:
    """The factor that `node`'s delta is merged with, in [0, 1].

    `qualities` float64 (m,): each node's accuracy on its local samples, in [0, 1]; NaN: none yet. With `agwu` and no
    live Q above 0, Q counts as 1, or a network that has nothing right yet would never move. Arrays as in `gamma`.
    """
    if rule not in get_args(AsynchronousRule):
        raise ValueError(f"no such rule: {rule!r}")
    quality = float(qualities[node])
    if not 0.0 <= quality <= 1.0:
        raise ValueError(f"node {node}'s accuracy must lie in [0, 1]: {quality}")
    attenuation = gamma(node, base_versions, live, updates)
    if rule == "agwu-published":
        return attenuation * quality
    return attenuation * relative_quality(node, qualities, live)


def relative_quality(node: int, qualities: npt.NDArray[np.float64], live: npt.NDArray[np.bool_]) -> float:
    """Q_j over the best live Q, 1 where that is 0. Arrays as in `submission_scale`."""
    best = max((quality for quality in qualities[live].tolist() if quality == quality), default=0.0)  # not NaN
    return float(qualities[node]) / best if best > 0.0 else 1.0


def over_stale(base_version: int, updates: int, bound: int | None) -> bool:
    """Whether a node that copied version `base_version` is more than `bound` updates behind (None: no bound).

    Such a node ends its local iteration early, submits and refreshes.
    """
    return bound is not None and updates - base_version > bound
