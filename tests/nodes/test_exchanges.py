"""What every transport promises of submissions and optimizer states: one suite, run against each of them."""

import contextlib
import functools
import os
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bptcnn.data import Samples
from bptcnn.memory import WeightBuffer
from bptcnn.nodes.divergence import Diverged
from bptcnn.nodes.exchange import Committer, Exchange, Iteration, SharedExchange
from bptcnn.nodes.frames import Channel, FrameError
from bptcnn.nodes.gate import Shut
from bptcnn.nodes.hand_over import HandOver
from bptcnn.nodes.optimizer_memory import OptimizerMemory
from bptcnn.nodes.optimizer_state import OptimizerState
from bptcnn.nodes.servant import Servant
from bptcnn.nodes.tunnel import TunnelExchange
from bptcnn.nodes.wire import Wire
from bptcnn.outer import Submitted, Update, Work, submission_scale

PARAMETERS = 37
NEW = OptimizerState(0)
SECONDS = 30.0  # that anything may take before it counts as hung
Floats = npt.NDArray[np.float32]


class Bench(Protocol):
    """A global weight set as the coordinator holds it, and nodes' ways to it."""

    buffer: WeightBuffer
    tolerance: float  # relative, of what was submitted

    def exchange(self, node: int, update: Update, start: OptimizerState = NEW) -> Exchange: ...

    def pause(self, node: int) -> None:
        """As the driver tells the node."""

    def resume(self, node: int) -> None: ...

    def kept(self, node: int) -> OptimizerState | None:
        """What the node has handed over, once the driver hears that it is paused."""

    def submit(self, node: int, exchange: Exchange, weights: Floats, samples: int, correct: int) -> Submitted: ...

    def close(self) -> None: ...


class SharedBench:
    """Shared memory, mapped once for the coordinator and once for each node."""

    tolerance = 1e-6

    def __init__(self, nodes: int) -> None:
        self.buffer = WeightBuffer.create(PARAMETERS, nodes)
        self._nodes = nodes
        self._attached: list[WeightBuffer | OptimizerMemory] = []
        self._optimizers = [OptimizerMemory.create(PARAMETERS) for _ in range(nodes)]
        for node in range(nodes):
            self.buffer.set_live(node, True)

    def exchange(self, node: int, update: Update, start: OptimizerState = NEW) -> Exchange:
        attached = WeightBuffer.attach(os.dup(self.buffer.fd), PARAMETERS, self._nodes)
        self._optimizers[node].put(start)
        optimizer = OptimizerMemory.attach(os.dup(self._optimizers[node].fd), PARAMETERS)
        self._attached += [attached, optimizer]
        return SharedExchange(attached, node, update, optimizer)

    def pause(self, node: int) -> None:
        pass

    def resume(self, node: int) -> None:
        self._optimizers[node].forget()

    def kept(self, node: int) -> OptimizerState | None:
        return self._optimizers[node].get()

    def submit(self, node: int, exchange: Exchange, weights: Floats, samples: int, correct: int) -> Submitted:
        iteration = Iteration(1, samples=samples, correct=correct)
        receipt = exchange.submit(weights, iteration)
        assert receipt is not None
        return receipt.report(node, 0.0, iteration)

    def close(self) -> None:
        for attached in (*self._attached, *self._optimizers):
            attached.close()
        self.buffer.close()


