"""What a host's agent sends: events over the control socket, and frames with submissions over the data channel."""

import random
import socket
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing import connection
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from fuzz.harness import Kind, Target, line
from fuzz.mutation import NUMBERS, mutated, scrambled
from fuzz.texts import Texts, encoded
from fuzz.writing import json_text

from bptcnn.data import Samples
from bptcnn.memory import WeightBuffer
from bptcnn.nodes import frames
from bptcnn.nodes.claims import Impossible
from bptcnn.nodes.codec import decode_event, decode_message, encode_event, encode_message
from bptcnn.nodes.control import ControlServer, JsonConnection
from bptcnn.nodes.desk import NodeDesk
from bptcnn.nodes.divergence import Diverged
from bptcnn.nodes.encoding import encode
from bptcnn.nodes.exchange import Committer, Iteration
from bptcnn.nodes.frames import META_LIMIT, Channel, FrameError
from bptcnn.nodes.frames import Kind as FrameKind
from bptcnn.nodes.gate import Shut
from bptcnn.nodes.servant import Servant
from bptcnn.outer import Failed, Heartbeat, Pause, Paused, Ready, Refused, Resume, Stop, Submitted, Trial, Tried, Work
from bptcnn.untrusted import parse_json
from bptcnn.version import VERSION

KEY = bytes(range(32))
SIZE = 37
SECONDS = 20.0
EVENTS = (
    Ready(1, 1.0),
    Tried(1, 2.0, 640, 1.5),
    Refused(1, 3.0, 16, "diverged"),
    Heartbeat(1, 4.0, 100),
    Paused(1, 5.0, 0.25),
    Failed(1, 6.0, "why"),
)
MESSAGES = (Work(1, np.arange(9, dtype=np.int32), 0.1, 8), Pause(), Resume(), Trial(1.0, 4), Stop())


