"""The planner decides who owns which samples: allocation rounds, shards of lost nodes, balance after drift.

It applies the pure functions of `partition` to the ledger with the speeds that the nodes' records hold.
"""

from collections.abc import Sequence
from math import ceil, inf, isnan

import numpy as np

from bptcnn.outer.history import Cause, Reallocation, Shard
from bptcnn.outer.ledger import Ledger
from bptcnn.outer.node_record import NodeRecord
from bptcnn.outer.partition import Counts, Floats, allocate, estimate_speeds, next_round, rebalance
from bptcnn.outer.settings import RunSettings

TOLERANCE = 0.1  # share of its target that a shard may be off before samples move; measured speeds scatter as much
RESERVE_SECONDS = 0.25  # a report and its answer, over a slow link too
RESERVE_PARTS = 8  # but no more than this part of a shard: the rest can move
SUBMITTING_PART = 0.01  # of a node's time: what local iterations are chosen by
ENDING_PARTS = 4  # where the run ends, local iterations and what nodes have in hand are a part or two of what is left


class Planner:
    """Allocation over the nodes that are healthy when a decision falls."""

    def __init__(self, settings: RunSettings, ledger: Ledger, records: Sequence[NodeRecord]) -> None:
        self._settings = settings
        self._ledger = ledger
        self._records = records
        self._rounds = settings.allocation_rounds()
        self._done = 0
        self._history: list[Reallocation] = []
        self.now = 0.0  # set by the coordinator from each event
        self._left = inf  # seconds until the run ends, where that is near enough to plan for

    def speeds(self) -> Floats:
        """Images/s of all m nodes, float64 (m,): measured, or by profile scaled to what the others measured.

        Without a measurement a node counts for no more than its silence so far allows, or one whose profile is far too
        good would be given round after round before its first submission shows it.
        """
        profiled = [record.profiled_speed for record in self._records]
        times = [record.speedometer.seconds_per_sample() for record in self._records]
        return np.minimum(estimate_speeds(profiled, times), [record.fastest(self.now) for record in self._records])

    def seconds_per_sample(self, node: int) -> float:
        """What the node is expected to take, as measured or by profile; NaN as long as nobody was measured."""
        times = [record.speedometer.seconds_per_sample() for record in self._records]
        if np.isnan(times).all():
            return float("nan")
        return float(1.0 / estimate_speeds([record.profiled_speed for record in self._records], times)[node])

    def local_steps(self, node: int) -> int:
        """Batches in the node's local iteration.

        Under SGWU they are in proportion to the share that the partition means the node to have, with the configured
        number as their mean, so that all nodes finish together if the partition fits their speeds.
        """
        if self._settings.update != "sgwu":
            steps, ending = self._chosen_steps(node), self._ending_samples(node)
            return max(1, min(ending // self._settings.batch_size, steps)) if ending else steps
        steps = self._settings.local_steps
        nodes = self._heirs()
        weights = self._weights(nodes)
        return max(1, round(steps * len(nodes) * float(weights[nodes.index(node)] / weights.sum())))

    def _chosen_steps(self, node: int) -> int:
        """The shortest local iteration whose submission takes no more than its part of the node's time.

        Shorter ones learn faster. What a node alone does is not to depend on time.
        """
        most, fewest = self._settings.local_steps, self._settings.fewest_local_steps
        if self._ledger.nodes == 1:
            return self._settings.alone_local_steps or most
        if fewest is None:
            return most
        record = self._records[node]
        step = record.speedometer.seconds_per_sample() * self._settings.batch_size
        return fewest if isnan(step) else min(most, max(fewest, ceil(record.usual_cost() / (SUBMITTING_PART * step))))

    def local_samples(self, node: int) -> int:
        """Samples in the node's local iteration: as planned, or more where it trains on behind a slow link."""
        planned = self.local_steps(node) * self._settings.batch_size
        if self._settings.update == "sgwu":
            return planned
        if ending := self._ending_samples(node):
            return max(min(planned, ending), self._under_way(node))
        return max(planned, self._records[node].usual_samples(), self._under_way(node))

    def unit(self, node: int) -> int:
        """Samples that the node is given multiples of, as long as there are more: a batch, but where the run ends."""
        return min(self._settings.batch_size, self.local_samples(node))

    def _ending_samples(self, node: int) -> int:
        """Samples of the node's share of what is left, as the run's end divides that; 0 where it is not near.

        A batch may take seconds, so it may be divided, too.
        """
        seconds = self._records[node].speedometer.seconds_per_sample()
        iteration = seconds * self._settings.batch_size * self._chosen_steps(node)
        if isnan(seconds) or self._left > ENDING_PARTS * max(iteration, RESERVE_SECONDS):
            return 0
        return max(ceil(self._settings.batch_size / ENDING_PARTS), int(self._left / (seconds * ENDING_PARTS)))

    def foresee(self, epoch: int) -> None:
        """Note how long the run has still to go, if `epoch` is the last one."""
        self._left, last = inf, epoch == self._settings.epochs
        if last and self._ledger.nodes > 1 and not self._ledger.unallocated and self._settings.update != "sgwu":
            nodes = self._heirs()
            sent, unsent = self._to_train(epoch, nodes)
            self._left = float((sent.sum() + unsent.sum()) / max(self._weights(nodes).sum(), 1e-9))

    def least_in_hand(self, node: int) -> int:
        """Samples in hand with which the node is sent more: it reports once in a local iteration.

        And it is to be busy while it reports and is answered, with a local iteration or a part of its shard. Where the
        run ends, only behind a link: what is in hand cannot move, and would keep nodes from ending together.
        """
        local, seconds = self.local_samples(node), self._records[node].speedometer.seconds_per_sample()
        if isnan(seconds) or self._settings.update == "sgwu":
            return 2 * local
        if ending := self._ending_samples(node):
            return max(ending, local + self._under_way(node))
        most = max(local, int(self._ledger.shard_sizes()[node]) // RESERVE_PARTS)
        return local + min(most, max(self._settings.batch_size, round(RESERVE_SECONDS / seconds)))

    def in_hand(self, node: int) -> int:
        """Samples sent to the node that it has still to train, as far as its reports tell."""
        return max(0, self._ledger.outstanding(node) - self._under_way(node))

    def _under_way(self, node: int) -> int:
        return 0 if self._settings.update == "sgwu" else self._records[node].under_way()

    def allocate_round(self) -> None:
        """Give out the next allocation round of the first epoch."""
        nodes = self._heirs()
        sizes = self._ledger.shard_sizes()
        held = sizes[nodes]
        increments = next_round(
            self._settings.samples, self._done, self._rounds, self._weights(nodes), held, int(sizes.sum() - held.sum())
        )
        self._done += 1
        self._ledger.allocate(self._spread(nodes, increments))
        self._note("round", int(increments.sum()))

    def replenish(self, epoch: int) -> None:
        """Give out one more allocation round if a node runs low: one local iteration left, or half of a short queue.

        One round per event is enough: it holds a sample at least, and whoever trains that will report again.
        """
        if not self._ledger.unallocated:
            return
        sizes = self._ledger.shard_sizes()
        for node in self._heirs():
            left = self.in_hand(node) + self._ledger.queued(node, epoch)
            if sizes[node] and left <= min(self.local_samples(node), sizes[node] // 2):
                self.allocate_round()
                return

    def lost(self, record: NodeRecord) -> None:
        """A node was lost: divide its shard over the others by speed, once there are others."""
        self._note("loss", self._divide(), record.name)

    def returned(self, record: NodeRecord, cause: Cause, epoch: int | None) -> None:
        """A node has returned or joined: in an `epoch` that is being trained, unsent samples move to it."""
        moved = self._divide()  # if nobody else was there, all is its own
        if epoch is not None:
            moved += self._welcome(epoch)
        self._note(cause, moved, record.name)

    def reallocations(self) -> list[Reallocation]:
        """What became of the shards since this was last asked for."""
        taken, self._history = self._history, []
        return taken

    def _divide(self) -> int:
        heirs, moved = self._heirs(), 0
        if heirs:
            sizes = self._ledger.shard_sizes()
            for record in self._records:
                if record.lost and sizes[record.node]:
                    self._ledger.divide(record.node, heirs, self.speeds()[heirs])
                    moved += int(sizes[record.node])
        return moved

    def adopt(self) -> None:
        """After a restore, before an epoch is opened: give out what belongs to nobody."""
        nodes = self._heirs()
        held = self._ledger.shard_sizes()[nodes]
        increments = allocate(int(held.sum()) + self._ledger.unallocated, self._weights(nodes), held)
        self._ledger.allocate(self._spread(nodes, increments))
        self._note("resume", int(increments.sum()))

    def balance(self, epoch: int) -> None:
        """At an epoch's start: move the fewest unsent samples that make shards fit speeds, if one is off by much.

        Baselines keep their partition, but a node that owns nothing (it is new) gets its share under any.
        """
        nodes = self._heirs()
        if not nodes:  # whoever returns first inherits everything
            return
        sizes = self._ledger.shard_sizes()[nodes]
        if self._settings.partition != "idpa" and sizes.all():
            return
        unsent = np.array([self._ledger.queued(node, epoch) for node in nodes], np.int64)
        targets = rebalance(sizes, sizes - unsent, self._weights(nodes))
        if np.any(np.abs(sizes - targets) > np.maximum(1.0, TOLERANCE * targets)):
            self._note("balance", self._move(epoch, nodes, targets - sizes))

    def relieve(self, epoch: int, ahead: bool) -> None:
        """Let nodes that run out take unsent samples, so that all end together.

        A node that may start the next epoch (`ahead`) has run out when it has trained its share of that, too.
        """
        if self._settings.partition != "idpa" or self._ledger.unallocated:
            return
        if ahead and not self._ledger.is_open(epoch + 1):  # nobody has trained any of that: mostly so
            return
        nodes = self._heirs()
        sent, unsent = self._to_train(epoch, nodes)
        needy = [
            not (unsent[place] or (ahead and self._ledger.queued(node, epoch + 1)))
            and sent[place] <= self.local_samples(node)
            for place, node in enumerate(nodes)
        ]
        if not unsent.any() or not any(needy):
            return
        gains = rebalance(sent + unsent, sent, self._weights(nodes)) - sent - unsent
        if any(need and gain >= self.unit(node) for need, gain, node in zip(needy, gains, nodes, strict=True)):
            self._note("relief", self._move(epoch, nodes, gains))

    def _welcome(self, epoch: int) -> int:
        """A node is there again, or is new: move unsent samples so that all would end together.

        While rounds are given out it is an heir of the next one; under the baselines it waits for an epoch's start.
        """
        if self._settings.partition != "idpa" or self._ledger.unallocated:
            return 0
        nodes = self._heirs()
        sent, unsent = self._to_train(epoch, nodes)
        return self._move(epoch, nodes, rebalance(sent + unsent, sent, self._weights(nodes)) - sent - unsent)

    def _to_train(self, epoch: int, nodes: list[int]) -> tuple[Counts, Counts]:
        """What each node has still to train: what is in its hands, and what is unsent of the epoch, int64 (nodes,)."""
        sent = [self.in_hand(node) for node in nodes]
        unsent = [self._ledger.queued(node, epoch) for node in nodes]
        return np.array(sent, np.int64), np.array(unsent, np.int64)

    def _heirs(self) -> list[int]:
        """Nodes that may be given samples: the healthy ones, else those not known to be dead yet."""
        healthy = [record.node for record in self._records if record.healthy]
        return healthy or [record.node for record in self._records if not record.lost]

    def _weights(self, nodes: list[int]) -> Floats:
        """What shares are proportional to under the run's partition, float64 (len(nodes),)."""
        if self._settings.partition == "uniform":
            return np.ones(len(nodes))
        if self._settings.partition == "static":
            return np.array([self._records[node].profiled_speed for node in nodes])
        return self.speeds()[nodes]

    def _spread(self, nodes: list[int], counts: Counts) -> Counts:
        spread = np.zeros(len(self._records), np.int64)
        spread[nodes] = counts
        return spread

    def _note(self, cause: Cause, moved: int, node: str = "") -> None:
        sizes, speeds = self._ledger.shard_sizes(), self.speeds()
        shards = tuple(Shard(r.name, int(sizes[r.node]), float(speeds[r.node])) for r in self._records)
        self._history.append(Reallocation(cause, node, moved, shards))

    def _move(self, epoch: int, nodes: list[int], gains: Counts) -> int:
        """Carry out gains (negative: losses) that sum to 0, in index order; return how many samples moved."""
        givers = [(node, -int(gain)) for node, gain in zip(nodes, gains, strict=True) if gain < 0]
        for receiver, gain in zip(nodes, gains, strict=True):
            needed = int(gain)
            while needed > 0:
                giver, surplus = givers.pop()
                count = min(needed, surplus)
                self._ledger.move(epoch, giver, receiver, count)
                needed -= count
                if surplus > count:
                    givers.append((giver, surplus - count))
        return int(gains[gains > 0].sum())