class TunnelBench:
    """Frames over sockets, a servant for each node."""

    wire: Wire = "float32"
    tolerance = 1e-6

    def __init__(self, nodes: int) -> None:
        self.buffer = WeightBuffer.create(PARAMETERS, nodes)
        self._closing: list[Callable[[], None]] = []
        self._reports: dict[int, queue.SimpleQueue[Submitted | None]] = {}
        self._hand_overs: dict[int, HandOver] = {}
        self._paused = [threading.Event() for _ in range(nodes)]
        for node in range(nodes):
            self.buffer.set_live(node, True)

    def exchange(self, node: int, update: Update, start: OptimizerState = NEW) -> Exchange:
        ours, theirs = socket.socketpair()
        key = bytes(range(32))
        with ThreadPoolExecutor(1) as pool:
            accepting = pool.submit(Channel.accept, ours, key, node, SECONDS)
            there = Channel.connect(theirs, key, node, SECONDS)
            here = accepting.result(SECONDS)
        committer = Committer(self.buffer, node, update)
        reports = self._reports[node] = queue.SimpleQueue()
        samples = Samples(np.zeros((1, 2, 2, 1), np.uint8), np.zeros(1, np.int32))
        keep = functools.partial(self._keep, node)
        about = node, committer, update, self.wire, PARAMETERS, samples, reports.put
        servant = Servant(*about, keep, PARAMETERS, start.velocity)
        self._hand_overs[node] = HandOver(servant.gate, True, start, self._paused[node].set)
        servant.shipments.add(Work(1, np.zeros(10**6, np.int32), 0.1, 1))
        serving = threading.Thread(target=self._serve, args=(servant, here))
        serving.start()
        handlers = (lambda: None), (lambda _: reports.put(None))
        velocities = True, start.velocity is not None
        exchange = TunnelExchange(there, PARAMETERS, self.wire, update, *handlers, *velocities)

        def close() -> None:
            exchange.close()
            servant.gate.shut()
            for channel in (there, here):
                channel.shutdown()
            serving.join(SECONDS)
            for channel in (there, here):
                channel.close()

        self._closing.append(close)
        return exchange

    def _keep(self, node: int, state: OptimizerState) -> bool:
        return self._hand_overs[node].take(state)

    def pause(self, node: int) -> None:
        self._paused[node].clear()
        self._hand_overs[node].pause()

    def resume(self, node: int) -> None:
        self._hand_overs[node].resume()

    def kept(self, node: int) -> OptimizerState | None:
        assert self._paused[node].wait(SECONDS)
        return self._hand_overs[node].state()

    @staticmethod
    def _serve(servant: Servant, channel: Channel) -> None:
        with contextlib.suppress(EOFError, OSError, FrameError, Shut, ValueError):
            servant.serve(channel)
        channel.shutdown()

    def submit(self, node: int, exchange: Exchange, weights: Floats, samples: int, correct: int) -> Submitted:
        assert exchange.submit(weights, Iteration(1, samples=samples, correct=correct)) is None
        report = self._reports[node].get(timeout=SECONDS)
        if report is None:
            raise ValueError("the other side refused it: the node is not live")
        deadline = time.monotonic() + SECONDS
        while not exchange.ready():
            exchange.settle(weights)
            assert time.monotonic() < deadline
        return report

    def close(self) -> None:
        while self._closing:  # and forget them: they hold views of the buffer
            self._closing.pop()()
        self.buffer.close()


class HalvedBench(TunnelBench):
    """The same in bfloat16."""

    wire: Wire = "bfloat16"
    tolerance = 2.0**-7


TRANSPORTS = {"shared": SharedBench, "tunnel": TunnelBench, "tunnel bfloat16": HalvedBench}
NODES = 3


@pytest.fixture(params=sorted(TRANSPORTS))
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    made = TRANSPORTS[request.param](NODES)
    yield made
    made.close()


def contents(bench: Bench) -> Floats:
    out = np.empty(PARAMETERS, np.float32)
    bench.buffer.snapshot(out)
    return out


def refreshed(exchange: Exchange) -> Floats:
    out = np.empty(PARAMETERS, np.float32)
    exchange.begin(out)
    return out


def test_a_node_starts_from_the_weight_set(bench: Bench) -> None:
    bench.buffer.store(np.arange(PARAMETERS, dtype=np.float32))
    exchanges = [bench.exchange(node, "agwu") for node in range(NODES)]
    assert np.array_equal(refreshed(exchanges[2]), np.arange(PARAMETERS))
    for expected in (1, 2):
        weights = refreshed(exchanges[0])
        bench.submit(0, exchanges[0], weights + 1, 4, 2)
        out = refreshed(exchanges[0])
        assert exchanges[0].updates_behind() == 0
        np.testing.assert_allclose(out, contents(bench), rtol=bench.tolerance)
        assert bench.buffer.updates() == expected
    assert bench.buffer.table().base_versions == [2, 0, 0]


