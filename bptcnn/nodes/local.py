"""A node on this machine, as the driver sees it: a spawned agent, a socket to it, and its certain end.

Its configuration, which may be as large as a user's network makes it, is there before the agent is: in a memfd that the
agent inherits. Nobody waits until it is read. The socket carries small messages only.
"""

import contextlib
import os
import platform
import signal
import socket
import struct
import subprocess
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from bptcnn.available import OutOfMemory
from bptcnn.errors import UserError
from bptcnn.memory import SharedMemory
from bptcnn.nodes.codec import checked_event
from bptcnn.nodes.configuration import pickled
from bptcnn.nodes.ending import KILL_SECONDS, reaped, unended
from bptcnn.nodes.local_configuration import LocalConfiguration
from bptcnn.nodes.node import NodeGone
from bptcnn.nodes.node_log import NodeLog
from bptcnn.nodes.optimizer_memory import OptimizerMemory
from bptcnn.nodes.optimizer_state import OptimizerState
from bptcnn.nodes.tied import tied
from bptcnn.outer import Message, NodeEvent, Resume
from bptcnn.own_settings import without_settings
from bptcnn.untrusted import printable

DESCRIPTORS = 4  # of the coordinator's, for a node that runs: its ends of the socket and of the log's; its optimizer's
# memory, and that one's mapping
_IO_SECONDS = 2  # a message that takes longer comes from, or goes to, a stopped process
_END_SECONDS = 1.0  # between a connection's end and that of its process
_MOST_WORDS = 200  # characters of what it says
_UTF8 = {"PYTHONUTF8": "1", "PYTHONIOENCODING": "utf-8:backslashreplace"}  # its log, whatever the locale
_ONE_THREAD = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


class LocalNode:
    """A running agent. Its output goes to `log`; descriptors of shared memory are inherited.

    `optimizer` is the memory that the configuration names. It is killed with the thread that starts it, see `tied`.
    """

    def __init__(self, configuration: LocalConfiguration, log: Path, optimizer: OptimizerMemory) -> None:
        """Start the agent; raise UserError where the system does not let us."""
        self.name, self._optimizer = configuration.name, optimizer
        self._sending = self._cut_short = False
        self._unended = ""
        self._out_of_memory = OutOfMemory()
        content = np.frombuffer(pickled(configuration), np.uint8)
        try:
            ours, theirs = socket.socketpair()
            with ours, theirs, SharedMemory.create(content.size, "configuration") as handed:
                handed.view(np.uint8, content.shape)[:] = content
                limit = struct.pack("ll", _IO_SECONDS, 0)
                ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
                ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
                self._log = NodeLog(log, self.name)
                try:
                    self._process = _start_agent(configuration, theirs, handed.fd, self._log)
                except BaseException:
                    self._log.close()
                    raise
                self._connection: Connection[Message, NodeEvent] = Connection(ours.detach())
        except OSError as error:
            raise UserError(f"cannot start {self.name}: {error.strerror or error}") from None
        try:
            self._log.begin()
        except BaseException:
            self.kill()
            raise

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

        To a process that has ended nothing is sent: `receive` says so, after its last events. Behind a message of which
        a part was sent (it took no more, or Ctrl-C came) another one would be garbage: that is NodeGone, too.
        """
        if isinstance(message, Resume):
            self._optimizer.forget()
        if self._sending:
            raise NodeGone("it took a part of a message only")
        self._sending = True
        try:
            self._connection.send(message)
        except (BrokenPipeError, ConnectionResetError):
            pass
        except OSError:
            raise NodeGone(f"it took no message for {_IO_SECONDS} s") from None
        self._sending = False

    def receive(self) -> list[NodeEvent]:
        """Return the events that have come; raise NodeGone after the last one of a process that has ended."""
        events: list[NodeEvent] = []
        try:
            while not self._cut_short and self._connection.poll(0):
                events.append(checked_event(self._connection.recv()))
        except (EOFError, OSError):  # the end, or in the middle of an event: what follows would be garbage
            self._cut_short = True
        except Exception as error:  # Malformed, or whatever a damaged pickle raises
            raise NodeGone(printable(f"it reported what cannot be: {error}", 500)) from None
        if self._cut_short and not events:
            raise NodeGone(self._ending())
        return events

    def optimizer_state(self) -> OptimizerState | None:
        """Return what the node has handed over at this pause; its velocity is a view of the shared memory."""
        return self._optimizer.get()

    def _ending(self) -> str:
        try:
            code = self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            return "its connection broke"
        cause = self._out_of_memory.cause() if code == -signal.SIGKILL else None
        if cause is not None:
            return f"its process was killed by the system: out of memory ({cause}); use fewer nodes or a smaller batch"
        if code < 0:
            return f"its process was killed by signal {-code}"
        words = self._last_words() if code else ""
        return f"its process ended with code {code}{': ' if words else ''}{words}"

    def _last_words(self) -> str:
        """What the agent said last: the line that names an error."""
        lines = self._log.close().decode(errors="replace").split("\n")
        said = next((line for line in reversed(lines) if line.strip()), "")
        return printable(said, _MOST_WORDS).strip()

    def suspend(self) -> None:
        """Stop the process."""
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it go on."""
        self._process.send_signal(signal.SIGCONT)

    def kill(self, limit: float | None = None) -> str:
        """Kill the process and reap it; see `Node`."""
        if not self._unended:
            if self._process.poll() is None:
                self._process.kill()
            if not reaped(self._process, limit):
                self._unended = unended(self.pid)
        self._connection.close()
        self._log.close()
        return self._unended

    def end(self, deadline: float) -> str:
        """Let a process that was told to stop end by itself until `deadline` (monotonic), then kill and reap it."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(max(0.0, deadline - time.monotonic()))
        return self.kill(deadline + KILL_SECONDS)


def _start_agent(
    configuration: LocalConfiguration, control: socket.socket, handed: int, log: NodeLog
) -> "subprocess.Popen[bytes]":
    """Start an agent that reads its configuration from the descriptor `handed`."""
    root = Path(__file__).parent.parent.parent  # where this very package is imported from
    path = os.pathsep.join(filter(None, (str(root), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-P", "-m", "bptcnn.nodes.agent", str(handed)]  # -P: not what lies in the current folder
    return subprocess.Popen(
        tied(command),
        stdin=control.fileno(),
        stdout=log.fileno(),
        stderr=log.fileno(),
        pass_fds=(*configuration.descriptors, handed),
        env={**without_settings(os.environ), **dict.fromkeys(_ONE_THREAD, "1"), **_UTF8, "PYTHONPATH": path},
        start_new_session=True,  # a terminal's Ctrl-C is for the coordinator
    )
