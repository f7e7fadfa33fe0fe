"""An agent behind SSH: control through a manager, weights and samples as frames, both through forwarded Unix sockets.

    standard input ──Bootstrap──> main thread        end of file: the connection is gone
    control socket <──report── reporter thread <── outbox <── every thread
                   <──collect─ receiver thread ──> inbox
    data socket    <──frames── courier thread (`tunnel`)

The sockets' names are removed as soon as everything is connected. The process ends at once when standard input ends,
when a connection breaks, and when it has heard nothing of the coordinator for `_HEARD_SECONDS`: by then the coordinator
has given it up, or is about to, and nothing that it does can count.
"""

import contextlib
import os
import queue
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from multiprocessing import ProcessError
from multiprocessing.connection import Connection
from multiprocessing.managers import RemoteError
from typing import TYPE_CHECKING, Any

import numpy as np

from bptcnn.cache_layers import CacheLayers
from bptcnn.data import Samples, load, order, split_validation
from bptcnn.data.content import SampleCache, digest
from bptcnn.errors import UserError
from bptcnn.inner.tuning import BY_RULE, Tuning
from bptcnn.nodes.bootstrap import decode_bootstrap
from bptcnn.nodes.codec import decode_message, encode_event
from bptcnn.nodes.configuration import HostConfiguration
from bptcnn.nodes.control import connect_desk
from bptcnn.nodes.frames import Channel, FrameError, Kind
from bptcnn.nodes.sockets import remove_names, sweep_remote
from bptcnn.nodes.station import ORPHANED, Arrival, Images, Inbox, Labels
from bptcnn.outer import NodeEvent
from bptcnn.profiling import usable_cores
from bptcnn.threads import start_thread
from bptcnn.version import VERSION

if TYPE_CHECKING:
    from bptcnn.nodes.tunnel import TunnelExchange

_HEADERS = 1 << 13  # bytes of files beside the samples' own
_HEARD_SECONDS = 4.5  # the coordinator gives a silent node up after 4 s, and an orphan has 5 s to end
_COLLECT_SECONDS = 1.0  # a call that waits for messages returns after so long: a sign of life
_CHECK_SECONDS = 0.25
_CONNECT_SECONDS = 20.0  # an SSH connection over a slow link, and a busy host
_CHUNK_BYTES = 1 << 20


