"""What travels: messages between coordinator and nodes, events into the coordinator, actions out of it.

Times are seconds on the driver's clock, stamped when it receives a message; the coordinator has no clock of its own.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt

from bptcnn.untrusted import Between, Count, Length

# What a node may say of itself. Hosts are not trusted: what comes is built with these ranges before anything is made of
# it. All that is planned from numbers within them is finite, and positive where it has to be.
NodeIndex = Annotated[int, Between(0, 1 << 16)]  # far more nodes than slots
Bytes = Annotated[int, Between(0, 1 << 60)]
Moment = Annotated[float, Between(0.0, 1e12)]  # on a node's own clock: 30,000 years
Seconds = Annotated[float, Between(0.0, 1e9)]  # that something took: 30 years
# of a trial: its speed is above 0, and finite
TrialImages = Annotated[int, Between(1, 1 << 40)]
TrialSeconds = Annotated[float, Between(1e-6, 1e6)]
Losses = Annotated[float, Between(0.0, 1e18)]  # summed over images; relative to these see `servant`
LearningRate = Annotated[float, Between(0.0, 1e30)]
Reason = Annotated[str, Length(0, 1000)]  # a line for the user

Indices = npt.NDArray[np.int32]
Outcome = Literal["completed", "stopped", "failed"]

MOST_REFUSALS = 3  # in a row: what diverges again from good weights and without momentum will go on to


# ---- coordinator -> node ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """Samples to train, behind those that the node still has. Always in the order sent, across messages and epochs.

    A local iteration ends after `local_steps` batches, where the node's samples run out, or where the epoch changes;
    the node then submits. It never holds samples back to wait for more. The newest `local_steps` holds at once.
    """

    epoch: Count
    indices: Indices
    learning_rate: LearningRate
    local_steps: Count


@dataclass(frozen=True, slots=True)
class Pause:
    """Report Paused and commit nothing from then on until Resume.

    A node stops between two batches, at once if idle or waiting for a release, and goes on with its unfinished local
    iteration after Resume. For one behind a link its stub on the coordinator's side answers, once the node's optimizer
    state has come, or at once where none is to come: from then on it holds back every submission until Resume.
    """


@dataclass(frozen=True, slots=True)
class Resume:
    """Go on after a pause; a node that is not paused ignores it."""


@dataclass(frozen=True, slots=True)
class Release:
    """SGWU: the merge that the node's last submission waited for is done; refresh the weights and go on."""


@dataclass(frozen=True, slots=True)
class Trial:
    """Before the first Work: train throw-away weights for `seconds`, at most `steps` batches, and say Tried."""

    seconds: Seconds
    steps: Count


@dataclass(frozen=True, slots=True)
class Stop:
    """End the process; nothing more will be asked of it."""


Message = Work | Pause | Resume | Release | Trial | Stop


# ---- node -> coordinator ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ready:
    """The node has compiled and can train."""

    node: NodeIndex
    time: Moment


@dataclass(frozen=True, slots=True)
class Tried:
    """The node's Trial: it trained `images` in `seconds`, alone."""

    node: NodeIndex
    time: Moment
    images: Count
    seconds: Seconds


@dataclass(frozen=True, slots=True)
class Submitted:
    """One submission, committed (and, in AGWU, merged), or several in a row. Its samples are all of one epoch.

    `sequence` counts the node's submissions from 1: those since the report before are in this one. `samples_committed`
    counts samples over all of them, this report's included. `timed_samples` took `timed_seconds` of computing and
    communicating, waiting and the first step of a run left out: that is what speed is measured from. `staleness`, of
    the last one, is in updates. `transfer_seconds`: how long weights were under way for it, most of it while the node
    trained; `bytes_sent` and `bytes_received`: what that was, as the node sees it (0 without a link).
    """

    node: NodeIndex
    time: Moment
    sequence: Count
    samples_committed: Count
    epoch: Count
    samples: Count
    loss_sum: Losses
    correct: Count
    staleness: Count
    compute_seconds: Seconds
    wait_seconds: Seconds
    communication_seconds: Seconds
    timed_samples: Count
    timed_seconds: Seconds
    transfer_seconds: Seconds = 0.0
    bytes_sent: Bytes = 0
    bytes_received: Bytes = 0

    @property
    def quality(self) -> float:
        """Q_j: the accuracy on the submission's samples."""
        return self.correct / self.samples


@dataclass(frozen=True, slots=True)
class Refused:
    """A local iteration of `samples` diverged: nothing of it counts, the node trains them anew from good weights.

    Their order does not change: they are still the next that the node trains. After MOST_REFUSALS in a row it says
    Failed.
    """

    node: NodeIndex
    time: Moment
    samples: Count
    reason: Reason


