"""Trials: nodes whose speed alone is measured before the run, one at a time, the others idle.

A trial has a deadline: a node that keeps the others waiting takes part without one.
"""

from collections.abc import Sequence

from bptcnn.outer.messages import Trial
from bptcnn.outer.node_record import NodeRecord
from bptcnn.outer.settings import RunSettings

LONGEST_TRIAL = 60.0  # seconds: a step of a large network on a slow host takes some


class Trials:
    """Decides who is next; the results are in the nodes' records."""

    def __init__(self, settings: RunSettings, records: Sequence[NodeRecord]) -> None:
        self._settings = settings
        self._records = records

    @property
    def under_way(self) -> bool:
        """Whether a live node has still to say Tried."""
        return any(record.trying for record in self._records if not record.lost)

    def begin(self, epochs: int) -> tuple[NodeRecord, Trial] | None:
        """Return the next node to measure before a run of `epochs`, and with what; None where that is nobody now."""
        if not self._settings.trial_seconds or epochs < 1 or self.under_way:
            return None
        for record in self._records:
            if record.healthy and not record.tried:
                record.trying = True
                return record, Trial(self._settings.trial_seconds, self._settings.trial_steps(epochs))
        return None

    def give_up(self, now: float) -> bool:
        """Wait no longer for trials that take too long; return whether there was one."""
        late = [record for record in self._records if record.trying and now - record.moved > LONGEST_TRIAL]
        for record in late:
            record.end_trial()
        return bool(late)
