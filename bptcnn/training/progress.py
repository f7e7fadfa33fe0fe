"""What a run tells whoever watches it: plain values, sent from the thread that called `train`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from bptcnn.outer import NodeStatus
from bptcnn.untrusted import Between


@dataclass(frozen=True)
class EpochRow:
    """One row of metrics.csv; accuracies are shares of 1.

    `seconds` is the training time of this epoch's images, those that were trained ahead of it included: over all epochs
    it adds up to the run's. `images_per_second` is its images over that, 0 where not known.

    `test_accuracy` is that on the images that choose the best epoch: held out ones, where the run has a validation set.
    """

    epoch: Annotated[int, Between(1, 1_000_000)]
    seconds: float
    train_loss: float
    train_accuracy: float
    test_accuracy: float
    images_per_second: float


@dataclass(frozen=True)
class Snapshot:
    """A running epoch: samples trained of all, speed lately in images/s (0: not known), every node, lost ones too."""

    epoch: int
    epochs: int
    trained: int
    samples: int
    images_per_second: float
    nodes: tuple[NodeStatus, ...]


class Observer:
    """Told how a run goes; this one keeps silent. Subclasses override what they show."""

    def setup(self, message: str) -> None:
        """A step of the set-up begins, for instance compilation."""

    def saving(self, run_dir: Path) -> None:
        """The run folder is there, for this run alone."""

    def started(self, names: tuple[str, ...], samples: int, epochs: int) -> None:
        """All nodes are ready, training begins."""

    def progress(self, snapshot: Snapshot) -> None:
        """Sent twice a second."""

    def epoch_ended(self, row: EpochRow, best: bool) -> None:
        """An epoch was trained, evaluated and saved; `best`: no epoch before it was as accurate."""

    def warning(self, message: str) -> None:
        """Something that the user should know of, though the run goes on: a host that is left out."""

    def submission_refused(self, name: str, reason: str) -> None:
        """What a node learned diverged: none of it counts, the node trains the same images again."""

    def node_lost(self, name: str, reason: str) -> None:
        """A node is gone; the others train its samples."""

    def node_joined(self, name: str) -> None:
        """A node that was not there at the start trains, too."""

    def node_returned(self, name: str) -> None:
        """A node that was lost trains again."""
