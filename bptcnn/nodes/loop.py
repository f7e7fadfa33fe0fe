"""The node's loop: receive samples, refresh weights, train local steps, submit, report; over every transport."""

import queue
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bptcnn.inner.subnetwork import ImageArray, IndexArray, Subnetwork
from bptcnn.nodes.configuration import AgentConfiguration
from bptcnn.nodes.exchange import Diverged, Exchange
from bptcnn.nodes.throttle import Throttle
from bptcnn.outer import Message, NodeEvent, Pause, Paused, Release, Resume, Stop, Submitted, Work, over_stale


@dataclass
class _Iteration:
    """What one local iteration has done so far. The first step of a run, which warms up, is not timed."""

    samples: int = 0
    loss_sum: float = 0.0
    correct: int = 0
    compute_seconds: float = 0.0
    communication_seconds: float = 0.0
    timed_samples: int = 0
    timed_seconds: float = 0.0


class Loop:
    """One node at work. `inbox` holds the coordinator's messages in order, `report` sends one back."""

    def __init__(
        self,
        configuration: AgentConfiguration,
        subnetwork: Subnetwork,
        images: ImageArray,
        labels: IndexArray,
        exchange: Exchange,
        inbox: "queue.SimpleQueue[Message]",
        report: Callable[[NodeEvent], None],
    ) -> None:
        self._configuration = configuration
        self._subnetwork = subnetwork
        self._images, self._labels = images, labels
        self._exchange = exchange
        self._inbox = inbox
        self._report = report
        self._throttle = Throttle(
            configuration.speed * configuration.threads, time.monotonic, time.process_time, time.sleep
        )
        self._base = np.empty(subnetwork.network.size, np.float32)
        self._work: deque[Work] = deque()
        self._local_steps = 1
        self._pausing = self._waiting_for_release = self._stopping = False
        self._wait_seconds = 0.0
        self._steps = 0
        self.samples_trained = 0

    def run(self) -> None:
        """Work until the coordinator says Stop. Raises Diverged where the loss is no number."""
        while not self._stopping:
            self._take_messages()
            if self._stopping:
                return
            if self._pausing:
                self._pause()
            elif self._waiting_for_release or not self._work:
                begin = time.monotonic()
                self._handle(self._inbox.get())
                self._wait_seconds += time.monotonic() - begin
            else:
                self._iterate()

    # ---- messages ----------------------------------------------------------------------------------------------------

    def _take_messages(self) -> None:
        while not self._inbox.empty():
            self._handle(self._inbox.get())

    def _handle(self, message: Message) -> None:
        match message:
            case Work():
                self._work.append(message)
                self._local_steps = message.local_steps
            case Pause():
                self._pausing = True
            case Resume():
                self._pausing = False
            case Release():
                self._waiting_for_release = False
            case Stop():
                self._stopping = True

    def _pause(self) -> None:
        self._report(Paused(self._configuration.node, time.monotonic()))
        while self._pausing and not self._stopping:
            self._handle(self._inbox.get())

    # ---- training ----------------------------------------------------------------------------------------------------

    def _next_batch(self, epoch: int) -> npt.NDArray[np.int32] | None:
        """Take up to a batch of the epoch's samples off the head of the work, or None where it has no more."""
        parts: list[npt.NDArray[np.int32]] = []
        room = self._configuration.batch_size
        while room and self._work and self._work[0].epoch == epoch:
            head = self._work.popleft()
            parts.append(head.indices[:room])
            if len(head.indices) > room:
                self._work.appendleft(Work(epoch, head.indices[room:], head.learning_rate, head.local_steps))
            room -= len(parts[-1])
        return np.ascontiguousarray(np.concatenate(parts)) if parts else None

    def _iterate(self) -> None:
        """One local iteration: refresh, train, submit."""
        epoch, rate = self._work[0].epoch, self._work[0].learning_rate
        iteration = _Iteration()
        begin = time.monotonic()
        version = self._exchange.refresh(self._base)
        self._subnetwork.weights[:] = self._base
        iteration.communication_seconds = time.monotonic() - begin
        steps = 0
        while steps < self._local_steps:  # the newest message decides
            batch = self._next_batch(epoch)
            if batch is None:
                break
            self._step(batch, rate, iteration)
            steps += 1
            self._take_messages()
            if self._stopping:
                return
            if over_stale(version, self._exchange.updates(), self._configuration.staleness):
                break
        begin = time.monotonic()
        receipt = self._exchange.submit(self._base, self._subnetwork.weights, iteration.samples, iteration.correct)
        self._throttle.pay()
        iteration.communication_seconds += time.monotonic() - begin
        self._waiting_for_release = self._configuration.update == "sgwu"
        wait, self._wait_seconds = self._wait_seconds, 0.0
        self._report(
            Submitted(
                node=self._configuration.node,
                time=time.monotonic(),
                sequence=receipt.sequence,
                samples_committed=receipt.samples_committed,
                epoch=epoch,
                samples=iteration.samples,
                loss_sum=iteration.loss_sum,
                correct=iteration.correct,
                staleness=receipt.staleness,
                compute_seconds=iteration.compute_seconds,
                wait_seconds=wait,
                communication_seconds=iteration.communication_seconds,
                timed_samples=iteration.timed_samples,
                timed_seconds=iteration.timed_seconds + iteration.communication_seconds,
            )
        )

    def _step(self, batch: npt.NDArray[np.int32], rate: float, iteration: _Iteration) -> None:
        settings = self._configuration
        begin = time.monotonic()
        result = self._subnetwork.step(
            self._images, self._labels, batch, rate, settings.momentum, settings.weight_decay
        )
        self._throttle.pay()
        seconds = time.monotonic() - begin
        if not np.isfinite(result.loss):
            raise Diverged(f"the loss became {result.loss}: training diverged, try a smaller learning rate")
        iteration.samples += result.images
        iteration.loss_sum += result.loss * result.images
        iteration.correct += result.correct
        iteration.compute_seconds += seconds
        if self._steps:
            iteration.timed_samples += result.images
            iteration.timed_seconds += seconds
        self._steps += 1
        self.samples_trained += result.images
