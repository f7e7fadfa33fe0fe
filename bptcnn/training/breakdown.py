"""Where the nodes' time went: what lies between a run's speed and the sum of its nodes' speeds alone."""

from collections.abc import Sequence
from dataclasses import dataclass

from bptcnn.outer import NodeTotals


@dataclass(frozen=True)
class Share:
    """One node's part of a run: what it did, whether it was a `host` behind a network, and images/s alone, if known."""

    totals: NodeTotals
    host: bool
    alone: float | None


@dataclass(frozen=True)
class Breakdown:
    """Seconds summed over the nodes; all but `slowdown` add up to `total`.

    compute: in training steps, `slowdown` of it because steps were slower than alone (None where that is not known).
    waiting: for samples, or under SGWU for the others. merging: copying and merging weights in shared memory.
    communication: training stood still for a network. imbalance: standing still at epochs' ends until all did.
    evaluation: checkpoints and accuracy, which count as no training time. other: the rest, with what lost nodes had
    not reported and what was refused.
    """

    total: float
    compute: float
    waiting: float
    merging: float
    communication: float
    imbalance: float
    evaluation: float
    other: float
    slowdown: float | None


def break_down(shares: Sequence[Share]) -> Breakdown:
    """Return where the time of all nodes went. A host trains on while its stub says that it is paused."""
    totals = [share.totals for share in shares]
    compute = sum(t.compute_seconds for t in totals)
    waiting = sum(t.wait_seconds for t in totals)
    merging = sum(share.totals.communication_seconds for share in shares if not share.host)
    communication = sum(share.totals.communication_seconds for share in shares if share.host)
    imbalance = sum(share.totals.paused_seconds for share in shares if not share.host)
    evaluation = sum(t.recording_seconds for t in totals)
    training = sum(t.live_seconds for t in totals)
    known = compute + waiting + merging + communication + imbalance
    other = max(0.0, training - known)
    return Breakdown(
        total=known + other + evaluation,
        compute=compute,
        waiting=waiting,
        merging=merging,
        communication=communication,
        imbalance=imbalance,
        evaluation=evaluation,
        other=other,
        slowdown=_slowdown(shares),
    )


def _slowdown(shares: Sequence[Share]) -> float | None:
    if not _measured(shares):
        return None
    known = [(share.totals, share.alone) for share in shares if share.alone is not None]
    return sum(totals.compute_seconds - totals.images / alone for totals, alone in known)


def _measured(shares: Sequence[Share]) -> bool:
    """Tell whether the speed alone of every node that trained is known."""
    return all(share.alone is not None or not share.totals.images for share in shares)


def efficiency(images_per_second: float, shares: Sequence[Share]) -> float | None:
    """Return the run's speed over the sum of its nodes' speeds alone; None where one that trained was not measured."""
    known = [share.alone for share in shares if share.alone is not None]
    return images_per_second / sum(known) if known and _measured(shares) else None
