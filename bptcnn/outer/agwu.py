"""AGWU: the weight an asynchronous submission is merged with, as a pure function of the table that the nodes share.

  W(i) = W(i-1) + scale * (W_j - W(k_j))

Source: BPT-CNN (Chen et al., TPDS 2019, arXiv 1810.07742): scale = gamma_j * Q_j, kept as `agwu-published`.
Deviation: the default rule `agwu` takes Q_j relative to the best live node's Q, because gamma * Q alone shrinks early
updates, when all Q are small.
"""

import math
from collections.abc import Sequence
from itertools import compress
from typing import Literal, get_args

AsynchronousRule = Literal["agwu", "agwu-published"]
_RULES = get_args(AsynchronousRule)


def gamma(node: int, base_versions: Sequence[int], live: Sequence[bool], updates: int) -> float:
    """The share of `node`: exp(k_j/(i-1)) / sum over live l of exp(k_l/(i-1)), with i-1 = `updates`; 1/m at i = 1.

    `base_versions` (m,): the update counter read before each node's last copy; `live` (m,). A version read later than
    the counter (the table is not read atomically) counts as current. ValueError if `node` is not live.
    """
    if not live[node]:
        raise ValueError(f"node {node} is not live, its submission has no weight")
    if updates < 0:
        raise ValueError(f"the update counter cannot be {updates}")
    if updates == 0:
        return 1.0 / sum(live)
    own = min(base_versions[node], updates)
    # relative to the node's own exponent nothing overflows: all lie within [0, 1]
    return 1.0 / sum(math.exp((min(version, updates) - own) / updates) for version in compress(base_versions, live))


def submission_scale(
    rule: AsynchronousRule,
    node: int,
    base_versions: Sequence[int],
    qualities: Sequence[float],
    live: Sequence[bool],
    updates: int,
) -> float:
    """The factor that `node`'s delta is merged with, in [0, 1].

    `qualities` (m,): each node's accuracy on its local samples, in [0, 1]; NaN: none yet. With `agwu` and no live Q
    above 0, Q counts as 1, or a network that has nothing right yet would never move. The others as in `gamma`.
    """
    if rule not in _RULES:
        raise ValueError(f"no such rule: {rule!r}")
    quality = qualities[node]
    if not 0.0 <= quality <= 1.0:
        raise ValueError(f"node {node}'s accuracy must lie in [0, 1]: {quality}")
    attenuation = gamma(node, base_versions, live, updates)
    if rule == "agwu-published":
        return attenuation * quality
    return attenuation * relative_quality(node, qualities, live)


def relative_quality(node: int, qualities: Sequence[float], live: Sequence[bool]) -> float:
    """Q_j over the best live Q, 1 where that is 0. Arguments as in `submission_scale`."""
    best = max((quality for quality in compress(qualities, live) if quality == quality), default=0.0)  # not NaN
    return qualities[node] / best if best > 0.0 else 1.0


def over_stale(base_version: int, updates: int, bound: int | None) -> bool:
    """Whether a node that copied version `base_version` is more than `bound` updates behind (None: no bound).

    Such a node ends its local iteration early, submits and refreshes.
    """
    return bound is not None and updates - base_version > bound