class RemoteStation:
    """How this agent reaches its coordinator; see the module."""

    def __init__(self, stdin: "Connection[Any, Any]", first: bytes, control: str, data: str) -> None:
        """Connect; raise UserError where bootstrap and host do not fit, or nothing listens."""
        self._forget_names = partial(remove_names, (control, data))
        start_thread(threading.Thread(target=self._await_end, args=(stdin,), daemon=True, name="standard input"))
        bootstrap = decode_bootstrap(first, VERSION)
        found = bootstrap.configuration
        self.configuration: HostConfiguration = replace(found, threads=found.threads or usable_cores())
        sweep_remote((control, data))
        self._outbox: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._left = threading.Event()
        self._exchange: TunnelExchange | None = None
        try:
            self._desk = connect_desk(control, bootstrap.key, bootstrap.desk)
            self._desk.greet(VERSION, os.getpid())
            opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            opened.settimeout(_CONNECT_SECONDS)
            opened.connect(data)
            self._channel = Channel.connect(opened, bootstrap.key, self.configuration.node, _CONNECT_SECONDS)
        except (OSError, EOFError, FrameError, ProcessError, RemoteError) as error:
            raise UserError(f"no way to the coordinator through the SSH connection: {error}") from None
        self._channel.on_traffic = self._hear
        self._hear()

    def start(self, inbox: Inbox) -> None:
        """Start the threads; when all are connected, remove the sockets' names."""
        self._inbox = inbox
        connected = threading.Barrier(3)
        for name, run in (("reporter", self._send_reports), ("receiver", self._receive)):
            start_thread(threading.Thread(target=self._guarded, args=(run, connected), daemon=True, name=name))
        start_thread(threading.Thread(target=self._watch, daemon=True, name="watchdog"))
        connected.wait()
        self._forget_names()

    # ---- threads -----------------------------------------------------------------------------------------------------

    def _guarded(self, run: Any, connected: threading.Barrier) -> None:
        try:
            run(connected)
        except (OSError, EOFError, ValueError, RemoteError) as error:
            self._orphan(error)

    def _send_reports(self, connected: threading.Barrier) -> None:
        self._desk.report([])
        connected.wait()
        while True:
            events = [self._outbox.get()]
            while not self._outbox.empty():
                events.append(self._outbox.get())
            self._desk.report([event for event in events if event is not None])
            self._hear()
            if None in events:
                self._left.set()

    def _receive(self, connected: threading.Barrier) -> None:
        self._desk.report([])
        connected.wait()
        while True:
            answer = self._desk.collect(_COLLECT_SECONDS)
            self._hear()
            if self._exchange is not None:
                self._exchange.updates = int(answer["updates"])
            for message in answer["messages"]:
                self._inbox.put(decode_message(message))

    def _watch(self) -> None:
        while time.monotonic() - self._heard < _HEARD_SECONDS:
            time.sleep(_CHECK_SECONDS)
        self._orphan(TimeoutError(f"nothing heard of the coordinator for {_HEARD_SECONDS:g} s"))

    def _hear(self) -> None:
        self._heard = time.monotonic()

    def _await_end(self, stdin: "Connection[Any, Any]") -> None:
        with contextlib.suppress(EOFError, OSError):
            stdin.recv_bytes()
        self._forget_names()
        os._exit(ORPHANED)

    def _orphan(self, error: Exception) -> None:
        self._forget_names()
        with contextlib.suppress(OSError):
            print(f"the coordinator is gone: {str(error) or type(error).__name__}", file=sys.stderr, flush=True)
        os._exit(ORPHANED)

    # ---- what an agent asks for --------------------------------------------------------------------------------------

    def report(self, event: NodeEvent) -> None:
        """Queue the event for the reporter."""
        self._outbox.put(encode_event(event))

    def clock(self) -> Callable[[], float]:
        """This host's: where the coordinator stands still for long, this agent ends."""
        return time.monotonic

    def tuning(self) -> Tuning:
        """This host's own, measured if need be; what there is to say of it goes to the node's log."""
        from bptcnn.profiling.tunings import tuning_of, tuning_record  # here: it compiles

        wanted = self.configuration
        if not wanted.autotune:
            return BY_RULE
        about = wanted.network, wanted.batch_size, wanted.threads, wanted.precision
        return tuning_of(tuning_record(*about, print))

    def finish(self) -> None:
        """Wait until the last report has arrived."""
        self._outbox.put(None)
        self._left.wait(_HEARD_SECONDS)

    def exchange(self) -> "TunnelExchange":
        """Fetch the weight set."""
        from bptcnn.nodes.tunnel import TunnelExchange

        configuration = self.configuration
        self._exchange = TunnelExchange(
            self._channel,
            configuration.network.size,
            configuration.wire,
            configuration.update,
            lambda: self._inbox.put(Arrival()),
            self._orphan,
            configuration.hands_over,
            configuration.restores,
        )
        return self._exchange

    def samples(self) -> tuple[Images, Labels]:
        """Return the samples, from this host's cache or files if they are the same, else from the coordinator."""
        source = self.configuration.samples
        stored = CacheLayers("samples", in_memory=False)
        found = next(filter(None, (SampleCache(folder).get(source.digest) for folder in stored.folders)), None)
        found = found or self._read_here() or self._fetch(stored)
        if source.validation is not None:
            found, _ = split_validation(found, source.validation, source.seed)
        found = found.take(order(len(found), source.seed))
        return found.images, found.labels

    def _read_here(self) -> Samples | None:
        source = self.configuration.samples
        if source.source.endswith(".py"):  # a file of that name here may be anybody's: it is not run
            return None
        try:
            found = load(source.source).train
        except UserError:  # it is not here: it comes from the coordinator
            return None
        return found if digest(found) == source.digest else None

    def _fetch(self, stored: CacheLayers) -> Samples:
        source = self.configuration.samples
        images, labels = (np.dtype(source.dtype), source.shape), (np.dtype(np.int32), source.shape[:1])
        left = sum(int(np.prod(shape)) * dtype.itemsize for dtype, shape in (images, labels))
        cache = SampleCache(stored.reserve(left + _HEADERS))
        if stored.trouble is not None:
            print(stored.trouble, file=sys.stderr, flush=True)
        with cache.writer(source.digest, *images, *labels) as writer:
            self._channel.send(Kind.SAMPLES)
            while left:
                chunk = self._channel.receive({Kind.CHUNK: _CHUNK_BYTES}).payload
                writer.append(chunk)
                left -= chunk.size
        found = cache.get(source.digest)
        if found is None:
            raise UserError("the samples that were just stored cannot be read back: check this host's disk")
        return found
