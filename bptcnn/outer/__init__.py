"""The outer layer as pure algorithms: IDPA, SGWU, AGWU, the sample ledger, the coordinator, its simulator.

Imports numpy, numexpr and bptcnn.errors only. Never knows clocks, sockets, processes or threads: times come in events.
"""

from bptcnn.outer.agwu import gamma, over_stale, submission_scale
from bptcnn.outer.coordinator import Coordinator, Phase
from bptcnn.outer.ledger import Ledger
from bptcnn.outer.messages import (
    Action,
    EpochEnd,
    EpochMetrics,
    EpochRecorded,
    Event,
    Failed,
    Finish,
    Heartbeat,
    Kill,
    MergeRound,
    Message,
    NodeAbandoned,
    NodeEvent,
    NodeLost,
    NodeReturned,
    Pause,
    Paused,
    Ready,
    Release,
    Resume,
    Send,
    Stop,
    Submitted,
    Tick,
    Work,
)
from bptcnn.outer.node_record import NodeStatus, NodeTotals
from bptcnn.outer.partition import (
    allocate,
    default_rounds,
    estimate_speeds,
    largest_remainder,
    next_round,
    rebalance,
    static,
    uniform,
)
from bptcnn.outer.settings import NodeProfile, Partition, RunSettings, Update
from bptcnn.outer.sgwu import average, merge_scales, waiting
from bptcnn.outer.simulated_node import SimulatedNode
from bptcnn.outer.simulator import Conditions, SimulatedRun, simulate
from bptcnn.outer.state import CoordinatorState, Counters, NodeState

__all__ = [
    "Action",
    "Conditions",
    "Coordinator",
    "CoordinatorState",
    "Counters",
    "EpochEnd",
    "EpochMetrics",
    "EpochRecorded",
    "Event",
    "Failed",
    "Finish",
    "Heartbeat",
    "Kill",
    "Ledger",
    "MergeRound",
    "Message",
    "NodeAbandoned",
    "NodeEvent",
    "NodeLost",
    "NodeProfile",
    "NodeReturned",
    "NodeState",
    "NodeStatus",
    "NodeTotals",
    "Partition",
    "Pause",
    "Paused",
    "Phase",
    "Ready",
    "Release",
    "Resume",
    "RunSettings",
    "Send",
    "SimulatedNode",
    "SimulatedRun",
    "Stop",
    "Submitted",
    "Tick",
    "Update",
    "Work",
    "allocate",
    "average",
    "default_rounds",
    "estimate_speeds",
    "gamma",
    "largest_remainder",
    "merge_scales",
    "next_round",
    "over_stale",
    "rebalance",
    "simulate",
    "static",
    "submission_scale",
    "uniform",
    "waiting",
]
