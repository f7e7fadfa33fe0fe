"""summary.json: what a run did, as outside scripts read it."""

from dataclasses import asdict, dataclass
from typing import Any

from bptcnn.outer import Partition, Update
from bptcnn.training.breakdown import Breakdown


@dataclass(frozen=True)
class NodeSummary:
    """One node. `speed` as in the settings, None for a node of an earlier part of a resumed run.

    Measured speed in images/s, None where not measured. communication_seconds is how long training stood still for
    communication, transfer_seconds how long weights were under way, most of it while the node trained. Bytes are those
    of weights, through shared memory or, framing included, over the network; `host` is where it ran.
    """

    name: str
    host: str | None
    speed: float | None
    alone_images_per_second: float | None
    images: int
    refused: int  # submissions that diverged, and whose images were trained again
    compute_seconds: float
    wait_seconds: float
    communication_seconds: float
    transfer_seconds: float
    bytes_sent: int
    bytes_received: int
    lost: str | None  # why it is gone


@dataclass(frozen=True)
class Summary:
    """A run. `outcome` is completed, stopped or failed; `chosen_by` names the images that accuracy was measured on.

    test_accuracy is that of the last epoch's weights on the test set. train_seconds runs from the first step to the
    last, evaluation and compilation left out. waiting_seconds is what SGWU's rounds cost: every node's wait for the
    slowest, summed up; under AGWU it is 0. efficiency is images_per_second over the sum of the nodes' separately
    measured speeds, None where they were not measured; breakdown says where the rest went. bytes_per_merge is what the
    nodes sent and received over the number of their submissions; communication_share is the share of the nodes' time
    that training stood still for it.
    """

    outcome: str
    reason: str
    test_accuracy: float | None
    best_epoch: int | None
    best_accuracy: float | None
    chosen_by: str
    train_seconds: float
    setup_seconds: float
    images_per_second: float
    images_trained: int
    images_redone: int
    epochs: int
    updates: int
    update: Update
    partition: Partition
    network: str
    parameters: int
    waiting_seconds: float
    bytes_per_merge: float
    communication_share: float
    efficiency: float | None
    breakdown: Breakdown
    nodes: tuple[NodeSummary, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)
