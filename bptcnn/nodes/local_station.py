"""An agent on the coordinator's machine: a socket as standard input, shared memory by inherited descriptors."""

import contextlib
import os
import pickle
import threading
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from bptcnn.errors import UserError
from bptcnn.files import kernel_text
from bptcnn.inner.tuning import Tuning
from bptcnn.memory import RunTime, SharedMemory, WeightBuffer
from bptcnn.nodes.exchange import SharedExchange
from bptcnn.nodes.local_configuration import LocalConfiguration
from bptcnn.nodes.optimizer_memory import OptimizerMemory
from bptcnn.nodes.station import ORPHANED, Images, Inbox, Labels
from bptcnn.outer import NodeEvent
from bptcnn.threads import start_thread

# Where memory runs out, the system kills by size, and by this number, in thousandths of what there is. A node that is
# lost is told of, and its images are trained again; the coordinator is the run.
_SCORE = Path("/proc/self/oom_score_adj")
_SOONER, _MOST_SCORE = 100, 1000


class LocalStation:
    """Events and messages over the socket, everything else in shared memory."""

    def __init__(self, connection: "Connection[NodeEvent, Any]", first: bytes) -> None:
        self._connection = connection
        with contextlib.suppress(OSError, ValueError):
            score = int(kernel_text(_SCORE))
            _SCORE.write_text(str(min(_MOST_SCORE, score + _SOONER)), encoding="utf-8")
        try:
            self.configuration: LocalConfiguration = pickle.loads(first)
        except Exception as error:  # whatever the user's own classes do
            traceback.print_exc()
            said = " ".join(f"{type(error).__name__}: {error}".split())
            raise UserError(f"its network cannot be unpickled: {said}") from None
        if self.configuration.cores:
            with contextlib.suppress(OSError):  # they were taken from us since: the system places us
                os.sched_setaffinity(0, self.configuration.cores)
        self._sending = threading.Lock()
        self._mapped: list[SharedMemory] = []

    def start(self, inbox: Inbox) -> None:
        """Start the receiver thread."""
        start_thread(threading.Thread(target=self._receive, args=(inbox,), daemon=True, name="receiver"))

    def _receive(self, inbox: Inbox) -> None:
        while True:
            try:
                inbox.put(self._connection.recv())
            except (EOFError, OSError):
                os._exit(ORPHANED)

    def report(self, event: NodeEvent) -> None:
        """Send the event."""
        try:
            with self._sending:
                self._connection.send(event)
        except OSError:
            os._exit(ORPHANED)

    def clock(self) -> Callable[[], float]:
        """The run's: it stands still while all do."""
        return RunTime.attach(self.configuration.clock_fd).now

    def tuning(self) -> Tuning:
        """The one that came with the configuration."""
        return self.configuration.tuning

    def samples(self) -> tuple[Images, Labels]:
        """Map the samples."""
        images, images_memory = self.configuration.images.attach()
        labels, labels_memory = self.configuration.labels.attach()
        self._mapped += [images_memory, labels_memory]
        return images, labels

    def exchange(self) -> SharedExchange:
        """Map the weight buffer, and the memory for the optimizer state."""
        configuration = self.configuration
        optimizer = OptimizerMemory.attach(configuration.optimizer_fd, configuration.velocity_size)
        buffer = WeightBuffer.attach(configuration.weights_fd, configuration.network.size, configuration.nodes)
        return SharedExchange(buffer, configuration.node, configuration.update, optimizer)

    def finish(self) -> None:
        """What was sent is in the socket."""
