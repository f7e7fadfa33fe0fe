"""A node on this machine, as the driver sees it: a spawned agent, a socket to it, and its certain end."""

import contextlib
import os
import platform
import socket
import struct
import subprocess
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path

import cloudpickle

from bptcnn.errors import UserError
from bptcnn.nodes.local_configuration import LocalConfiguration
from bptcnn.nodes.node import NodeGone
from bptcnn.nodes.tied import tied
from bptcnn.outer import Message, NodeEvent

_IO_SECONDS = 2  # a message that takes longer comes from, or goes to, a stopped process
_END_SECONDS = 1.0  # between a connection's end and that of its process
_ONE_THREAD = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


class LocalNode:
    """A running agent. Its output goes to `log`; descriptors of shared memory are inherited.

    It is killed with the thread that starts it, see `tied`.
    """

    def __init__(self, configuration: LocalConfiguration, log: Path) -> None:
        """Start the agent; raise UserError where the system does not let us."""
        self.name = configuration.name
        try:
            ours, theirs = socket.socketpair()
            with ours, theirs:
                limit = struct.pack("ll", _IO_SECONDS, 0)
                ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
                ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
                self._process = _start_agent(configuration, theirs, log)
                self._connection: Connection[Message, NodeEvent] = Connection(ours.detach())
        except OSError as error:
            raise UserError(f"cannot start {self.name}: {error.strerror or error}") from None
        with contextlib.suppress(OSError):  # it ended already: the first `receive` says so
            self._connection.send_bytes(cloudpickle.dumps(configuration))

    @property
    def pid(self) -> int:
        """Process id."""
        return int(self._process.pid)

    @property
    def host(self) -> str:
        """This machine's name."""
        return platform.node()

    def fileno(self) -> int:
        """Descriptor that is readable when an event has come or the process has ended."""
        return self._connection.fileno()

    def send(self, message: Message) -> None:
        """Send a message; raise NodeGone where the process does not take it.

        To a process that has ended nothing is sent: `receive` says so, after its last events.
        """
        try:
            self._connection.send(message)
        except (BrokenPipeError, ConnectionResetError):
            return
        except OSError:
            raise NodeGone(f"it took no message for {_IO_SECONDS} s") from None

    def receive(self) -> list[NodeEvent]:
        """Return the events that have come; raise NodeGone after the last one of a process that has ended."""
        events: list[NodeEvent] = []
        try:
            while self._connection.poll(0):
                events.append(self._connection.recv())
        except (EOFError, OSError):
            if not events:
                raise NodeGone(self._ending()) from None
        return events

    def _ending(self) -> str:
        try:
            code = self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            return "its connection broke"
        return f"its process was killed by signal {-code}" if code < 0 else f"its process ended with code {code}"

    def kill(self) -> None:
        """Kill the process and reap it: when this returns, it cannot merge any more. Safe to call again."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._connection.close()

    def end(self, deadline: float) -> None:
        """Let a process that was told to stop end by itself until `deadline` (monotonic), then kill and reap it."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(max(0.0, deadline - time.monotonic()))
        self.kill()


def _start_agent(configuration: LocalConfiguration, control: socket.socket, log: Path) -> "subprocess.Popen[bytes]":
    root = Path(__file__).parent.parent.parent  # where this very package is imported from
    path = os.pathsep.join(filter(None, (str(root), os.environ.get("PYTHONPATH"))))
    with log.open("ab") as output:
        return subprocess.Popen(
            tied([sys.executable, "-P", "-m", "bptcnn.nodes.agent"]),  # -P: not what lies in the current folder
            stdin=control.fileno(),
            stdout=output,
            stderr=output,
            pass_fds=(configuration.weights_fd, configuration.images.fd, configuration.labels.fd),
            env={**os.environ, **dict.fromkeys(_ONE_THREAD, "1"), "PYTHONPATH": path},
            start_new_session=True,  # a terminal's Ctrl-C is for the coordinator
        )
