"""The agent: a node's process, started as `python -m bptcnn.nodes.agent ARGUMENTS`.

    local:   DESCRIPTOR       of a file that it inherits, with its configuration
    remote:  CONTROL DATA     names of two sockets; the configuration comes on standard input

    station: how this node is reached                                 agent
      local:   standard input (a socket)            ──messages──> inbox ──> main thread: the loop
      remote:  control and frames through SSH       <──events──── main thread, heartbeat thread

Either way end of file on standard input means that the coordinator is gone: the process ends at once, whatever it was
doing. Where it is stopped (SIGSTOP) and so cannot notice, the system kills it with the process that started it: the
coordinator, or sshd's of this connection.
"""

import os
import queue
import signal
import sys
import threading
import time
import traceback
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from bptcnn.errors import UserError
from bptcnn.nodes.configuration import LONGEST_CONFIGURATION
from bptcnn.nodes.divergence import Diverged
from bptcnn.nodes.optimizer_state import drawing_node
from bptcnn.nodes.sockets import remove_names
from bptcnn.nodes.tied import tie
from bptcnn.outer import Failed, Heartbeat, Ready
from bptcnn.threads import start_thread

if TYPE_CHECKING:
    from bptcnn.nodes.loop import Loop
    from bptcnn.nodes.station import Inbox, Station


class Agent:
    """One node: its station, its threads, its loop."""

    def __init__(self, station: "Station") -> None:
        self._station = station
        self._inbox: Inbox = queue.SimpleQueue()
        self._loop: Loop | None = None

    def _beat(self, node: int, seconds: float) -> None:
        while True:
            trained = self._loop.samples_trained if self._loop else 0
            self._station.report(Heartbeat(node, time.monotonic(), trained))
            # at the same moments as others of this machine: the coordinator wakes up once for all
            time.sleep(seconds - time.monotonic() % seconds)

    def run(self) -> int:
        """Do all that the coordinator asks; return the exit code."""
        configuration = self._station.configuration
        self._station.start(self._inbox)
        beat = (configuration.node, configuration.heartbeat_seconds)
        start_thread(threading.Thread(target=self._beat, args=beat, daemon=True, name="heartbeat"))
        try:
            self._work()
        except (UserError, Diverged, MemoryError) as error:
            return self._fail(str(error) or type(error).__name__)
        except Exception as error:
            traceback.print_exc()
            return self._fail(f"{type(error).__name__}: {error}".splitlines()[0])
        self._station.finish()
        return 0

    def _fail(self, reason: str) -> int:
        self._station.report(Failed(self._station.configuration.node, time.monotonic(), reason))
        self._station.finish()
        return 1

    def _work(self) -> None:
        # these compile where this version has not run before: everything that keeps in touch is running by now
        from bptcnn.inner.executor import Executor
        from bptcnn.inner.subnetwork import Subnetwork
        from bptcnn.kernels.compilation import kernel_cache, mark_warm
        from bptcnn.nodes.loop import Loop

        mark_warm()
        if kernel_cache().trouble is not None:
            print(kernel_cache().trouble, file=sys.stderr, flush=True)
        configuration = self._station.configuration
        images, labels = self._station.samples()
        tuning, executor = self._station.tuning(), Executor(configuration.threads)
        about = configuration.network, configuration.batch_size, executor
        subnetwork = Subnetwork(
            *about,
            tuning=tuning,
            precision=configuration.precision,
            seed=configuration.seed,
            node=drawing_node(configuration.name),
        )
        exchange = self._station.exchange()
        clock = self._station.clock()
        self._loop = Loop(configuration, subnetwork, images, labels, exchange, self._inbox, self._station.report, clock)
        self._station.report(Ready(configuration.node, time.monotonic()))
        self._loop.run()


def main() -> None:
    """Serve one coordinator over standard input."""
    tie()  # on a host: to sshd's of this connection
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the coordinator decides when a run ends
    connection: Connection[Any, Any] = Connection(os.dup(sys.stdin.fileno()))
    names = sys.argv[1:] if len(sys.argv) > 2 else []  # of the control and the data socket
    code = 2
    try:
        code = Agent(_station(connection, names)).run()
    except UserError as error:
        remove_names(names)
        print(error, file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # threads are still blocked in the kernel


def _station(connection: "Connection[Any, Any]", names: list[str]) -> "Station":
    try:
        if names:
            first = connection.recv_bytes(LONGEST_CONFIGURATION)
        else:
            with open(int(sys.argv[1]), "rb") as handed:
                first = handed.read()
    except (EOFError, OSError, ValueError, IndexError):
        raise UserError("no configuration came: agents are started by bptcnn train") from None
    if names:
        from bptcnn.nodes.remote_station import RemoteStation

        return RemoteStation(connection, first, *names)
    from bptcnn.nodes.local_station import LocalStation

    return LocalStation(connection, first)


if __name__ == "__main__":
    main()
