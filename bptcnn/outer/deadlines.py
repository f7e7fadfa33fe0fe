"""Deadlines: who has been silent or without progress for too long, and when a run without nodes is hopeless.

A node that is not trusted (a host) also has to deliver: heartbeats that rise are no progress for ever. What it has in
hand buys it time, and each sample that comes back buys it the time of that sample again.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isnan

from bptcnn.outer.messages import Message, Release, Resume, Work
from bptcnn.outer.node_record import NodeRecord
from bptcnn.outer.settings import RunSettings

PROGRESS_BATCHES = 20  # a node may take as long as this many of its batches without a sign of progress...
LONGEST_PATIENCE = 1800.0  # ...but no longer: how long they take is what the node says
SLOWER = 20.0  # times that a node may take for its samples what its speed lets expect
LONGEST_DELIVERY = 7200.0  # seconds, for all that it has in hand


@dataclass(frozen=True)
class Missed:
    """What a node did not do in time. `for_good`: it lives and does nothing, as it would if it were started again."""

    reason: str
    for_good: bool = False


class Deadlines:
    """Judges by the times in the nodes' records, at Ticks only."""

    def __init__(
        self, settings: RunSettings, records: Sequence[NodeRecord], seconds_per_sample: Callable[[int], float]
    ) -> None:
        self._settings = settings
        self._records = records
        self._seconds_per_sample = seconds_per_sample  # that a node is expected to take; NaN: not known
        self._last_tick: float | None = None
        self._deserted: float | None = None  # since when no node has been live

    def lost(self, now: float) -> None:
        """A node was lost."""
        if all(record.lost for record in self._records):
            self._deserted = now

    def returned(self) -> None:
        """A node has returned."""
        self._deserted = None

    def tick(self, now: float) -> bool:
        """Whether nodes may be judged at this tick: not if it is the driver that slept; then all get a fresh period."""
        last, self._last_tick = self._last_tick, now
        if last is None or now - last > self._settings.silence_seconds / 2:
            for record in self._records:
                record.heard = record.moved = now
                self._goes_on(record, now)
            if self._deserted is not None:
                self._deserted = now
            return False
        return True

    def hopeless(self, now: float) -> bool:
        """Whether no node has been live for too long."""
        return self._deserted is not None and now - self._deserted > self._settings.return_seconds

    def missed(self, record: NodeRecord, owes: bool, in_hand: int, now: float) -> Missed | None:
        """What a live node did not do in time.

        `owes`: it has something to do that does not depend on others; `in_hand`: samples that it is to train now.
        """
        silence, ready, patience = self._settings.silence_seconds, self._settings.ready_seconds, self._patience(record)
        if not record.ready and now - record.moved > ready:
            return Missed(f"not ready after {ready:g} s")
        if record.spoke and now - record.heard > silence:
            return Missed(f"silent for {silence:g} s")
        if owes and now - record.moved > patience:
            return Missed(f"no progress for {patience:g} s", for_good=True)
        return self._undelivered(record, in_hand, now) if in_hand else None

    def sent(self, record: NodeRecord, message: Message, now: float) -> None:
        """The node is sent a message: from here on it has the time that it takes."""
        record.moved = now
        if isinstance(message, Work) and record.owes_since is None:
            record.owes_since = now
        elif isinstance(message, Resume | Release):
            self._goes_on(record, now)

    def _goes_on(self, record: NodeRecord, now: float) -> None:
        """It could not deliver until now."""
        if record.owes_since is not None:
            record.owes_since = now

    def delivered(self, record: NodeRecord, samples: int, in_hand: int, now: float) -> None:
        """It has committed `samples`, and has `in_hand` still to train."""
        if not in_hand or record.owes_since is None:
            record.owes_since = None
            return
        seconds = self._seconds_per_sample(record.node)
        record.owes_since = now if isnan(seconds) else min(now, record.owes_since + SLOWER * samples * seconds)

    def _undelivered(self, record: NodeRecord, in_hand: int, now: float) -> Missed | None:
        """What a live node that has samples in hand has not delivered in time."""
        if record.trusted or record.owes_since is None:
            return None
        seconds = self._seconds_per_sample(record.node)
        expected = LONGEST_DELIVERY if isnan(seconds) else SLOWER * in_hand * seconds
        allowed = min(self._settings.progress_seconds + expected, LONGEST_DELIVERY)
        if now - record.owes_since <= allowed:
            return None
        return Missed(f"the {in_hand:,} samples that it has did not come back within {allowed:.0f} s", for_good=True)

    def _patience(self, record: NodeRecord) -> float:
        seconds = record.speedometer.seconds_per_sample()
        if isnan(seconds):
            seconds = 1.0 / record.alone if record.alone else 0.0
        batch = seconds * self._settings.batch_size
        return max(self._settings.progress_seconds, min(PROGRESS_BATCHES * batch, LONGEST_PATIENCE))
