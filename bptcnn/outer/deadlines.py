"""Deadlines: who has been silent or without progress for too long, and when a run without nodes is hopeless."""

from collections.abc import Sequence
from math import isnan

from bptcnn.outer.node_record import NodeRecord
from bptcnn.outer.settings import RunSettings

PROGRESS_BATCHES = 20  # a node may take as long as this many of its batches without a sign of progress


class Deadlines:
    """Judges by the times in the nodes' records, at Ticks only."""

    def __init__(self, settings: RunSettings, records: Sequence[NodeRecord]) -> None:
        self._settings = settings
        self._records = records
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
            if self._deserted is not None:
                self._deserted = now
            return False
        return True

    def hopeless(self, now: float) -> bool:
        """Whether no node has been live for too long."""
        return self._deserted is not None and now - self._deserted > self._settings.return_seconds

    def missed(self, record: NodeRecord, owes: bool, now: float) -> str | None:
        """What a live node did not do in time; `owes`: it has something to do that does not depend on others."""
        silence, ready, patience = self._settings.silence_seconds, self._settings.ready_seconds, self._patience(record)
        if not record.ready and now - record.moved > ready:
            return f"not ready after {ready:g} s"
        if record.spoke and now - record.heard > silence:
            return f"silent for {silence:g} s"
        if owes and now - record.moved > patience:
            return f"no progress for {patience:g} s"
        return None

    def _patience(self, record: NodeRecord) -> float:
        seconds = record.speedometer.seconds_per_sample()
        batch = 0.0 if isnan(seconds) else seconds * self._settings.batch_size
        return max(self._settings.progress_seconds, PROGRESS_BATCHES * batch)
