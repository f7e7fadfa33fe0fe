"""The roster: the records of all nodes, who of them is live, and what displays and checkpoints take of them."""

from collections.abc import Sequence
from copy import copy
from math import isnan

from bptcnn.outer.node_record import MEASURED_BATCHES, NodeRecord, NodeStatus, Speedometer
from bptcnn.outer.partition import Counts, Floats
from bptcnn.outer.settings import NodeProfile, RunSettings
from bptcnn.outer.state import CoordinatorState, NodeState


class Roster:
    """Every node of the settings, in their order, then those that join; with `state` each goes on, by name."""

    def __init__(self, settings: RunSettings, state: CoordinatorState | None) -> None:
        self._samples = settings.samples
        self._batch_size = settings.batch_size
        self.records: list[NodeRecord] = []
        # nodes that took part before the run was resumed without them: their share of the run's totals
        self.departed = state.nodes if state else ()
        for profile in settings.nodes:
            self.add(profile)

    @property
    def names(self) -> list[str]:
        """The nodes' names."""
        return [record.name for record in self.records]

    @property
    def alone(self) -> bool:
        """Whether there is one node only, and never was another one."""
        return len(self.records) == 1

    def add(self, profile: NodeProfile) -> NodeRecord:
        """Append a node's record, which goes on from what a departed node of this name had done."""
        name, speedometer = profile.name, Speedometer(self._batch_size)
        record = NodeRecord(len(self.records), name, profile.speed, speedometer, trusted=profile.trusted)
        self.records.append(record)
        for state in self.departed:
            if state.name == name:
                self._restore(record, state)
        self.departed = tuple(state for state in self.departed if state.name != name)
        return record

    def join(self, node: int, profile: NodeProfile) -> NodeRecord:
        """Make a place for a node that is to join, or the one that it had; ValueError where it cannot have that."""
        names, name = self.names, profile.name
        if node == len(names) and name not in names:
            self.add(profile)
        elif not (node < len(names) and names[node] == name and not self.records[node].hopeful):
            raise ValueError(f"node {name} cannot join as node {node} of {len(names)}")
        self.records[node].join(profile.speed, profile.trusted)
        return self.records[node]

    def live(self) -> Sequence[NodeRecord]:
        """The nodes that are not lost."""
        return [record for record in self.records if not record.lost]

    def healthy(self) -> Sequence[NodeRecord]:
        """The nodes that work may be given to."""
        return [record for record in self.records if record.healthy]

    def is_ready(self) -> bool:
        """Whether there are live nodes and all of them can train."""
        live = self.live()
        return bool(live) and all(record.ready for record in live)

    def hopeful(self) -> bool:
        """Whether some node is live or may be again."""
        return any(record.hopeful for record in self.records)

    def statuses(self, speeds: Floats, shard_sizes: Counts) -> tuple[NodeStatus, ...]:
        """A snapshot of every node, lost ones included; `speeds` float64 (m,) in images/s, `shard_sizes` int64 (m,)."""
        return tuple(
            NodeStatus(
                record.name,
                not record.lost,
                record.paused,
                copy(record.totals),
                float(speed),
                not isnan(record.speedometer.seconds_per_sample()),
                int(size) / self._samples,
                record.staleness,
                record.reason_lost,
                record.away,
                record.alone,
            )
            for record, speed, size in zip(self.records, speeds, shard_sizes, strict=True)
        )

    def states(self) -> tuple[NodeState, ...]:
        """What a checkpoint keeps of every node, departed ones last."""
        states = []
        for record in self.records:
            seconds = record.speedometer.seconds_per_sample()
            states.append(NodeState(record.name, copy(record.totals), None if isnan(seconds) else seconds))
        return (*states, *self.departed)

    def _restore(self, record: NodeRecord, state: NodeState) -> None:
        record.totals = copy(state.totals)
        if state.seconds_per_sample is not None:
            samples = MEASURED_BATCHES * self._batch_size
            record.speedometer.add(samples, samples * state.seconds_per_sample)