@pytest.mark.parametrize("update", ["agwu", "agwu-published"])
def test_a_submission_is_merged_with_the_scale_of_the_rule(bench: Bench, update: Update) -> None:
    random = np.random.default_rng(3)
    exchanges = [bench.exchange(node, update) for node in range(NODES)]
    bases = [refreshed(exchange) for exchange in exchanges]
    expected = contents(bench).astype(np.float64)
    for number, (node, correct) in enumerate([(0, 3), (2, 8), (1, 1), (2, 5), (0, 10)]):
        delta = random.standard_normal(PARAMETERS).astype(np.float32)
        table = bench.buffer.table()
        qualities = list(table.qualities)
        qualities[node] = correct / 10
        scale = submission_scale(update, node, table.base_versions, qualities, table.live, number)  # type: ignore[arg-type]
        expected += scale * delta
        bench.submit(node, exchanges[node], bases[node] + delta, 10, correct)
        np.testing.assert_allclose(contents(bench), expected, rtol=1e-4, atol=1e-5 + 4 * bench.tolerance)
        assert bench.buffer.submission(node).scale == pytest.approx(scale)
        assert bench.buffer.table().qualities[node] == correct / 10
        bases[node] = refreshed(exchanges[node])


def test_receipts(bench: Bench) -> None:
    first, second = bench.exchange(0, "agwu"), bench.exchange(1, "agwu")
    base = refreshed(first)
    for sequence in (1, 2, 3):
        report = bench.submit(1, second, refreshed(second), 5 * sequence, 1)
        assert (report.node, report.sequence, report.staleness) == (1, sequence, 0)
        assert report.samples_committed == sum(5 * s for s in range(1, sequence + 1))
        assert bench.buffer.submission(1).samples == report.samples_committed
        assert report.bytes_sent > 0
        assert report.bytes_received > 0
    report = bench.submit(0, first, base, 7, 0)
    assert (report.sequence, report.samples_committed, report.staleness) == (1, 7, 3)
    assert bench.buffer.updates() == 4


@given(samples=st.lists(st.integers(1, 1000), min_size=1, max_size=12), data=st.data())
@pytest.mark.parametrize("transport", sorted(TRANSPORTS))
def test_samples_add_up_whatever_was_right(transport: str, samples: list[int], data: st.DataObject) -> None:
    bench: Bench = TRANSPORTS[transport](1)
    try:
        exchange = bench.exchange(0, "agwu")
        for count in samples:
            bench.submit(0, exchange, refreshed(exchange) + 1, count, data.draw(st.integers(0, count)))
        assert bench.buffer.submission(0).samples == sum(samples)
        assert bench.buffer.updates() == len(samples)
        assert not bench.buffer.pending(0)
    finally:
        bench.close()


def test_sgwu_leaves_the_merge_to_the_coordinator(bench: Bench) -> None:
    exchanges = [bench.exchange(node, "sgwu") for node in range(2)]
    for round_ in (1, 2):
        before = contents(bench)
        for node, exchange in enumerate(exchanges):
            base = refreshed(exchange)
            np.testing.assert_allclose(base, before, rtol=bench.tolerance)
            report = bench.submit(node, exchange, base + node + 1, 8, 4)
            assert (report.sequence, report.staleness) == (round_, 0)
            assert bench.buffer.pending(node)
            assert np.array_equal(contents(bench), before), "merged without the coordinator"
        assert bench.buffer.merge_for(0, 0.25)
        assert bench.buffer.merge_for(1, 0.75)
        assert not bench.buffer.pending(0)
        np.testing.assert_allclose(contents(bench), before + 0.25 * 1 + 0.75 * 2, rtol=bench.tolerance)


def test_a_node_that_is_not_live_does_not_merge(bench: Bench) -> None:
    exchange = bench.exchange(1, "agwu")
    base = refreshed(exchange)
    bench.buffer.set_live(1, False)
    with pytest.raises(ValueError, match="not live"):
        bench.submit(1, exchange, base + 1, 8, 4)
    assert not contents(bench).any()
    assert bench.buffer.submission(1).sequence == 0


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_weights_that_have_diverged_are_not_submitted(bench: Bench, value: float) -> None:
    exchange = bench.exchange(0, "agwu")
    trained = refreshed(exchange)
    before = contents(bench)
    trained[-1] = value
    with pytest.raises(Diverged):
        bench.submit(0, exchange, trained, 8, 8)
    assert bench.buffer.updates() == 0
    assert np.array_equal(contents(bench), before)


