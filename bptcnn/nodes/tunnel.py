"""A node's way to the global weight set through a network: submissions travel while the node trains on.

    loop ──submit──> [courier thread: SUBMIT ──frames──> coordinator's side merges ──frames──> MERGED] ──Arrival──> loop
                                                                                                 settle

Both sides hold `held`, the weights that this node was last told, bit for bit alike: an answer is the global weight set
or, on a wire that rounds, the difference to it, so that what one answer rounds off is in the next one. What the node
sends is rounded with error feedback.

    held ──progress of submissions that travel──> landing ──progress since──> the subnetwork's weights

When an answer comes, `held` moves, the submission that it answers is in it, and all progress made since is carried
over: the node goes on from the newest weights and has lost no step.
"""

import json
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np

from bptcnn.kernels import rounding
from bptcnn.nodes.divergence import require_finite
from bptcnn.nodes.encoding import ErrorFeedback, decode, decode_onto
from bptcnn.nodes.exchange import FloatArray, Iteration
from bptcnn.nodes.frames import Channel, Frame, FrameError, Kind
from bptcnn.nodes.optimizer_state import OptimizerState
from bptcnn.nodes.wire import Wire, payload_size
from bptcnn.outer import Update
from bptcnn.threads import start_thread

_ANSWERS = {Kind.WEIGHTS: Kind.WEIGHTS, Kind.SUBMIT: Kind.MERGED, Kind.STATE: Kind.STATE, Kind.KEEP: Kind.KEPT}


@dataclass(frozen=True)
class _Job:
    kind: Kind
    meta: dict[str, float | None]
    payload: np.ndarray
    begun: float


@dataclass(frozen=True)
class _Answer:
    frame: Frame
    transfer_seconds: float


class TunnelExchange:
    """Over a channel to the coordinator's side; `notify` is called when an answer has come, `lost` when none will.

    `hands_over`: states are sent. `restores`: there is a velocity to start with.
    """

    overlapped = True

    def __init__(
        self,
        channel: Channel,
        size: int,
        wire: Wire,
        update: Update,
        notify: Callable[[], None],
        lost: Callable[[Exception], None],
        hands_over: bool = False,
        restores: bool = False,
    ) -> None:
        self._channel, self._wire, self._update = channel, wire, update
        self._notify, self._lost = notify, lost
        self._hands_over, self._restores = hands_over, restores
        self._feedback = ErrorFeedback(wire, size)
        self._held = np.zeros(size, np.float32)
        self._progress = np.zeros(size, np.float32)
        self._landings: deque[FloatArray] = deque()
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[_Answer] = queue.SimpleQueue()
        self._version = 0
        self._forgotten = False
        self._transfer_seconds = 0.0  # not reported yet
        self.updates = 0  # of the global weight set, as last heard
        self._courier = threading.Thread(target=self._carry, daemon=True, name="courier")
        start_thread(self._courier)
        self._load()

    def begin(self, weights: FloatArray) -> None:
        """Under SGWU, or after `forget`, fetch the global weight set; else go on from what has arrived."""
        if self._forgotten or self._update == "sgwu":
            self._load()
            self._forgotten = False
        self.settle(weights)
        if not self._landings:
            weights[:] = self._held

    def settle(self, weights: FloatArray) -> None:
        """Work in the answers that have come: `weights` keep the progress that no answer contains yet."""
        while not self._answers.empty():
            self._take(self._answers.get())
            landing = self._landings.popleft()
            if self._update == "sgwu":  # the round is not merged yet
                continue
            rounding.carry_over(self._held, landing, weights)
            for later in self._landings:
                later += landing  # which is what was added to the weights

    def ready(self) -> bool:
        """Tell whether nothing travels."""
        return not self._landings

    def updates_behind(self) -> int:
        """Return the updates since the weights that were last told, as far as known."""
        return max(0, self.updates - self._version)

    def submit(self, weights: FloatArray, iteration: Iteration) -> None:
        """Send what `weights` have learned since the last submission; the coordinator's side reports it."""
        origin = self._landings[-1] if self._landings else self._held
        largest = rounding.subtract(weights, origin, self._progress)
        require_finite(self._progress, largest)
        payload = self._feedback.encode(self._progress)
        self._landings.append(weights.copy())
        meta: dict[str, float | None] = {
            **asdict(iteration),
            "version": self._version,
            "transfer_seconds": self._transfer_seconds,
        }
        self._transfer_seconds = 0.0
        self._jobs.put(_Job(Kind.SUBMIT, meta, payload, time.monotonic()))

    def forget(self) -> None:
        """What has arrived may be as old as the last submission: have the weight set fetched."""
        self._forgotten = True

    def restore(self, velocity: FloatArray) -> None:
        """Fetch it, where there is one."""
        if not self._restores:
            return
        self._jobs.put(_Job(Kind.STATE, {}, np.empty(0, np.uint8), time.monotonic()))
        while (frame := self._answers.get().frame).kind is not Kind.STATE:
            raise FrameError(f"{frame.kind.name} instead of a velocity")
        decode("float32", frame.payload, velocity)

    def keep(self, state: OptimizerState) -> None:
        """Send it behind all that travels, unless the other side has had enough of it."""
        if not self._hands_over:
            return
        # as it is: what has diverged is no reason to fail
        payload = np.empty(0, np.uint8) if state.velocity is None else state.velocity.view(np.uint8).copy()
        meta = {"step": state.step, "usual_loss": state.usual_loss}
        self._jobs.put(_Job(Kind.KEEP, meta, payload, time.monotonic()))

    def close(self) -> None:
        """End the courier; the channel is the owner's."""
        self._jobs.put(None)
        self._courier.join()

    def _load(self) -> None:
        """Fetch the global weight set and wait for it; nothing may travel beside it but what SGWU has committed."""
        self._jobs.put(_Job(Kind.WEIGHTS, {}, np.empty(0, np.uint8), time.monotonic()))
        while True:
            answer = self._answers.get()
            self._take(answer)
            if answer.frame.kind is Kind.WEIGHTS:
                return
            self._landings.popleft()

    def _take(self, answer: _Answer) -> None:
        frame = answer.frame
        self._transfer_seconds += answer.transfer_seconds
        if not frame.payload.size:
            return
        if frame.meta.get("full"):
            decode("float32", frame.payload, self._held)
        else:
            decode_onto(self._wire, frame.payload, self._held)
        self._version = int(frame.meta["version"])
        self.updates = max(self.updates, self._version)

    def _carry(self) -> None:
        largest = max(payload_size("float32", self._held.size), payload_size(self._wire, self._held.size))
        try:
            while (job := self._jobs.get()) is not None:
                self._channel.send(job.kind, job.meta, job.payload)
                frame = self._channel.receive({_ANSWERS[job.kind]: largest, Kind.ERROR: 0})
                if frame.kind is Kind.ERROR:
                    raise FrameError(json.dumps(frame.meta))
                if frame.kind is Kind.KEPT:
                    self._hands_over = frame.meta.get("again") is True
                    continue
                self._answers.put(_Answer(frame, time.monotonic() - job.begun))
                self._notify()
        except (OSError, EOFError, FrameError, ValueError) as error:
            self._lost(error)
