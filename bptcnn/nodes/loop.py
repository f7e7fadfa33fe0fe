"""The node's loop: receive samples, refresh weights, train local steps, submit, report; over every transport."""

import queue
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

import numpy as np
import numpy.typing as npt

from bptcnn.inner.subnetwork import ImageArray, IndexArray, Subnetwork
from bptcnn.nodes.configuration import AgentConfiguration
from bptcnn.nodes.divergence import Diverged, LossBound
from bptcnn.nodes.exchange import Exchange, Iteration, Receipt
from bptcnn.nodes.optimizer_state import OptimizerState
from bptcnn.nodes.station import Arrival, Inbox
from bptcnn.nodes.throttle import Throttle
from bptcnn.nodes.trial import run_trial
from bptcnn.outer import (
    MOST_REFUSALS,
    Message,
    NodeEvent,
    Pause,
    Paused,
    Refused,
    Release,
    Resume,
    Stop,
    Trial,
    Work,
    over_stale,
)


class Loop:
    """One node at work.

    `inbox` holds the coordinator's messages in order, and an `Arrival` where the exchange has news; `report` sends an
    event back. What the node does is measured by `clock`.
    """

    def __init__(
        self,
        configuration: AgentConfiguration,
        subnetwork: Subnetwork,
        images: ImageArray,
        labels: IndexArray,
        exchange: Exchange,
        inbox: Inbox,
        report: Callable[[NodeEvent], None],
        clock: Callable[[], float],
    ) -> None:
        self._configuration = configuration
        self._subnetwork = subnetwork
        self._images, self._labels = images, labels
        self._exchange = exchange
        self._inbox = inbox
        self._report = report
        self._clock = clock
        self._throttle = Throttle(configuration.cpu_limit, clock, time.process_time, self._rest)
        self._work: deque[Work] = deque()
        self._start = 0  # of the first Work: where the local iteration begins
        self._taken, self._offset = 0, 0  # so many whole ones, and samples of the next, are trained
        self._bound = LossBound(subnetwork.network.classes, configuration.usual_loss)
        subnetwork.next_step = configuration.first_step
        exchange.restore(subnetwork.velocity)
        self._refusals = 0  # in a row
        self._local_steps = 1
        self._pausing = self._waiting_for_release = self._stopping = False
        self._began = False
        self._wait_seconds = 0.0
        self._unreported_seconds = 0.0
        self._steps = 0
        self._receipt: Receipt | None = None  # of the last submission that is not reported yet...
        self._untold, self._untold_count = Iteration(0), 0  # ...what it and those before did, and their number
        self._told = 0.0  # when the last report was
        self.samples_trained = 0  # by this agent; see Heartbeat

    def run(self) -> None:
        """Work until the coordinator says Stop. Raises Diverged where nothing can be learned any more."""
        while not self._stopping:
            self._take_messages()
            if self._stopping:
                return
            if self._pausing:
                self._pause()
            elif self._waiting_for_release or not self._work:
                self._wait()
            else:
                self._try_to_iterate()

    # ---- messages ----------------------------------------------------------------------------------------------------

    def _rest(self, seconds: float) -> None:
        """Hear messages for so long; a pause ends it, what is not rested stays owed."""
        end = time.monotonic() + seconds
        while not (self._pausing or self._stopping) and (left := end - time.monotonic()) > 0.0:
            with suppress(queue.Empty):
                self._handle(self._inbox.get(timeout=left))

    def _take_messages(self) -> None:
        while not self._inbox.empty():
            self._handle(self._inbox.get())

    def _wait(self) -> None:
        """Wait for a message. Until the first samples come it is others that get ready: that is set-up, not waiting."""
        begin, began = self._clock(), self._began
        self._handle(self._inbox.get())
        if began:
            self._wait_seconds += self._clock() - begin

    def _handle(self, message: Message | Arrival) -> None:
        match message:
            case Work():
                self._began = True
                self._work.append(message)
                self._local_steps = message.local_steps
            case Pause():
                self._pausing = True
            case Resume():
                self._pausing = False
            case Release():
                self._waiting_for_release = False
            case Trial():
                about = self._configuration, self._subnetwork, self._images, self._labels
                self._report(run_trial(message, *about, self._clock))
            case Stop():
                self._stopping = True

    def _pause(self) -> None:
        """Hand the optimizer's state over and stand still until Resume."""
        self._tell_all()
        velocity = self._subnetwork.velocity if self._configuration.momentum else None
        self._exchange.keep(OptimizerState(self._subnetwork.next_step, self._bound.usual, velocity))
        self._report(Paused(self._configuration.node, time.monotonic(), self._wait_seconds))
        self._wait_seconds = 0.0
        while self._pausing and not self._stopping:
            self._handle(self._inbox.get())

    # ---- training ----------------------------------------------------------------------------------------------------

    def _next_batch(self, epoch: int) -> npt.NDArray[np.int32] | None:
        """Take up to a batch of the epoch's samples, or None where the work has no more."""
        parts: list[npt.NDArray[np.int32]] = []
        room = self._configuration.batch_size
        while room and self._taken < len(self._work) and self._work[self._taken].epoch == epoch:
            indices = self._work[self._taken].indices
            parts.append(indices[self._offset : self._offset + room])
            room -= len(parts[-1])
            self._offset += len(parts[-1])
            if self._offset == len(indices):
                self._taken, self._offset = self._taken + 1, 0
        if len(parts) > 1:
            return np.concatenate(parts)
        return parts[0] if parts else None

    def _drop_taken(self) -> None:
        """What the local iteration has taken is submitted."""
        for _ in range(self._taken):
            self._work.popleft()
        self._taken, self._start = 0, self._offset

    def _try_to_iterate(self) -> None:
        """One local iteration. What diverges in it is refused: it ends as if it had not begun."""
        iteration = Iteration(self._work[0].epoch)
        try:
            self._iterate(iteration)
        except Diverged as reason:
            self._refuse(iteration, reason)

    def _refuse(self, iteration: Iteration, reason: Diverged) -> None:
        """Have the iteration's samples trained anew, from the global weights and without momentum."""
        self._refusals += 1
        self._tell_all()
        self._report(Refused(self._configuration.node, time.monotonic(), iteration.samples, str(reason)))
        with suppress(OSError):  # the log's disk is full
            print(f"a submission of {iteration.samples} images is refused: {reason}", flush=True)
        self.samples_trained -= iteration.samples
        if self._refusals == MOST_REFUSALS:
            again = f"{reason}, {MOST_REFUSALS} times in a row"
            raise Diverged(f"{again}: training diverged, try a smaller learning rate")
        self._taken, self._offset = 0, self._start
        while self._exchange.overlapped and not self._stopping:
            self._exchange.settle(self._subnetwork.weights)
            if self._exchange.ready():
                break
            if self._pausing:
                self._pause()
            else:
                self._wait()
        self._exchange.forget()
        self._subnetwork.velocity[:] = 0.0

    def _iterate(self, iteration: Iteration) -> None:
        """Bring the weights up to date, train, submit. It grows while the last submission travels."""
        head = self._work[0]
        weights = self._subnetwork.weights
        begin = self._clock()
        self._exchange.begin(weights)
        self._count_communication(iteration, begin)
        steps = 0
        while True:
            batch = self._next_batch(head.epoch)
            if batch is not None:
                self._step(batch, head.learning_rate, iteration)
                steps += 1
                self._take_messages()
            elif self._taken < len(self._work) or self._exchange.ready():
                break  # the epoch is over, or there is nothing to train meanwhile
            else:
                self._wait()
            if self._pausing:  # what is in hand waits
                self._pause()
            if self._exchange.overlapped:
                begin = self._clock()
                self._exchange.settle(weights)
                self._count_communication(iteration, begin)
            if self._stopping:
                return
            # the newest message decides how long an iteration is
            if (steps >= self._local_steps or self._over_stale()) and self._exchange.ready():
                break
        iteration.wait_seconds, self._wait_seconds = self._wait_seconds, 0.0
        begin = self._clock()
        receipt = self._exchange.submit(weights, iteration)
        self._drop_taken()
        self._throttle.pay()
        seconds = self._clock() - begin
        self._refusals = 0
        self._waiting_for_release = self._configuration.update == "sgwu"
        if receipt is None:
            self._unreported_seconds = seconds
            return
        iteration.communication_seconds += seconds
        iteration.timed_seconds += seconds
        self._tell(receipt, iteration)

    def _over_stale(self) -> bool:
        bound = self._configuration.staleness
        return bound is not None and over_stale(0, self._exchange.updates_behind(), bound)

    def _tell(self, receipt: Receipt, iteration: Iteration) -> None:
        """Report a submission, if it is time to, with those before it that were not yet.

        A report costs the coordinator more than a small submission costs the node. At once where others wait for it,
        and where half of what was in hand is trained: with that little left a node is sent more.
        """
        if self._receipt is not None:
            iteration.include(self._untold)
        self._receipt, self._untold, self._untold_count = receipt, iteration, self._untold_count + 1
        in_hand = sum(len(work.indices) for work in self._work) - self._start
        over = not self._work or self._work[0].epoch != iteration.epoch
        due = time.monotonic() >= self._told + self._configuration.report_seconds
        if due or over or in_hand <= self._untold.samples or self._waiting_for_release:
            self._tell_all()

    def _tell_all(self) -> None:
        """Report what was not reported yet."""
        if self._receipt is not None:
            self._told = time.monotonic()
            self._report(self._receipt.report(self._configuration.node, self._told, self._untold, self._untold_count))
            self._receipt, self._untold_count = None, 0

    def _count_communication(self, iteration: Iteration, begin: float) -> None:
        """Count as communication what happened since `begin`, and what the last submission took once it was sent."""
        seconds = self._clock() - begin + self._unreported_seconds
        self._unreported_seconds = 0.0
        iteration.communication_seconds += seconds
        iteration.timed_seconds += seconds

    def _step(self, batch: npt.NDArray[np.int32], rate: float, iteration: Iteration) -> None:
        settings = self._configuration
        begin = self._clock()
        result = self._subnetwork.step(
            self._images, self._labels, batch, rate, settings.momentum, settings.weight_decay
        )
        self._throttle.pay()
        seconds = self._clock() - begin
        iteration.samples += result.images
        iteration.loss_sum += result.loss * result.images
        iteration.correct += result.correct
        iteration.compute_seconds += seconds
        if self._steps:
            iteration.timed_samples += result.images
            iteration.timed_seconds += seconds
        self._steps += 1
        self.samples_trained += result.images
        self._bound.require_usual(result.loss, result.images)
        self._bound.require_usual(iteration.loss_sum / iteration.samples, iteration.samples)