def head(samples: int, epoch: int = 1, version: int = 0) -> dict[str, Any]:
    """Return the head of a submission that is as it should be."""
    iteration = Iteration(epoch, samples, 1.5 * samples, samples // 2, 0.2, 0.01, 0.02, samples, 0.2)
    return {**asdict(iteration), "version": version, "transfer_seconds": 0.05}


# ---- events ----------------------------------------------------------------------------------------------------------


def _event(content: bytes) -> None:
    desk = NodeDesk(1, lambda event: None, lambda reason: None, lambda: 0)
    value = parse_json(content)
    event = decode_event(value)
    assert decode_event(encode_event(event)) == event
    desk.report([value])


def _message(content: bytes) -> None:
    message = decode_message(parse_json(content))
    if not isinstance(message, Work):
        assert decode_message(encode_message(message)) == message


@contextmanager
def _open_events(folder: Path) -> Iterator[Target]:
    yield Texts([encode_event(event) for event in EVENTS], json_text, _event, (ValueError,))


@contextmanager
def _open_messages(folder: Path) -> Iterator[Target]:
    yield Texts([encode_message(message) for message in MESSAGES], json_text, _message, (ValueError,))


class Calls(Target):
    """An agent that holds the key says anything to a real control server, which then still serves the next one."""

    def __init__(self, folder: Path) -> None:
        self._address = folder / "c"
        self._broken: list[str] = []

    def valid(self) -> Sequence[bytes]:
        return [encoded(json_text(call, None)) for call in CALLS]

    def draw(self, draw: random.Random) -> bytes:
        text = encoded(json_text(mutated(draw.choice(CALLS), draw), draw))
        return text if draw.random() < 0.8 else scrambled(text, draw)

    def take(self, given: bytes) -> str | None:
        desk = NodeDesk(1, lambda event: None, lambda reason: None, lambda: 0)
        listener = socket.socket(socket.AF_UNIX)
        self._address.unlink(missing_ok=True)
        listener.bind(str(self._address))
        listener.listen()
        server = ControlServer(listener, KEY, desk)
        try:
            with mock.patch.object(threading, "excepthook", self._thread_ended):
                answer = self._said(given, server.ident)
                kind, _ = self._said(self.valid()[-1], server.ident)
        finally:
            server.close()
        assert kind == "#RETURN", "the next agent is not served"
        assert not self._broken, f"a thread of the server ended: {self._broken}"
        return None if answer[0] == "#RETURN" else "refused"

    def _thread_ended(self, told: threading.ExceptHookArgs) -> None:
        self._broken.append(f"{told.exc_type.__name__}: {told.exc_value}")

    def _said(self, content: bytes, ident: str) -> Any:
        """Return the answer to a call; the name of the object that is called is put in."""
        found = JsonConnection(connection.Client(str(self._address), family="AF_UNIX"), 1 << 20)
        try:
            peer: Any = found
            connection.answer_challenge(peer, KEY)
            connection.deliver_challenge(peer, KEY)
            found.send([None, "accept_connection", ["fuzz"], {}])
            assert found.recv()[0] == "#RETURN"
            found.send_bytes(content.replace(IDENT.encode(), ident.encode()))
            return found.recv()
        except (EOFError, OSError):
            return "#ENDED", None
        finally:
            found.wake()
            found.close()


IDENT = "the desk"
CALLS = (
    [IDENT, "greet", [VERSION, 7], {}],
    [IDENT, "report", [[encode_event(event) for event in EVENTS]], {}],
    [IDENT, "collect", [0.0], {}],
)


@contextmanager
def _open_calls(folder: Path) -> Iterator[Target]:
    yield Calls(folder)


# ---- frames ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sent:
    """A frame as a host sends it that holds the key: what its header says, and what follows."""

    header: tuple[Any, ...]  # magic, kind, sequence number, bytes of meta, bytes of payload
    meta: bytes
    payload: bytes
    spoilt: bool = False  # its authentication code is wrong


@contextmanager
def channels() -> Iterator[tuple[Channel, Channel]]:
    """Two ends of a connection that trust each other: the host's, the coordinator's."""
    ours, theirs = socket.socketpair()
    with ThreadPoolExecutor(1) as pool:
        accepting = pool.submit(Channel.accept, theirs, KEY, 1, SECONDS)
        pair = Channel.connect(ours, KEY, 1, SECONDS), accepting.result(SECONDS)
    try:
        yield pair
    finally:
        for channel in pair:
            channel.shutdown()
            channel.close()


def send(channel: Channel, sent: Sent) -> None:
    """Put a frame on the wire, whatever its header says, with the code that goes with it."""
    packed = frames._HEADER.pack(*sent.header)
    mac = channel._mac(channel._role, packed + sent.meta)
    mac.update(sent.payload)
    code = mac.digest()[::-1] if sent.spoilt else mac.digest()
    channel._push([memoryview(packed + sent.meta), memoryview(sent.payload), memoryview(code)])


def drawn_frame(
    draw: random.Random, meta: bytes, payload: bytes, number: int = 0, kind: int = FrameKind.SUBMIT
) -> Sent:
    """Return a frame of this meta and payload whose header may lie."""
    header: list[Any] = [b"bptc", int(kind), number, len(meta), len(payload)]
    if draw.random() < 0.2:
        place = draw.randrange(1, 5)
        bits = 32 if place in (1, 3) else 64
        header[place] = draw.choice([n for n in NUMBERS if isinstance(n, int) and 0 <= n < 2**bits])
    if draw.random() < 0.02:
        header[0] = draw.randbytes(4)
    return Sent(tuple(header), meta, payload, draw.random() < 0.03)


_ASKS = Sent((b"bptc", int(FrameKind.WEIGHTS), 0, 2, 0), b"{}", b"")  # for the weights, as every host does first


class Submissions(Target):
    """A host that holds the key submits to a real servant over a real channel; what it may not, costs only itself."""

    def __init__(self) -> None:
        self._payload = encode("float32", np.full(SIZE, 0.5, np.float32)).tobytes()

    def valid(self) -> Sequence[list[Sent]]:
        meta = encoded(json_text(head(10), None))
        return [[_ASKS, Sent((b"bptc", 2, 1, len(meta), len(self._payload)), meta, self._payload)]]

    def draw(self, draw: random.Random) -> list[Sent]:
        sent = [_ASKS] if draw.random() < 0.95 else []
        for number in range(draw.choice((1, 1, 2))):
            values = head(draw.choice((1, 10, 16)), version=number)
            meta = encoded(json_text(mutated(values, draw) if draw.random() < 0.8 else values, draw))
            meta = (meta if draw.random() < 0.9 else scrambled(meta, draw))[: META_LIMIT + 1]
            payload = self._payload if draw.random() < 0.6 else self._odd_payload(draw)
            sent.append(drawn_frame(draw, meta, payload, len(sent)))
        return sent

    def _odd_payload(self, draw: random.Random) -> bytes:
        values = np.frombuffer(self._payload, np.float32).copy()
        values[draw.randrange(SIZE)] = draw.choice((np.nan, np.inf, -np.inf, 3e38, 1e-45, 1e30))
        return draw.choice((values.tobytes(), scrambled(self._payload, draw), b"", self._payload * 2))

    def take(self, given: list[Sent]) -> str | None:
        buffer = WeightBuffer.create(SIZE, 2)
        try:
            buffer.store(np.zeros(SIZE, np.float32))
            for node in (0, 1):
                buffer.set_live(node, True)
            return self._served(buffer, given)
        finally:
            buffer.close()

    def _served(self, buffer: WeightBuffer, given: list[Sent]) -> str | None:
        reports: list[Submitted] = []
        samples = Samples(np.zeros((5, 2, 2, 3), np.uint8), np.zeros(5, np.int32))
        servant = Servant(1, Committer(buffer, 1, "agwu"), "agwu", "float32", SIZE, samples, reports.append)
        servant.shipments.add(Work(1, np.zeros(100, np.int32), 0.1, 8))
        with channels() as (host, here):
            for sent in given:
                send(host, sent)
            host._socket.shutdown(socket.SHUT_WR)
            refused = None
            try:
                servant.serve(here)
            except (Shut, Impossible, Diverged, ValueError, FrameError, EOFError, OSError) as error:
                # as `RemoteNode._serve` has it; EOFError: all of it was taken
                refused = None if isinstance(error, EOFError) else line(error)
        weights = np.empty(SIZE, np.float32)
        buffer.snapshot(weights)
        assert np.isfinite(weights).all(), "the weights are no longer finite"
        assert np.isfinite(buffer.table().qualities).all()
        buffer.validate()
        assert buffer.submission(1).samples == sum(report.samples for report in reports)
        return refused


class Handshakes(Target):
    """Anybody says anything to a channel that is being opened."""

    def valid(self) -> Sequence[bytes]:
        return ()

    def draw(self, draw: random.Random) -> bytes:
        hello = frames._HELLO.pack(b"bptc", 0, 1, frames.VERSION, 1, draw.randbytes(32)) + draw.randbytes(32)
        return scrambled(hello, draw)

    def take(self, given: bytes) -> str | None:
        ours, theirs = socket.socketpair()
        with theirs:
            theirs.sendall(given)
            theirs.shutdown(socket.SHUT_WR)
            try:
                Channel.accept(ours, KEY, 1, SECONDS).close()
            except (FrameError, TimeoutError) as error:
                return line(error)
        raise AssertionError("somebody without the key is let in")


@contextmanager
def _open_submissions(folder: Path) -> Iterator[Target]:
    yield Submissions()


@contextmanager
def _open_handshakes(folder: Path) -> Iterator[Target]:
    yield Handshakes()


KINDS = (
    Kind("event", 60, _open_events),
    Kind("message", 20, _open_messages),
    Kind("control", 40, _open_calls),
    Kind("submission", 80, _open_submissions),
    Kind("handshake", 20, _open_handshakes),
)
