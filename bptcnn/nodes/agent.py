"""The agent: a node's process, started as `python -m bptcnn.nodes.agent` with its configuration on standard input.

    standard input (a socket) ──configuration, messages──> receiver thread ──inbox──> main thread: the loop
                              <──Ready, Submitted, ...──── main thread, heartbeat thread

End of file on the socket means that the coordinator is gone: the process ends at once, whatever it was doing.
"""

import os
import pickle
import queue
import signal
import sys
import threading
import time
import traceback
from multiprocessing.connection import Connection

from bptcnn.errors import UserError
from bptcnn.inner.executor import Executor
from bptcnn.inner.subnetwork import Subnetwork
from bptcnn.memory import WeightBuffer
from bptcnn.nodes.configuration import AgentConfiguration
from bptcnn.nodes.exchange import Diverged, SharedExchange
from bptcnn.nodes.loop import Loop
from bptcnn.outer import Failed, Heartbeat, Message, NodeEvent, Ready

_ORPHANED = 3  # exit code: the coordinator is gone


class Agent:
    """One node: its connection, its threads, its loop."""

    def __init__(self, connection: "Connection[NodeEvent, Message]") -> None:
        self._connection = connection
        self._sending = threading.Lock()
        self._inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._loop: Loop | None = None

    def _report(self, event: NodeEvent) -> None:
        try:
            with self._sending:
                self._connection.send(event)
        except OSError:
            os._exit(_ORPHANED)

    def _receive(self) -> None:
        while True:
            try:
                self._inbox.put(self._connection.recv())
            except (EOFError, OSError):
                os._exit(_ORPHANED)

    def _beat(self, node: int, seconds: float) -> None:
        while True:
            trained = self._loop.samples_trained if self._loop else 0
            self._report(Heartbeat(node, time.monotonic(), trained))
            time.sleep(seconds)

    def run(self) -> int:
        """Do all that the coordinator asks; return the exit code."""
        configuration: AgentConfiguration = pickle.loads(self._connection.recv_bytes())
        threading.Thread(target=self._receive, daemon=True, name="receiver").start()
        beat = (configuration.node, configuration.heartbeat_seconds)
        threading.Thread(target=self._beat, args=beat, daemon=True, name="heartbeat").start()
        try:
            self._work(configuration)
        except (UserError, Diverged, MemoryError) as error:
            self._report(Failed(configuration.node, time.monotonic(), str(error) or type(error).__name__))
            return 1
        except Exception as error:
            traceback.print_exc()
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            self._report(Failed(configuration.node, time.monotonic(), reason))
            return 1
        return 0

    def _work(self, configuration: AgentConfiguration) -> None:
        images, self._images = configuration.images.attach()
        labels, self._labels = configuration.labels.attach()
        network = configuration.network
        buffer = WeightBuffer.attach(configuration.weights_fd, network.size, configuration.nodes)
        subnetwork = Subnetwork(network, configuration.batch_size, Executor(configuration.threads))
        exchange = SharedExchange(buffer, configuration.node, configuration.update)
        self._loop = Loop(configuration, subnetwork, images, labels, exchange, self._inbox, self._report)
        self._report(Ready(configuration.node, time.monotonic()))
        self._loop.run()


def main() -> None:
    """Serve one coordinator over standard input."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the coordinator decides when a run ends
    connection: Connection[NodeEvent, Message] = Connection(os.dup(sys.stdin.fileno()))
    code = Agent(connection).run()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # receiver and heartbeat threads are still blocked in the kernel


if __name__ == "__main__":
    main()
