"""The hand-out: how much of its shard a node has in its hands, and what it is sent next.

What is sent cannot move any more, so it is little; a node must never run dry, so it is enough.

A node that is alone is sent whole local iterations: where one ends is then the same whenever the next ones come. So an
epoch repeats bit for bit, and another node may still join in the middle of it.
"""

from collections.abc import Iterator

from bptcnn.outer.ledger import Ledger
from bptcnn.outer.messages import Work
from bptcnn.outer.node_record import NodeRecord
from bptcnn.outer.planner import Planner
from bptcnn.outer.settings import RunSettings

_ALONE_ITERATIONS = 4  # that a node alone has in hand before it is sent as many more


class HandOut:
    """Sends what the ledger queues."""

    def __init__(self, settings: RunSettings, ledger: Ledger, planner: Planner) -> None:
        self._settings = settings
        self._ledger = ledger
        self._planner = planner

    def feed(self, record: NodeRecord, epoch: int, ahead: bool, now: float) -> Iterator[Work]:
        """The node's next samples if it has few in hand: of this epoch, and (`ahead`) behind them of the next."""
        node, ledger = record.node, self._ledger
        unit, low = self._planner.unit(node), self._planner.least_in_hand(node)
        if ledger.nodes == 1:
            unit *= self._planner.local_steps(node)
            low = max(low, _ALONE_ITERATIONS * unit)
        if self._planner.in_hand(node) > low:
            return
        room = 2 * low - self._planner.in_hand(node)
        full = ledger.outstanding(node) + room
        yield from self._take(record, epoch, full, unit, now)
        if ahead and not ledger.queued(node, epoch) and ledger.outstanding(node) < full:
            if not ledger.is_open(epoch + 1):
                ledger.open(epoch + 1)
            yield from self._take(record, epoch + 1, full, unit, now)

    def _take(self, record: NodeRecord, epoch: int, full: int, unit: int, now: float) -> Iterator[Work]:
        queued = self._ledger.queued(record.node, epoch)
        outstanding = self._ledger.outstanding(record.node)
        count = min(queued, full - outstanding)
        if self._ledger.unallocated or count < queued:
            # more will follow: keep to whole batches (alone: iterations), but never let a node run dry for it
            whole = count - count % unit
            count = whole if whole or outstanding else count
        if count > 0:
            steps = self._planner.local_steps(record.node)
            if record.began is None:
                record.began = now
                record.first_samples = min(count, steps * self._settings.batch_size)
            rate = self._settings.learning_rates[epoch - 1]
            yield Work(epoch, self._ledger.send(record.node, epoch, count), rate, steps)
