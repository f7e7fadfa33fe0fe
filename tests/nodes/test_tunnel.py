"""The node's side of submissions that travel: what its weights are made of, whatever is under way."""

import contextlib
import math
import queue
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bptcnn.data import Samples
from bptcnn.memory import WeightBuffer
from bptcnn.nodes.divergence import Diverged
from bptcnn.nodes.encoding import decode, encode
from bptcnn.nodes.exchange import Committer, Iteration
from bptcnn.nodes.frames import Channel, FrameError, Kind
from bptcnn.nodes.gate import Shut
from bptcnn.nodes.servant import Servant
from bptcnn.nodes.tunnel import TunnelExchange
from bptcnn.nodes.wire import Wire, payload_size
from bptcnn.outer import Submitted, Update, Work

SIZE = 23
SECONDS = 30.0
KEY = bytes(range(32))
WIRES: list[Wire] = ["float32", "float16", "bfloat16"]
ROUNDING = 2.0**-7  # relative, of the coarsest wire
Floats = npt.NDArray[np.float32]


@contextmanager
def channels() -> Iterator[tuple[Channel, Channel]]:
    """The coordinator's end and the node's."""
    ours, theirs = socket.socketpair()
    with ThreadPoolExecutor(1) as pool:
        accepting = pool.submit(Channel.accept, ours, KEY, 0, SECONDS)
        there = Channel.connect(theirs, KEY, 0, SECONDS)
        here = accepting.result(SECONDS)
    try:
        yield here, there
    finally:
        for channel in (here, there):
            channel.shutdown()
            channel.close()


class Coordinator:
    """The other side, step by step: it answers when it is told to."""

    def __init__(self, channel: Channel, wire: Wire, weights: Floats) -> None:
        self.channel, self.wire = channel, wire
        self.weights = weights.copy()
        self.held = weights.copy()
        self.told: list[Floats] = []  # what the node holds after each answer
        self.received = np.zeros(SIZE)  # the sum of all submissions
        self.metas: list[dict[str, float]] = []
        self.version = 0

    def send_weights(self) -> None:
        self.channel.receive({Kind.WEIGHTS: 0}, SECONDS)
        self.channel.send(Kind.WEIGHTS, {"version": self.version, "full": True}, encode("float32", self.held))

    def merge(self) -> None:
        """Take a submission and answer it."""
        frame = self.channel.receive({Kind.SUBMIT: payload_size(self.wire, SIZE)}, SECONDS)
        self.metas.append(frame.meta)
        delta = np.empty(SIZE, np.float32)
        decode(self.wire, frame.payload, delta)
        self.received += delta
        self.weights += delta
        self.version += 1
        payload = encode(self.wire, self.weights - self.held)
        decode(self.wire, payload, delta)
        self.held += delta
        self.told.append(self.held.copy())
        self.channel.send(Kind.MERGED, {"version": self.version, "full": False}, payload)


@contextmanager
def scripted(wire: Wire, update: Update = "agwu") -> Iterator[tuple[TunnelExchange, Coordinator, threading.Semaphore]]:
    """An exchange that has its weights, its other side, and what counts the answers."""
    arrivals = threading.Semaphore(0)
    initial = np.linspace(-1, 1, SIZE, dtype=np.float32)
    with channels() as (here, there), ThreadPoolExecutor(1) as pool, ExitStack() as stack:
        other = Coordinator(here, wire, initial)
        serving = pool.submit(other.send_weights)
        exchange = TunnelExchange(there, SIZE, wire, update, arrivals.release, lambda _: arrivals.release())
        stack.callback(exchange.close)
        stack.callback(there.shutdown)  # first, so that a courier that waits for an answer ends
        serving.result(SECONDS)
        assert arrivals.acquire(timeout=SECONDS)
        yield exchange, other, arrivals


def drawn(random: np.random.Generator, size: float = 0.1) -> Floats:
    return (size * random.standard_normal(SIZE)).astype(np.float32)