@dataclass(frozen=True, slots=True)
class Paused:
    """The node commits nothing until Resume, and everything it committed is merged and reported.

    `wait_seconds`: what it waited for samples since its last submission, which the next one does not count again.
    """

    node: NodeIndex
    time: Moment
    wait_seconds: Seconds = 0.0


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Sign of life; `samples_trained` counts what this life of the node (one agent) has trained, committed or not.

    It starts at 0 with every agent, whichever way it came: at the run's start, by itself (a host), by joining under the
    name of a lost node. The coordinator adds what earlier lives had committed.
    """

    node: NodeIndex
    time: Moment
    samples_trained: Count


@dataclass(frozen=True, slots=True)
class Failed:
    """The node cannot go on; it will be killed."""

    node: NodeIndex
    time: Moment
    reason: Reason


NodeEvent = Ready | Tried | Submitted | Refused | Paused | Heartbeat | Failed


# ---- driver -> coordinator -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class NodeLost:
    """The node cannot commit any more: killed and reaped, or its generation refused. Only then do its samples move.

    `sequence`, `samples_committed` and `quality` are those of its last commit, read from shared memory after its death
    (0, 0, 0.0: none); in AGWU the driver has finished that merge. `samples_trained`: over all lives, what is known to
    have been trained beyond what heartbeats said, `samples_committed` at least. `may_return`: the driver may start it
    anew and then says NodeReturned, or NodeAbandoned once that is hopeless.
    """

    node: int
    time: float
    sequence: int
    samples_committed: int
    quality: float
    samples_trained: int
    reason: str
    may_return: bool = False


@dataclass(frozen=True, slots=True)
class NodeJoined:
    """A node is to join the run: it counts as lost until NodeReturned says that it is ready, or NodeAbandoned.

    `node` is the next index and `name` a new name, or both are those of a node that is lost for good: it goes on from
    what it had done. `speed`: by profile, in the unit of the other nodes' (images/s, or anything proportional to it).
    `trusted`: as in NodeProfile. ValueError for another index, or a name that is taken.
    """

    node: int
    time: float
    name: str
    speed: float
    trusted: bool = True


@dataclass(frozen=True, slots=True)
class NodeReturned:
    """A new agent of a lost node, or of one that joins, is ready, has the current weights, no samples, stands idle.

    What lies in shared memory goes on where its NodeLost left it: the next submission has `sequence` + 1, and its
    `samples_committed` starts from that one's. A heartbeat's `samples_trained` starts at 0. Nothing that the old agent
    said may come after this. Under SGWU its last commit may still wait for a MergeRound: the driver says NodeReturned
    after that merge only. ValueError if the node is not lost.
    """

    node: int
    time: float


@dataclass(frozen=True, slots=True)
class NodeAbandoned:
    """A lost node that might have returned will not. ValueError if it is not lost."""

    node: int
    time: float
    reason: str


@dataclass(frozen=True, slots=True)
class EpochRecorded:
    """Checkpoint and evaluation asked for by EpochEnd are done. `stop`: end the run here (target reached)."""

    time: float
    stop: bool


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passes: at least once a second, after the messages that have arrived; silent and stuck nodes show by it."""

    time: float


Event = NodeEvent | NodeLost | NodeJoined | NodeReturned | NodeAbandoned | EpochRecorded | Tick


# ---- coordinator -> driver -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Send:
    """Send the message to the node; messages to one node arrive in the order sent."""

    node: int
    message: Message


@dataclass(frozen=True, slots=True)
class Kill:
    """Kill and reap the node, or refuse its generation; then report NodeLost. Asked once per life of a node.

    `for_good`: it is not to be started again.
    """

    node: int
    reason: str
    for_good: bool = False


@dataclass(frozen=True, slots=True)
class MergeRound:
    """SGWU: merge each node's last committed submission with its scale, in this order, before any later action.

    A node in it may have died since it committed: its staged submission is kept until here.
    """

    scales: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class EpochMetrics:
    """Means over the `samples` of the epoch whose submissions were reported (all, unless a node died in between)."""

    samples: int
    loss: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class EpochEnd:
    """All samples of the epoch are trained and every live node is paused: checkpoint, evaluate, say EpochRecorded.

    No node may be live: the last one was lost and none has returned yet.
    """

    epoch: int
    metrics: EpochMetrics


@dataclass(frozen=True, slots=True)
class Finish:
    """The run is over and nothing more will be asked for."""

    outcome: Outcome
    reason: str


Action = Send | Kill | MergeRound | EpochEnd | Finish
