"""What the coordinator knows of one node, and the snapshot of it that displays and reports read."""

from dataclasses import dataclass, field
from math import inf, nan

from bptcnn.outer.messages import Submitted

MEASURED_BATCHES = 3  # fewer say too little about a node's speed
WINDOW_BATCHES = 64  # speed is that of about this many last batches, so that drift shows


@dataclass(frozen=True, slots=True)
class NodeTotals:
    """What a node has done in the whole run, earlier parts of a resumed one included."""

    images: int = 0
    submissions: int = 0
    compute_seconds: float = 0.0
    wait_seconds: float = 0.0
    communication_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """A node now: `speed` in images/s (measured, else by profile), `share` of all samples, `staleness` in updates."""

    name: str
    live: bool
    paused: bool
    totals: NodeTotals
    speed: float
    measured: bool
    share: float
    staleness: int
    reason_lost: str | None


@dataclass(slots=True)
class Speedometer:
    """Seconds per sample over about the last WINDOW_BATCHES batches."""

    batch_size: int
    seconds: float = 0.0
    samples: float = 0.0

    def add(self, samples: int, seconds: float) -> None:
        """Count `samples` that took `seconds`."""
        self.samples += samples
        self.seconds += seconds
        surplus = WINDOW_BATCHES * self.batch_size / self.samples if self.samples else 1.0
        if surplus < 1.0:
            self.samples *= surplus
            self.seconds *= surplus

    def seconds_per_sample(self) -> float:
        """t_j, or NaN if too little was measured."""
        measured = self.samples >= MEASURED_BATCHES * self.batch_size and self.seconds > 0.0
        return self.seconds / self.samples if measured else nan


@dataclass(slots=True)
class NodeRecord:
    """The coordinator's mutable record of one node."""

    node: int
    name: str
    profiled_speed: float
    speedometer: Speedometer
    totals: NodeTotals = field(default_factory=NodeTotals)
    spoke: bool = False  # anything came from it: from then on it must not fall silent
    ready: bool = False
    condemned: bool = False  # a kill is asked for; its samples stay until it is lost
    lost: bool = False
    paused: bool = False
    sequence: int = 0
    staleness: int = 0
    samples_trained: int = 0
    heard: float = 0.0  # when anything came from it
    moved: float = 0.0  # when it last made progress or was given something to do
    began: float | None = None  # when it was sent its first samples...
    first_samples: int = 0  # ...and how many make its first local iteration
    reason_lost: str | None = None

    @property
    def healthy(self) -> bool:
        """Whether work may be given to it."""
        return not (self.lost or self.condemned)

    def fastest(self, now: float) -> float:
        """The most images/s it can be doing: while it has submitted nothing, less than one local iteration so far."""
        if self.began is None or self.sequence or now <= self.began:
            return inf
        return self.first_samples / (now - self.began)

    def add(self, event: Submitted) -> None:
        """Count a submission."""
        totals = self.totals
        self.totals = NodeTotals(
            totals.images + event.samples,
            totals.submissions + 1,
            totals.compute_seconds + event.compute_seconds,
            totals.wait_seconds + event.wait_seconds,
            totals.communication_seconds + event.communication_seconds,
        )
        self.sequence = event.sequence
        self.staleness = event.staleness
        self.samples_trained = max(self.samples_trained, event.samples_committed)
        self.speedometer.add(event.timed_samples, event.timed_seconds)

    def add_unreported(self, images: int, submissions: int) -> None:
        """Count what a lost node had committed without saying so."""
        totals = self.totals
        self.totals = NodeTotals(
            totals.images + images,
            totals.submissions + submissions,
            totals.compute_seconds,
            totals.wait_seconds,
            totals.communication_seconds,
        )
