"""A node on another machine, as the driver sees it: an SSH connection, an agent at its end, and its certain end.

    driver ── send ──> outbox ──────────> Desk.collect (control) ──┐
           <─receive── events <── Desk.report ────────────────────┤── ssh ──> agent
                              <── Servant (data): Submitted ───────┘
    ssh's own end ──────────> gone

A pause is answered here, by `HandOver`: the gate holds back what the node submits until it is resumed.

What the agent sends is not trusted. It is decoded, its amount is bounded, and whatever is wrong with it makes the node
one that has Failed, with a line that says why; the first such line counts.
"""

import contextlib
import errno
import os
import secrets
import shutil
import socket
import struct
import subprocess
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bptcnn.data import Samples
from bptcnn.errors import UserError
from bptcnn.memory import WeightBuffer
from bptcnn.nodes.allowance import Allowance
from bptcnn.nodes.bootstrap import Bootstrap, encode_bootstrap
from bptcnn.nodes.claims import Impossible
from bptcnn.nodes.configuration import HostConfiguration
from bptcnn.nodes.control import ControlServer
from bptcnn.nodes.desk import NodeDesk
from bptcnn.nodes.divergence import Diverged
from bptcnn.nodes.doors import Turn, door_to, pauses
from bptcnn.nodes.ending import KILL_SECONDS, reaped, unended
from bptcnn.nodes.exchange import Committer
from bptcnn.nodes.frames import Channel, FrameError
from bptcnn.nodes.gate import Shut
from bptcnn.nodes.hand_over import HandOver
from bptcnn.nodes.hosts import Host
from bptcnn.nodes.node import NodeGone
from bptcnn.nodes.node_log import NodeLog
from bptcnn.nodes.optimizer_state import OptimizerState
from bptcnn.nodes.servant import Servant
from bptcnn.nodes.sockets import LocalSockets, remote_names, wait_for_socket
from bptcnn.nodes.ssh import explain, forward_command, resolve, ssh_command, ssh_environment
from bptcnn.nodes.ssh_words import turned_away
from bptcnn.nodes.tied import tied
from bptcnn.outer import Failed, Heartbeat, Message, NodeEvent, Pause, Paused, Ready, Resume, Work
from bptcnn.threads import start_thread
from bptcnn.untrusted import Malformed, printable
from bptcnn.version import VERSION

_AGENT = ("-P", "-m", "bptcnn.nodes.agent")  # -P: not what happens to lie in the host's current folder
# of the coordinator's, for a host: bell, ssh's input and output, two sockets that listen, four connections of the
# agent's (three for control), and one of it while it is being made (before it comes: the pipes that ssh starts by)
DESCRIPTORS = 10
_SIGN_SECONDS = 0.5  # between signs of life made from traffic
_REASON_SECONDS = 1.0  # what ssh may take to end, and so to say why, after a connection broke
_SLOWER = 50.0  # than its link was before the run a frame may come: others use the link
_BURST_EVENTS, _EVENTS_PER_SECOND = 2000, 200  # that an agent may report: 1 or 2 a second, and 1 an epoch
_SSH = 1  # which of the threads keeps it connected, and waits for ssh: the last one to start