ACTIONS = st.lists(st.sampled_from(["train", "submit", "merge", "settle", "others"]), min_size=5, max_size=40)


@pytest.mark.parametrize("wire", WIRES)
@given(actions=ACTIONS, seed=st.integers(0, 2**16))
def test_weights_are_what_was_told_and_the_progress_that_no_answer_contains(
    wire: Wire, actions: list[str], seed: int
) -> None:
    random = np.random.default_rng(seed)
    weights = np.empty(SIZE, np.float32)
    with scripted(wire) as (exchange, other, arrivals):
        exchange.begin(weights)
        assert np.array_equal(weights, other.held)
        under_way: list[npt.NDArray[np.float64]] = []  # progress of each submission without a settled answer
        since, all_progress = np.zeros(SIZE), np.zeros(SIZE)
        merged = settled = 0
        for action in [*actions, "submit"]:
            match action:
                case "train":
                    before = weights.astype(np.float64)
                    weights += drawn(random)
                    since += weights - before
                case "others":
                    other.weights += drawn(random)
                case "submit":
                    exchange.submit(weights, Iteration(1, samples=1))
                    all_progress += since
                    under_way.append(since)
                    since = np.zeros(SIZE)
                case "merge" if merged < settled + len(under_way):
                    other.merge()
                    merged += 1
                    assert arrivals.acquire(timeout=SECONDS)
                case "settle":
                    exchange.settle(weights)
                    del under_way[: merged - settled]
                    settled = merged
                    if settled:
                        assert np.array_equal(exchange._held, other.told[settled - 1]), "the two sides differ"
            assert exchange.ready() == (not under_way)
            np.testing.assert_allclose(weights, exchange._held + sum(under_way) + since, atol=2e-5)
        while merged < settled + len(under_way):
            other.merge()
            merged += 1
            assert arrivals.acquire(timeout=SECONDS)
        exchange.begin(weights)
        assert np.array_equal(weights, other.held), "with nothing under way they are exactly what was told"
        lost = all_progress - other.received - exchange._feedback.residual
        np.testing.assert_allclose(lost, 0, atol=2e-5)
        assert np.abs(exchange._feedback.residual).max() <= (0 if wire == "float32" else ROUNDING)
        assert [meta["version"] for meta in other.metas] == sorted(meta["version"] for meta in other.metas)


@pytest.mark.parametrize("wire", WIRES)
def test_several_submissions_travel_at_once_and_answers_come_late(wire: Wire) -> None:
    random = np.random.default_rng(1)
    weights = np.empty(SIZE, np.float32)
    with scripted(wire) as (exchange, other, arrivals):
        exchange.begin(weights)
        start = weights.copy()
        for _ in range(4):
            weights += 0.25
            exchange.submit(weights, Iteration(1, samples=1))
        assert not exchange.ready()
        noise = drawn(random)
        other.weights += noise
        weights += 0.125
        for _ in range(4):
            other.merge()
            assert arrivals.acquire(timeout=SECONDS)
        np.testing.assert_array_equal(weights, start + 1.125)  # nothing happens to the weights before settle
        exchange.settle(weights)
        assert exchange.ready()
        np.testing.assert_allclose(weights, start + 1.125 + noise, atol=0.02)
        assert exchange.updates_behind() == 0
        exchange.updates = 9
        assert exchange.updates_behind() == 5


