"""The agent of a host that was broken into: it holds the run's key, proves it as any other, and then lies.

python hostile.py LIE ... CONTROL DATA          LIE is the name of a function below, or "none"
"""

import os
import socket
import struct
import sys
import threading
import time
from contextlib import suppress
from dataclasses import asdict
from multiprocessing.managers import RemoteError
from typing import Any

import numpy as np

from bptcnn.nodes.bootstrap import decode_bootstrap
from bptcnn.nodes.codec import decode_message, encode_event
from bptcnn.nodes.control import Desk, connect_desk
from bptcnn.nodes.exchange import Iteration
from bptcnn.nodes.frames import Channel, Kind
from bptcnn.nodes.wire import payload_size
from bptcnn.outer import Heartbeat, Ready, Refused, Work
from bptcnn.version import VERSION

SECONDS = 20.0
LARGEST = 1 << 30
BEAT_SECONDS = 0.5


class Liar:
    """An agent that is connected, beats, and hears the coordinator; what it submits is up to its lie."""

    def __init__(self, control: str, data: str) -> None:
        (size,) = struct.unpack("!i", sys.stdin.buffer.read(4))
        bootstrap = decode_bootstrap(sys.stdin.buffer.read(size), VERSION)
        threading.Thread(target=self._end, daemon=True).start()
        configuration = bootstrap.configuration
        self.node, self.wire, self.size = configuration.node, configuration.wire, configuration.network.size
        self._control, self._key, self._ident = control, bootstrap.key, bootstrap.desk
        self.desk = self.connect()
        self.desk.greet(VERSION, os.getpid())
        opened = socket.socket(socket.AF_UNIX)
        opened.connect(data)
        self.channel = Channel.connect(opened, bootstrap.key, self.node, SECONDS)
        self.work: list[Work] = []
        connected = threading.Barrier(3)
        for run in (self._beat, self._collect):
            threading.Thread(target=run, args=(connected,), daemon=True).start()
        connected.wait()
        self.report(Ready(self.node, 0.0))

    def connect(self) -> Desk:
        """Return the desk, for this thread."""
        return connect_desk(self._control, self._key, self._ident)

    def report(self, *events: Any) -> None:
        self.desk.report([encode_event(event) for event in events])

    def _end(self) -> None:
        sys.stdin.buffer.read()
        os._exit(3)

    def _beat(self, connected: threading.Barrier) -> None:
        desk = self.connect()
        desk.report([])
        connected.wait()
        while True:
            with suppress(RemoteError, OSError, EOFError):  # it was refused: the lie goes on
                desk.report([encode_event(Heartbeat(self.node, 0.0, 0))])
            time.sleep(BEAT_SECONDS)

    def _collect(self, connected: threading.Barrier) -> None:
        desk = self.connect()
        desk.report([])
        connected.wait()
        while True:
            for plain in desk.collect(1.0)["messages"]:
                message = decode_message(plain)
                if isinstance(message, Work):
                    self.work.append(message)

    def next_work(self) -> Work:
        while not self.work:
            time.sleep(0.01)
        return self.work.pop(0)

    def submit(self, value: float = 0.0, **lies: Any) -> None:
        """Submit the next samples that came: a difference of `value` everywhere, and what else is said of it."""
        work = self.next_work()
        samples = len(work.indices)
        said = Iteration(work.epoch, samples, 1.0, 1, 0.1, 0.0, 0.0, samples, 0.1)
        payload = np.full(self.size, value, np.float32)
        if self.wire == "bfloat16":
            payload = (payload.view(np.uint32) >> 16).astype(np.uint16)  # type: ignore[assignment]
        content = payload.view(np.uint8)
        assert content.size == payload_size(self.wire, self.size)
        self.channel.send(Kind.SUBMIT, {**asdict(said), "version": 0, "transfer_seconds": 0.0, **lies}, content)
        self.channel.receive({Kind.MERGED: LARGEST})

    def ask_for_weights(self) -> None:
        self.channel.send(Kind.WEIGHTS)
        self.channel.receive({Kind.WEIGHTS: LARGEST})


def quick(liar: Liar) -> None:
    """It says that its samples took no time."""
    liar.ask_for_weights()
    while True:
        liar.submit(timed_seconds=5e-324)


def transfer(liar: Liar) -> None:
    liar.ask_for_weights()
    liar.submit(transfer_seconds=1e300)


def years(liar: Liar) -> None:
    liar.ask_for_weights()
    liar.submit(timed_seconds=1e8)


def loss(liar: Liar) -> None:
    liar.ask_for_weights()
    liar.submit(loss_sum=1e17)


def weights(liar: Liar) -> None:
    liar.ask_for_weights()
    liar.submit(1e15)


def nothing(liar: Liar) -> None:
    """It has not got the samples that it submits."""
    liar.ask_for_weights()
    liar.submit(epoch=7)


def events(liar: Liar) -> None:
    while True:
        liar.report(*[Ready(liar.node, 0.0)] * 50)


def calls(liar: Liar) -> None:
    while True:
        liar.desk.report([])


def another(liar: Liar) -> None:
    liar.report(Heartbeat(0, 0.0, 10))


def refusals(liar: Liar) -> None:
    liar.next_work()
    while True:
        liar.report(Refused(liar.node, 0.0, 1, "\x1b[2Jnot so"))


def early(liar: Liar) -> None:
    """It has learned from weights that it was not sent."""
    liar.submit(1e15)


def requests(liar: Liar) -> None:
    while True:
        liar.ask_for_weights()


def prints(liar: Liar) -> None:
    while True:
        os.write(1, b"y" * 65535 + b"\n")


def deep(liar: Liar) -> None:
    """The head of a frame is nested."""
    text = b'{"a":' + b"[" * 10_000
    channel: Any = liar.channel
    header = struct.pack("<4sIQIQ", b"bptc", Kind.SUBMIT, 0, len(text), 0) + text
    channel._push([memoryview(header), memoryview(channel._mac(channel._role, header).digest())])
    channel.receive({Kind.MERGED: LARGEST})


def main() -> None:
    lie, *_, control, data = sys.argv[1:]
    liar = Liar(control, data)
    with suppress(RemoteError, OSError, EOFError):
        globals()[lie](liar)
    while True:
        time.sleep(SECONDS)  # it would stay


if __name__ == "__main__":
    main()
