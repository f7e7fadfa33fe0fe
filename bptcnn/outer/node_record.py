"""What the coordinator knows of one node, and the snapshot of it that displays and reports read."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf, isfinite, isnan, nan

from bptcnn.outer.messages import Submitted, Tried
from bptcnn.rates import rate
from bptcnn.untrusted import Count

MEASURED_BATCHES = 3  # fewer say too little about a node's speed
RECENT = 4  # submissions that tell their usual size
WINDOW_BATCHES = 64  # speed is that of about this many last batches, so that drift shows
# of a sample: what a node says is no faster than 10^12 images/s and no slower than one in two weeks, so that whatever
# it says shares can be computed from it
_LEAST_SECONDS, _MOST_SECONDS = 1e-12, 1e6


@dataclass(slots=True)
class NodeTotals:
    """What a node has done in the whole run, earlier parts of a resumed one included.

    A record's own goes on counting; whoever keeps it takes a copy.

    refused: local iterations that diverged and were not submitted.
    live_seconds: while the run trained and the node was there; of these, paused_seconds stood still at epochs' ends
    until all others did too. recording_seconds: it was there while checkpoints were written and accuracy was taken.
    """

    images: Count = 0
    submissions: Count = 0
    refused: Count = 0
    compute_seconds: float = 0.0
    wait_seconds: float = 0.0
    communication_seconds: float = 0.0
    transfer_seconds: float = 0.0
    bytes_sent: Count = 0
    bytes_received: Count = 0
    live_seconds: float = 0.0
    paused_seconds: float = 0.0
    recording_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """A node now: `speed` in images/s (measured, else by profile), `share` of all samples, `staleness` in updates.

    `away`: it is lost, but may return. `alone`: images/s measured before the run, None without a trial.
    """

    name: str
    live: bool
    paused: bool
    totals: NodeTotals
    speed: float
    measured: bool
    share: float
    staleness: int
    reason_lost: str | None
    away: bool = False
    alone: float | None = None


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

    def doubt(self) -> None:
        """Keep what was measured as a first estimate only: a few batches outweigh it."""
        seconds = self.seconds_per_sample()
        if isfinite(seconds):
            self.samples = float(MEASURED_BATCHES * self.batch_size)
            self.seconds = seconds * self.samples

    def seconds_per_sample(self) -> float:
        """t_j, or NaN if too little was measured."""
        measured = self.samples >= MEASURED_BATCHES * self.batch_size and self.seconds > 0.0
        return min(max(self.seconds / self.samples, _LEAST_SECONDS), _MOST_SECONDS) if measured else nan


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
    away: bool = False  # lost, but it may return
    joining: bool = False  # not there yet: it is to join the run
    paused: bool = False
    sequence: int = 0
    staleness: int = 0
    committed_before: int = 0  # samples, by its earlier lives: a heartbeat counts this one's only
    samples_trained: int = 0  # over all lives, committed or not
    refusals: int = 0  # since its last submission
    moved_at: int = 0  # samples trained when it last made progress
    heard: float = 0.0  # when anything came from it
    moved: float = 0.0  # when it last made progress or was given something to do
    began: float | None = None  # when it was sent its first samples in this life...
    first_samples: int = 0  # ...how many make its first local iteration...
    reported: bool = False  # ...and whether it has submitted any
    sizes: deque[int] = field(default_factory=lambda: deque(maxlen=RECENT))  # samples of its last submissions
    costs: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))  # seconds that each took, its way too
    transfers: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))  # seconds that they were under way
    reason_lost: str | None = None
    trying: bool = False  # its trial is under way...
    tried: bool = False  # ...or over, with or without a result
    alone: float | None = None  # images/s in its trial
    trusted: bool = True  # what it says of its progress is taken for true
    owes_since: float | None = None  # since when it has samples and has delivered less than it should

    @property
    def healthy(self) -> bool:
        """Whether work may be given to it."""
        return not (self.lost or self.condemned)

    @property
    def hopeful(self) -> bool:
        """Whether it is live or may be again."""
        return self.away or not self.lost

    def join(self, speed: float, trusted: bool) -> None:
        """It is to join the run, for the first time or again."""
        self.lost = self.away = self.joining = True
        self.profiled_speed, self.trusted = speed, trusted
        self.reason_lost = "it is joining"

    def revive(self, now: float, samples_committed: int, paused: bool) -> None:
        """It has returned: a new agent, ready, at whatever speed the host has now, without samples."""
        self.lost = self.away = self.joining = self.condemned = self.trying = False
        self.spoke = self.ready = True
        self.paused = paused
        self.reason_lost = None
        self.heard = self.moved = now
        self.committed_before = self.samples_trained = self.moved_at = samples_committed
        self.refusals = 0
        self.staleness = 0
        self.began, self.reported, self.owes_since = None, False, None
        self.sizes.clear()
        self.costs.clear()
        self.transfers.clear()
        self.speedometer.doubt()

    def usual_samples(self) -> int:
        """Samples of a submission lately, 0 without any."""
        return int(_usual(self.sizes))

    def usual_cost(self) -> float:
        """Seconds that a submission takes lately, with the copy before it and its way; 0 without any."""
        return _usual(self.costs)

    def under_way(self) -> int:
        """Samples that it trains while a submission is under way: at a report, it is that far beyond it."""
        seconds = self.speedometer.seconds_per_sample()
        return 0 if isnan(seconds) else round(_usual(self.transfers) / seconds)

    def fastest(self, now: float) -> float:
        """The most images/s it can be doing: while it has submitted nothing, less than one local iteration so far."""
        if self.began is None or self.reported or now <= self.began:
            return inf
        return self.first_samples / (now - self.began)

    def add(self, event: Submitted) -> None:
        """Count a submission, or those of one report."""
        totals, count = self.totals, event.sequence - self.sequence
        totals.images += event.samples
        totals.submissions += count
        totals.compute_seconds += event.compute_seconds
        totals.wait_seconds += event.wait_seconds
        totals.communication_seconds += event.communication_seconds
        totals.transfer_seconds += event.transfer_seconds
        totals.bytes_sent += event.bytes_sent
        totals.bytes_received += event.bytes_received
        self.sizes.append(event.samples // count)
        self.costs.append((event.communication_seconds + event.transfer_seconds) / count)
        self.transfers.append(event.transfer_seconds / count)
        self.sequence = event.sequence
        self.reported = True
        self.staleness = event.staleness
        self.samples_trained = max(self.samples_trained, event.samples_committed)
        self.moved_at = max(self.moved_at, event.samples_committed)
        self.refusals = 0
        self.speedometer.add(event.timed_samples, event.timed_seconds)

    def progress(self, trained: int, most: int, now: float) -> None:
        """A heartbeat says what this life has `trained`: over all lives no more than `most`, what it was sent.

        It moves by whole batches: what trickles is no progress, and there are only so many batches.
        """
        total = min(self.committed_before + trained, most)
        self.samples_trained = max(self.samples_trained, total)
        if total > self.moved_at and total >= min(self.moved_at + self.speedometer.batch_size, most):
            self.moved_at, self.moved = total, now

    def refuse(self, samples_committed: int) -> None:
        """Count a refused submission: what was trained beyond its commits is trained anew."""
        self.totals.refused += 1
        self.refusals += 1
        self.samples_trained = self.moved_at = samples_committed

    def add_trial(self, event: Tried) -> None:
        """Note the speed that it has alone."""
        self.end_trial()
        self.alone = rate(event.images, event.seconds) or None

    def end_trial(self) -> None:
        """Its trial is over, or waited for no longer."""
        self.trying, self.tried = False, True

    def add_wait(self, seconds: float) -> None:
        """Count what it waited outside of any submission."""
        self.totals.wait_seconds += seconds

    def spend(self, seconds: float, recording: bool) -> None:
        """Count time that has passed while it was live: of training or, `recording`, of an epoch's end."""
        if recording:
            self.totals.recording_seconds += seconds
            return
        self.totals.live_seconds += seconds
        if self.paused:
            self.totals.paused_seconds += seconds

    def add_unreported(self, images: int, submissions: int) -> None:
        """Count what a lost node had committed without saying so."""
        self.totals.images += images
        self.totals.submissions += submissions


def _usual(values: Sequence[float]) -> float:
    """The upper median, 0 without any: one submission cut short, or held up, tells nothing."""
    return sorted(values)[len(values) // 2] if values else 0.0