def test_what_goes_with_a_submission() -> None:
    weights = np.empty(SIZE, np.float32)
    iteration = Iteration(3, 8, 1.5, 4, 0.5, 0.25, 0.125, 6, 0.75)
    with scripted("float32") as (exchange, other, arrivals):
        for number in range(2):
            exchange.begin(weights)
            assert exchange.submit(weights + 1, iteration) is None
            other.merge()
            assert arrivals.acquire(timeout=SECONDS)
            exchange.settle(weights)
            meta = other.metas[number]
            assert meta.pop("transfer_seconds") > 0
            assert meta == {**vars(iteration), "version": number}


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_diverged_weights_do_not_leave(value: float) -> None:
    weights = np.empty(SIZE, np.float32)
    with scripted("bfloat16") as (exchange, _, _):
        exchange.begin(weights)
        broken = weights.copy()
        broken[5] = value
        with pytest.raises(Diverged):
            exchange.submit(broken, Iteration(1, samples=1))
        assert exchange.ready()
        assert not exchange._feedback.residual.any()


def test_sgwu_fetches_what_was_merged_and_forgets_its_own_progress() -> None:
    weights = np.empty(SIZE, np.float32)
    with scripted("float32", "sgwu") as (exchange, other, _), ThreadPoolExecutor(1) as pool:
        serving = pool.submit(other.send_weights)
        exchange.begin(weights)
        serving.result(SECONDS)
        for number in range(3):
            trained = weights + 1
            exchange.submit(trained, Iteration(1, samples=1))
            here = other.channel
            here.receive({Kind.SUBMIT: 4 * SIZE}, SECONDS)
            here.send(Kind.MERGED)
            if number % 2:  # the answer may be settled, or be found by `begin`
                while not exchange.ready():
                    exchange.settle(trained)
            other.held += 0.5  # the round's merge
            serving = pool.submit(other.send_weights)
            exchange.begin(trained)
            serving.result(SECONDS)
            assert exchange.ready()
            np.testing.assert_array_equal(trained, other.held)
            weights = trained


ANSWERS = [
    (Kind.ERROR, b""),
    (Kind.WEIGHTS, b""),
    (Kind.CHUNK, b""),
    (Kind.MERGED, bytes(4 * SIZE + 1)),
    (Kind.MERGED, bytes(1 << 20)),
]


@pytest.mark.parametrize("ending", ["closed", *range(len(ANSWERS))])
def test_a_lost_connection_is_told_once(ending: int | str) -> None:
    told: queue.SimpleQueue[Exception] = queue.SimpleQueue()
    arrived: list[None] = []
    with channels() as (here, there), ThreadPoolExecutor(1) as pool:

        def lose(error: Exception) -> None:
            told.put(error)
            there.shutdown()  # as the end of the process does

        other = Coordinator(here, "float32", np.zeros(SIZE, np.float32))
        serving = pool.submit(other.send_weights)
        exchange = TunnelExchange(there, SIZE, "float32", "agwu", lambda: arrived.append(None), lose)
        serving.result(SECONDS)
        weights = np.empty(SIZE, np.float32)
        exchange.begin(weights)
        for _ in range(3):
            weights += 1
            exchange.submit(weights, Iteration(1, samples=1))
        if isinstance(ending, int):
            here.receive({Kind.SUBMIT: 4 * SIZE}, SECONDS)
            with contextlib.suppress(OSError):  # what is too long is not read whole
                here.send(ANSWERS[ending][0], {}, ANSWERS[ending][1])
        here.shutdown()
        assert isinstance(told.get(timeout=SECONDS), (EOFError, OSError, FrameError))
        exchange._courier.join(SECONDS)
        exchange.submit(weights + 1, Iteration(1, samples=1))  # to nobody
        exchange.settle(weights)
        assert not exchange.ready()
        exchange.close()
        assert told.empty()
        assert len(arrived) == 1


# ---- against the real other side -------------------------------------------------------------------------------------