class RemoteNode:
    """One agent on a host, from the start of its SSH connection; a new agent is a new object with a new key."""

    def __init__(
        self,
        host: Host,
        configuration: HostConfiguration,
        buffer: WeightBuffer,
        samples: Samples,
        log: Path,
        options: Sequence[str] = (),
        velocity: npt.NDArray[np.float32] | None = None,
        bandwidth: float | None = None,
    ) -> None:
        """Start to connect, with further `options` of ssh. `velocity` is what the node starts with, `bandwidth` is in
        bytes/s (None: unknown).

        Raise UserError where there is no ssh, the log cannot be written, the network cannot be sent, or descriptors or
        threads are lacking.
        """
        self.name = configuration.name
        self._host, self._node = host, configuration.node
        self._bandwidth = bandwidth
        self._events: deque[NodeEvent] = deque()
        self._gone: NodeGone | None = None
        self._telling = threading.Lock()
        self._refused = False  # it has failed: nothing more of it is taken
        self._allowance = Allowance(_BURST_EVENTS, _EVENTS_PER_SECOND)
        self._killed, self._unended = threading.Event(), ""
        self._starting = threading.Lock()  # nothing is started any more once it is killed
        self._process: subprocess.Popen[bytes] | None = None  # ssh
        self._turn: Turn | None = None
        self._sign_at = 0.0
        committer = Committer(buffer, self._node, configuration.update)
        self._trained = 0  # by this agent, as of its last heartbeat
        self._servant = Servant(
            self._node,
            committer,
            configuration.update,
            configuration.wire,
            configuration.network.size,
            samples,
            self._tell,
            self._keep if configuration.hands_over else None,
            configuration.velocity_size,
            velocity,
        )
        start = OptimizerState(configuration.first_step, configuration.usual_loss, velocity)
        self._hand_over = HandOver(self._servant.gate, configuration.hands_over, start, self._tell_paused)
        self._desk = NodeDesk(self._node, self._take, self._refuse, committer.updates, self._leave_door)
        self._channel: Channel | None = None
        self._threads: list[threading.Thread] = []
        key = secrets.token_bytes(32)
        with contextlib.ExitStack() as undo:
            try:
                self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
                undo.callback(os.close, self._bell)
                self._sockets = LocalSockets()
                undo.callback(self._sockets.close)
                flooded = partial(self._refuse, "it asks for more, or says more, than any agent does")
                self._control = ControlServer(self._sockets.control, key, self._desk, flooded)
                undo.callback(self._control.close)
                bootstrap = encode_bootstrap(Bootstrap(VERSION, key, self._control.ident, configuration))
                self._new_log = partial(NodeLog, log, self.name, partial(self._refuse, "it prints without end"))
                self._log = self._new_log()
                undo.callback(self._log.close)
                program = ssh_command(host, ())[0]
                if shutil.which(program) is None:
                    raise FileNotFoundError(errno.ENOENT, f"there is no {program} here")
            except OSError as error:
                raise UserError(f"cannot start ssh for {self.name}: {error.strerror or error}") from None
            undo.pop_all()
        try:
            self._start_thread("data", self._serve, key)
            self._start_thread("ssh", partial(self._keep_connected, tuple(options)), bootstrap)
        except BaseException:
            self.kill()
            raise

    def _start_thread(self, name: str, run: Callable[[bytes], None], argument: bytes) -> None:
        thread = threading.Thread(target=run, args=(argument,), daemon=True, name=f"{self.name} {name}")
        start_thread(thread)
        self._threads.append(thread)

    # ---- what the driver uses ----------------------------------------------------------------------------------------

    @property
    def pid(self) -> int | None:
        """The agent's process id on its host."""
        return self._desk.pid

    @property
    def host(self) -> str:
        """The host's address."""
        return self._host.address

    def fileno(self) -> int:
        """Descriptor that is readable when `receive` has something."""
        return self._bell

    def send(self, message: Message) -> None:
        """Queue a message for the agent; a pause is answered here."""
        match message:
            case Work():
                self._servant.shipments.add(message)
            case Pause():
                self._hand_over.pause()
            case Resume():
                self._hand_over.resume()
        self._desk.send(message)

    def receive(self) -> list[NodeEvent]:
        """Return the events that have come; raise NodeGone after the last one of a node that has ended."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._bell)
        events: list[NodeEvent] = []
        with self._telling:
            while self._events:
                events.append(self._events.popleft())
            gone = self._gone
        if gone is not None:
            if not events:
                raise gone
            os.eventfd_write(self._bell, 1)
        return events

    def optimizer_state(self) -> OptimizerState | None:
        """Return what the node has handed over at this pause."""
        return self._hand_over.state()

    def suspend(self) -> None:
        """It is not ours to stop: it ends if it hears nothing of us for too long."""

    def go_on(self) -> None:
        """It was not stopped."""

    def kill(self, limit: float | None = None) -> str:
        """Refuse this agent from here on, and end the connection: the host ends what is at its other end."""
        self._servant.gate.shut()
        with self._starting:
            if self._killed.is_set():
                return self._unended
            self._killed.set()
        if self._process is not None:
            if self._process.poll() is None:
                self._process.kill()
            self._unended = "" if reaped(self._process, limit) else unended(self._process.pid)
        self._close()
        return self._unended

    def end(self, deadline: float) -> str:
        """Let an agent that was told to stop end by itself until `deadline` (monotonic), then kill it."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            if self._process is not None:
                self._process.wait(max(0.0, deadline - time.monotonic()))
        return self.kill(deadline + KILL_SECONDS)

    def _close(self) -> None:
        """Free everything but what a thread needs that still waits for ssh's end."""
        for _ in range(2):
            self._desk.send(None)
        with contextlib.suppress(OSError):
            self._sockets.data.shutdown(socket.SHUT_RDWR)
        if self._channel is not None:
            self._channel.shutdown()
        self._control.close()
        waits = self._threads[_SSH:] if self._unended else []
        for thread in self._threads:
            if thread not in waits:
                thread.join()
        self._log.close()
        if self._process is not None and self._process.stdin is not None and not waits:
            with contextlib.suppress(BrokenPipeError):  # ssh took a part of the configuration only
                self._process.stdin.close()
        self._sockets.close()
        os.close(self._bell)

    # ---- threads -----------------------------------------------------------------------------------------------------

    def _serve(self, key: bytes) -> None:
        """Serve the agent's data channel until it ends."""
        reason: Exception
        try:
            with contextlib.closing(self._accept(key)) as channel:
                self._channel = channel
                channel.on_traffic = self._sign
                channel.least_rate = max(channel.least_rate, (self._bandwidth or 0.0) / _SLOWER)
                self._servant.serve(channel)
        except Shut:
            return
        except (Impossible, Diverged, ValueError) as error:
            self._refuse(str(error))
            return
        except (OSError, EOFError, FrameError) as error:
            reason = error
        except Exception as error:  # nobody thought of it: it is this node's end, and not the run's
            self._log.write(traceback.format_exc())
            self._refuse(f"its data could not be handled: {type(error).__name__}: {error}")
            return
        if self._gone_within(_REASON_SECONDS):
            return  # `_keep_connected` says why
        self._lose(NodeGone(f"its data connection broke: {str(reason) or type(reason).__name__}", may_return=True))

    def _accept(self, key: bytes) -> Channel:
        """Return the agent's channel; who cannot prove to be the agent is turned away."""
        while True:
            accepted, _ = self._sockets.data.accept()
            with contextlib.suppress(FrameError, TimeoutError):
                return Channel.accept(accepted, key, self._node, self._host.timeout)

    def _keep_connected(self, options: Sequence[str], bootstrap: bytes) -> None:
        """Connect, again where the host's machine has no room for a connection, until the agent has come; wait for its
        end. ssh is tied to this thread, which outlives it.
        """
        try:
            resolved = resolve(self._host)
            given_up = None
            for pause in pauses():
                self._turn = door_to(resolved.door).enter(self._host.timeout, self._killed.is_set)
                given_up = given_up or time.monotonic() + self._host.timeout
                if self._turn is None:
                    return
                code = self._run_ssh(options, resolved.forwards, bootstrap)
                if code is None or self._killed.is_set():
                    return
                said = self._log.close().decode(errors="replace")
                away = self._desk.pid is None and turned_away(code, said)
                self._turn.leave(away)
                if not away or time.monotonic() + pause > given_up:
                    problem = explain(self._host, code, said)
                    self._lose(NodeGone(problem.what, problem.passing))
                    return
                if self._killed.wait(pause):
                    return
                self._log = self._new_log()
        except subprocess.TimeoutExpired:
            self._lose(NodeGone("it did not forward our sockets in time", may_return=True))
        except OSError as error:
            self._lose(NodeGone(f"ssh cannot be started: {error.strerror or error}", may_return=True))
        except UserError as error:
            self._lose(NodeGone(str(error)))
        finally:
            self._leave_door()

    def _run_ssh(self, options: Sequence[str], users_forwards: bool, bootstrap: bytes) -> int | None:
        """Start ssh, hand the agent its configuration, however slowly it reads, and wait for ssh's end.

        Return its exit code, None where the node was killed before. Standard input stays open as long as we live. How
        long a node may take to start is judged by who waits for it.
        """
        names = remote_names()
        forwards = tuple(zip(names, self._sockets.paths(), strict=True))
        master = self._sockets.master if users_forwards else None
        command = ssh_command(self._host, (*_AGENT, *names), () if master else forwards, options, master)
        with self._starting:
            if self._killed.is_set():
                return None
            self._process = process = subprocess.Popen(
                tied(command),  # even while ssh waits for its network
                stdin=subprocess.PIPE,
                stdout=self._log.fileno(),
                stderr=self._log.fileno(),
                start_new_session=True,  # a terminal's Ctrl-C is for the coordinator
                env=ssh_environment(),
            )
        self._log.begin()
        if master is not None:
            self._forward(process, master, forwards)
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # ssh ended: it says why
            process.stdin.write(struct.pack("!i", len(bootstrap)) + bootstrap)
            process.stdin.flush()
        code = process.wait()
        if self._desk.pid is None:
            with contextlib.suppress(BrokenPipeError):  # it took a part of the configuration only
                process.stdin.close()
        return code

    def _forward(self, process: "subprocess.Popen[bytes]", master: str, forwards: Sequence[tuple[str, str]]) -> None:
        """Have ssh forward our sockets once it is connected; raise UserError where it does not."""
        deadline = time.monotonic() + self._host.timeout
        if not wait_for_socket(master, deadline, lambda: process.poll() is not None):
            return  # it has ended and says why, or is too slow: who waits for the node ends it
        command = forward_command(self._host, master, forwards)
        asked = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=self._host.timeout,
            start_new_session=True,
        )
        if asked.returncode != 0:
            process.kill()
            process.wait()
            raise UserError(explain(self._host, 255, asked.stderr.decode(errors="replace")).what)

    def _leave_door(self) -> None:
        """The connection is open, or will not be: the next one may come."""
        if self._turn is not None:
            self._turn.leave()

    def _gone_within(self, seconds: float) -> bool:
        """Return whether ssh ends within some seconds."""
        if self._process is None:
            return False
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
            return True
        return False

    def _sign(self) -> None:
        """Traffic on the data channel is a sign of life: heartbeats may be stuck behind it."""
        now = time.monotonic()
        self._hand_over.attend()
        if now - self._sign_at >= _SIGN_SECONDS:
            self._sign_at = now
            self._tell(Heartbeat(self._node, now, self._trained))

    def _take(self, event: NodeEvent) -> None:
        """An event that the agent has reported. Its own Paused says nothing: the gate's came first."""
        if not self._allowance.take():
            raise Malformed("more events than any agent has")
        match event:
            case Heartbeat():
                self._hand_over.attend()
                self._trained = max(self._trained, event.samples_trained)
                self._tell(Heartbeat(event.node, event.time, self._trained))
            case Paused():
                pass
            case Ready():
                self._sockets.forget_names()
                self._tell(event)
            case _:
                self._tell(event)

    def _keep(self, state: OptimizerState) -> bool:
        return self._hand_over.take(state)

    def _tell_paused(self) -> None:
        self._tell(Paused(self._node, time.monotonic()))

    def _tell(self, event: NodeEvent) -> None:
        with self._telling:
            if self._refused:
                return
            self._refused = isinstance(event, Failed)
            if isinstance(event, Heartbeat) and self._events and isinstance(self._events[-1], Heartbeat):
                self._events.pop()  # while the driver is busy they do not pile up
            self._events.append(event)
        os.eventfd_write(self._bell, 1)

    def _refuse(self, reason: str) -> None:
        """The node is out; nothing that it has still to say is heard."""
        self._tell(Failed(self._node, time.monotonic(), printable(reason, 1000)))

    def _lose(self, gone: NodeGone) -> None:
        if self._killed.is_set():
            return  # nobody hears it; the bell may be closed
        with self._telling:
            self._gone = self._gone or gone
        os.eventfd_write(self._bell, 1)