@pytest.mark.parametrize("update", ["agwu", "sgwu"])
def test_what_is_forgotten_is_not_submitted_and_the_newest_weights_come(bench: Bench, update: Update) -> None:
    first, second = bench.exchange(0, update), bench.exchange(1, update)
    trained = refreshed(first)
    report = bench.submit(1, second, refreshed(second) + 1, 8, 4)
    if update == "sgwu":
        bench.buffer.merge_for(1, 1.0)
    trained[:] = np.nan
    with pytest.raises(Diverged):
        bench.submit(0, first, trained, 8, 4)
    assert first.ready()
    first.forget()
    first.begin(trained)
    np.testing.assert_allclose(trained, contents(bench), rtol=bench.tolerance)
    assert contents(bench).any()
    assert bench.buffer.submission(0).samples == 0
    report = bench.submit(0, first, trained + 1, 8, 4)
    assert (report.sequence, report.samples_committed) == (1, 8)
    assert report.staleness == 0


def test_a_node_takes_its_place_over_from_a_dead_one(bench: Bench) -> None:
    first = bench.exchange(0, "agwu")
    bench.submit(0, first, refreshed(first) + 1, 8, 4)
    second = bench.exchange(0, "agwu")
    np.testing.assert_allclose(refreshed(second), contents(bench), rtol=1e-6)
    report = bench.submit(0, second, refreshed(second) + 1, 5, 4)
    assert (report.sequence, report.samples_committed) == (2, 13)


def drawn(seed: int) -> Floats:
    return np.random.default_rng(seed).standard_normal(PARAMETERS).astype(np.float32)


def test_a_node_starts_with_the_velocity_that_it_is_given(bench: Bench) -> None:
    exchange = bench.exchange(1, "agwu", OptimizerState(7, 2.5, drawn(1)))
    velocity = np.zeros(PARAMETERS, np.float32)
    exchange.restore(velocity)
    assert velocity.tobytes() == drawn(1).tobytes()
    bench.submit(1, exchange, refreshed(exchange) + 1, 4, 2)
    without = bench.exchange(2, "agwu")
    velocity = drawn(2)
    without.restore(velocity)
    assert velocity.tobytes() == drawn(2).tobytes(), "there is none: it stays"


@pytest.mark.parametrize("update", ["agwu", "sgwu"])
def test_what_a_paused_node_hands_over_is_what_it_had_then(bench: Bench, update: Update) -> None:
    exchange = bench.exchange(0, update)
    for pause, loss in enumerate([None, 0.1, 2.302585092994046]):
        bench.submit(0, exchange, refreshed(exchange) + 1, 8, 4)
        if update == "sgwu":
            bench.buffer.merge_for(0, 1.0)
        velocity = drawn(pause)
        bench.pause(0)
        exchange.keep(OptimizerState(2**40 + pause, loss, velocity))
        velocity[:] = 0.0
        kept = bench.kept(0)
        assert kept is not None
        assert (kept.step, kept.usual_loss) == (2**40 + pause, loss)
        assert kept.velocity is not None
        assert kept.velocity.tobytes() == drawn(pause).tobytes()
        del kept  # it is a view of the memory
        bench.resume(0)
        bench.pause(0)
        exchange.keep(OptimizerState(5))
        kept = bench.kept(0)
        assert kept is not None
        assert (kept.step, kept.usual_loss, kept.velocity) == (5, None, None)
        bench.resume(0)
    assert bench.buffer.submission(0).sequence == 3


def test_a_node_that_goes_on_has_handed_nothing_over(bench: Bench) -> None:
    exchange = bench.exchange(0, "agwu")
    bench.pause(0)
    exchange.keep(OptimizerState(9, None, drawn(0)))
    assert bench.kept(0) is not None
    bench.resume(0)
    assert bench.kept(0) is None


def test_what_travels_is_merged_before_the_node_is_paused(bench: Bench) -> None:
    exchange = bench.exchange(0, "agwu")
    weights = refreshed(exchange)
    bench.pause(0)
    exchange.submit(weights + 1, Iteration(1, samples=8, correct=4))
    exchange.keep(OptimizerState(9, None, drawn(0)))
    assert bench.kept(0) is not None
    assert bench.buffer.submission(0).samples == 8
    assert not bench.buffer.pending(0)


def test_a_velocity_that_is_not_finite_does_no_harm(bench: Bench) -> None:
    """A node that diverges in a batch is paused before it notices."""
    exchange = bench.exchange(0, "agwu")
    bench.pause(0)
    exchange.keep(OptimizerState(9, None, np.full(PARAMETERS, np.nan, np.float32)))
    kept = bench.kept(0)
    assert kept is not None
    assert kept.step == 9
    bench.resume(0)
    bench.submit(0, exchange, refreshed(exchange) + 1, 8, 4)