class Merged:
    """One writer of a buffer, and what it has merged, with its scale."""

    def __init__(self, buffer: WeightBuffer, node: int) -> None:
        self.buffer, self.node = buffer, node
        self.committer = Committer(buffer, node, "agwu")
        self.sum, self.deltas, self.count = np.zeros(SIZE), np.zeros(SIZE), 0
        buffer.set_live(node, True)

    def note(self, _: Submitted | None = None) -> None:
        """Called by who has committed, before it commits again."""
        delta = self.committer.delta.astype(np.float64)
        self.deltas += delta
        self.sum += self.buffer.submission(self.node).scale * delta
        self.count += 1

    def merge_until(self, stop: threading.Event, noise: np.random.Generator) -> None:
        scratch = np.empty(SIZE, np.float32)
        while not stop.is_set():
            version = self.committer.refresh(scratch)
            self.committer.delta[:] = drawn(noise, 0.01)
            self.committer.commit(version, 1, 1, math.inf, scratch)
            self.note()


class Busy:
    """A servant for node 0 over a buffer that node 1 merges into all the time."""

    def __init__(self, buffer: WeightBuffer, wire: Wire, samples: int, seed: int) -> None:
        self.ours, self.others = Merged(buffer, 0), Merged(buffer, 1)
        nothing = Samples(np.zeros((1, 2, 2, 1), np.uint8), np.zeros(1, np.int32))
        self.servant = Servant(0, self.ours.committer, "agwu", wire, SIZE, nothing, self.ours.note)
        self.servant.shipments.add(Work(1, np.zeros(samples, np.int32), 0.1, 1))
        self._stop, self._noise = threading.Event(), np.random.default_rng(seed)

    def _serve(self, channel: Channel) -> None:
        with contextlib.suppress(EOFError, OSError, FrameError, Shut):
            self.servant.serve(channel)

    @contextmanager
    def exchange(self, wire: Wire) -> Iterator[TunnelExchange]:
        with channels() as (here, there), ThreadPoolExecutor(2) as pool, ExitStack() as stack:
            futures = [
                pool.submit(self._serve, here),
                pool.submit(self.others.merge_until, self._stop, self._noise),
            ]
            stack.callback(self._stop.set)
            exchange = TunnelExchange(there, SIZE, wire, "agwu", lambda: None, lambda _: None)
            stack.callback(exchange.close)
            stack.callback(there.shutdown)
            yield exchange
            stack.close()
            for future in futures:
                future.result(SECONDS)


@pytest.mark.parametrize("wire", WIRES)
@given(sizes=st.lists(st.integers(1, 4), min_size=1, max_size=12), seed=st.integers(0, 2**16))
@settings(max_examples=max(4, settings().max_examples // 5))
def test_both_sides_hold_the_same_while_others_merge(wire: Wire, sizes: list[int], seed: int) -> None:
    """Bursts of submissions, a busy writer beside: no progress is lost or counted twice, no bit differs."""
    random = np.random.default_rng(seed)
    with WeightBuffer.create(SIZE, 2) as buffer:
        initial = drawn(random, 1.0)
        buffer.store(initial)
        busy = Busy(buffer, wire, sum(sizes), seed + 1)
        weights, progress = np.empty(SIZE, np.float32), np.zeros(SIZE)
        with busy.exchange(wire) as exchange:
            exchange.begin(weights)
            for burst in sizes:
                for _ in range(burst):
                    before = weights.astype(np.float64)
                    weights += drawn(random)
                    progress += weights - before
                    exchange.submit(weights, Iteration(1, samples=1, correct=1))
                while not exchange.ready():
                    exchange.settle(weights)
                assert np.array_equal(exchange._held, busy.servant._held)  # type: ignore[arg-type]
                exchange.begin(weights)
                assert np.array_equal(weights, exchange._held)
        assert busy.ours.count == sum(sizes)
        np.testing.assert_allclose(busy.ours.deltas + exchange._feedback.residual, progress, atol=1e-4)
        final = np.empty(SIZE, np.float32)
        buffer.snapshot(final)
        np.testing.assert_allclose(final, initial + busy.ours.sum + busy.others.sum, atol=1e-3)
        assert buffer.updates() == busy.ours.count + busy.others.count
        buffer.validate()
        del busy  # its views of the buffer
