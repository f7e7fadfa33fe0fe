"""The coordinator's side of a remote node's data: it commits the node's submissions and sends weights and samples.

What a host sends is checked before it counts: a submission must be finite, of the samples that the node was sent, in
their order, so that a host that lies or is broken is refused and harms nobody else.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Annotated

import numpy as np
import numpy.typing as npt

from bptcnn.data import Samples
from bptcnn.kernels import rounding
from bptcnn.nodes.claims import Claims, Impossible, Shipments
from bptcnn.nodes.claims import Submission as _Submission
from bptcnn.nodes.divergence import require_step
from bptcnn.nodes.encoding import decode, decode_onto, encode
from bptcnn.nodes.exchange import Committer, Iteration
from bptcnn.nodes.frames import Channel, Frame, Kind
from bptcnn.nodes.gate import Gate
from bptcnn.nodes.optimizer_state import LAST_STEP, OptimizerState
from bptcnn.nodes.wire import Wire, payload_size
from bptcnn.outer import MOST_REFUSALS, Submitted, Update
from bptcnn.untrusted import LARGEST_FLOAT, Between, Malformed, build

_CHUNK = 1 << 20  # bytes of samples in a frame: a fraction of a second on a slow link
_MOST_REQUESTS = 2 * (1 + MOST_REFUSALS)  # for the weights without a submission: at the start, and after each refusal


@dataclass(frozen=True)
class _Kept:
    """The head of a KEEP frame."""

    step: Annotated[int, Between(0, LAST_STEP)]
    usual_loss: Annotated[float, Between(0.0, LARGEST_FLOAT)] | None


class Servant:
    """Serves one node's channel until it ends; `report` takes what was committed, in order.

    `keep` takes a state that the node hands over, of up to `velocity_size` elements, and returns whether it shall send
    the next one; without, it may send none. `velocity` is what the node starts with.
    """

    def __init__(
        self,
        node: int,
        committer: Committer,
        update: Update,
        wire: Wire,
        parameters: int,
        samples: Samples,
        report: Callable[[Submitted], None],
        keep: Callable[[OptimizerState], bool] | None = None,
        velocity_size: int = 0,
        velocity: npt.NDArray[np.float32] | None = None,
    ) -> None:
        self.gate = Gate()
        self.shipments = Shipments()
        self._node, self._committer, self._update, self._wire = node, committer, update, wire
        self._samples, self._report = samples, report
        self._keep, self._velocity_size, self._velocity = keep, velocity_size, velocity
        self._held: npt.NDArray[np.float32] | None = None  # the weights that the node holds, bit for bit
        self._weights = np.empty(parameters, np.float32)
        self._scratch = np.empty(parameters, np.float32)
        self._version = -1  # of the weights that the node has been sent: none yet
        self._claims = Claims(time.monotonic())
        self._requests = 0  # for the weights, since the last submission
        self._sent = self._received = 0  # bytes that were reported

    def serve(self, channel: Channel) -> None:
        """Answer requests until the node is gone (EOFError, OSError, FrameError), refused, or shut out."""
        limits = {
            Kind.WEIGHTS: 0,
            Kind.SAMPLES: 0,
            Kind.SUBMIT: payload_size(self._wire, self._weights.size),
            Kind.STATE: 0,
        }
        if self._keep is not None:
            limits[Kind.KEEP] = payload_size("float32", self._velocity_size)
        while True:
            frame = channel.receive(limits)
            match frame.kind:
                case Kind.SAMPLES:
                    limits.pop(Kind.SAMPLES)  # once: they are many
                    self._send_samples(channel)
                case Kind.WEIGHTS:
                    self._requests += 1
                    if self._requests > _MOST_REQUESTS:
                        raise Impossible(f"it asked for the weights {self._requests} times and submitted nothing")
                    self._version = self._committer.refresh(self._weights)
                    self._send_weights(channel, Kind.WEIGHTS)
                case Kind.STATE:
                    self._send_velocity(channel)
                case Kind.KEEP:
                    self._take_state(channel, frame)
                case Kind.SUBMIT:
                    self._requests = 0
                    self._commit(channel, frame)
                    if self._update == "sgwu":  # the weights come when the round is merged and the node asks
                        channel.send(Kind.MERGED)
                    else:
                        self._send_weights(channel, Kind.MERGED)

    def _commit(self, channel: Channel, frame: Frame) -> None:
        try:
            submission = build(_Submission, frame.meta)
        except Malformed as error:
            raise Impossible(f"it sent no submission: {error}") from None
        self._claims.require_possible(submission, time.monotonic())
        if submission.version > self._version:
            raise Impossible(f"it trained from version {submission.version}, which it was not sent")
        with self.gate.passing():
            if self._committer.pending():
                raise Impossible("it submitted again before its round was merged")
            self.shipments.take(submission.epoch, submission.samples)
            largest = decode(self._wire, frame.payload, self._committer.delta)
            require_step(self._committer.delta, self._weights, largest)
            about = submission.version, submission.samples, submission.correct
            receipt = self._committer.commit(*about, largest, self._weights)
            if receipt.version is not None:
                self._version = receipt.version
            sent, received = channel.bytes_sent, channel.bytes_received
            iteration = Iteration(**{field.name: getattr(submission, field.name) for field in fields(Iteration)})
            report = replace(
                receipt.report(self._node, time.monotonic(), iteration),
                transfer_seconds=submission.transfer_seconds,
                bytes_sent=received - self._received,  # as the node sees it
                bytes_received=sent - self._sent,
            )
            self._sent, self._received = sent, received
            self._report(report)

    def _send_weights(self, channel: Channel, kind: Kind) -> None:
        """Send the difference to what the node holds; the whole set at first, and where that is as short.

        A sum of differences is rounded: a node that starts anew would hold other bits.
        """
        if self._held is None or self._wire == "float32":
            self._held = self._weights if self._wire == "float32" else self._weights.copy()
            channel.send(kind, {"version": self._version, "full": True}, encode("float32", self._weights))
            return
        rounding.subtract(self._weights, self._held, self._scratch)
        payload = encode(self._wire, self._scratch)
        decode_onto(self._wire, payload, self._held)
        channel.send(kind, {"version": self._version, "full": False}, payload)

    def _send_velocity(self, channel: Channel) -> None:
        if self._velocity is None:
            raise Impossible("it asked for a velocity, or once more")
        channel.send(Kind.STATE, {}, encode("float32", self._velocity))
        self._velocity = None

    def _take_state(self, channel: Channel, frame: Frame) -> None:
        """Take the node's optimizer state; what is no number would be refused before it counts, so it is left out."""
        assert self._keep is not None
        try:
            head = build(_Kept, frame.meta)
        except ValueError as error:
            raise Impossible(f"it handed no state over: {error}") from None
        if frame.payload.size not in (0, payload_size("float32", self._velocity_size)):
            raise Impossible(f"it handed {frame.payload.size} bytes of velocity over")
        velocity = frame.payload.view(np.float32)
        known = velocity.size and np.isfinite(velocity).all()
        again = self._keep(OptimizerState(head.step, head.usual_loss, velocity if known else None))
        channel.send(Kind.KEPT, {"again": again})

    def _send_samples(self, channel: Channel) -> None:
        for array in (self._samples.images, self._samples.labels):
            content = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            for begin in range(0, content.size, _CHUNK):
                channel.send(Kind.CHUNK, {}, content[begin : begin + _CHUNK])
        self._sent = channel.bytes_sent  # what is reported are weights
