"""What every transport promises of submissions: one suite, run against each of them over a real weight buffer."""

import os
from collections.abc import Iterator
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bptcnn.memory import WeightBuffer
from bptcnn.nodes.exchange import Diverged, Exchange, SharedExchange
from bptcnn.outer import Update, submission_scale

PARAMETERS = 37
Floats = npt.NDArray[np.float32]


class Bench(Protocol):
    """A global weight set as the coordinator holds it, and nodes' ways to it."""

    buffer: WeightBuffer

    def exchange(self, node: int, update: Update) -> Exchange: ...

    def close(self) -> None: ...


class SharedBench:
    """Shared memory, mapped once for the coordinator and once for each node."""

    def __init__(self, nodes: int) -> None:
        self.buffer = WeightBuffer.create(PARAMETERS, nodes)
        self._nodes = nodes
        self._attached: list[WeightBuffer] = []
        for node in range(nodes):
            self.buffer.set_live(node, True)

    def exchange(self, node: int, update: Update) -> Exchange:
        attached = WeightBuffer.attach(os.dup(self.buffer.fd), PARAMETERS, self._nodes)
        self._attached.append(attached)
        return SharedExchange(attached, node, update)

    def close(self) -> None:
        for attached in self._attached:
            attached.close()
        self.buffer.close()


TRANSPORTS = {"shared": SharedBench}
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
    exchange.refresh(out)
    return out


def test_refresh_copies_the_weight_set_and_publishes_its_version(bench: Bench) -> None:
    bench.buffer.store(np.arange(PARAMETERS, dtype=np.float32))
    exchanges = [bench.exchange(node, "agwu") for node in range(NODES)]
    assert np.array_equal(refreshed(exchanges[2]), np.arange(PARAMETERS))
    for expected in (1, 2):
        exchanges[0].submit(refreshed(exchanges[0]), np.ones(PARAMETERS, np.float32), 4, 2)
        out = np.empty(PARAMETERS, np.float32)
        assert exchanges[1].updates() == exchanges[1].refresh(out) == expected
        assert np.array_equal(out, contents(bench))
    assert bench.buffer.table().base_versions.tolist() == [1, 2, 0]


@pytest.mark.parametrize("update", ["agwu", "agwu-published"])
def test_a_submission_is_merged_with_the_scale_of_the_rule(bench: Bench, update: Update) -> None:
    random = np.random.default_rng(3)
    exchanges = [bench.exchange(node, update) for node in range(NODES)]
    bases = [refreshed(exchange) for exchange in exchanges]
    expected = contents(bench).astype(np.float64)
    for number, (node, correct) in enumerate([(0, 3), (2, 8), (1, 1), (2, 5), (0, 10)]):
        delta = random.standard_normal(PARAMETERS).astype(np.float32)
        table = bench.buffer.table()
        qualities = table.qualities.copy()
        qualities[node] = correct / 10
        scale = submission_scale(update, node, table.base_versions, qualities, table.live, number)  # type: ignore[arg-type]
        expected += scale * delta
        exchanges[node].submit(bases[node], bases[node] + delta, 10, correct)
        np.testing.assert_allclose(contents(bench), expected, rtol=1e-4, atol=1e-5)
        assert bench.buffer.submission(node).scale == pytest.approx(scale)
        assert bench.buffer.table().qualities[node] == correct / 10
        bases[node] = refreshed(exchanges[node])


def test_receipts(bench: Bench) -> None:
    first, second = bench.exchange(0, "agwu"), bench.exchange(1, "agwu")
    base = refreshed(first)
    for sequence in (1, 2, 3):
        other = refreshed(second)
        receipt = second.submit(other, other, 5 * sequence, 1)
        assert (receipt.sequence, receipt.staleness) == (sequence, 0)
        assert receipt.samples_committed == sum(5 * s for s in range(1, sequence + 1))
        assert bench.buffer.submission(1).samples == receipt.samples_committed
    receipt = first.submit(base, base, 7, 0)
    assert (receipt.sequence, receipt.samples_committed, receipt.staleness) == (1, 7, 3)
    assert bench.buffer.updates() == first.updates() == 4


@given(samples=st.lists(st.integers(1, 1000), min_size=1, max_size=12), data=st.data())
@pytest.mark.parametrize("transport", sorted(TRANSPORTS))
def test_samples_add_up_whatever_was_right(transport: str, samples: list[int], data: st.DataObject) -> None:
    bench = TRANSPORTS[transport](1)
    try:
        exchange = bench.exchange(0, "agwu")
        for count in samples:
            base = refreshed(exchange)
            exchange.submit(base, base + 1, count, data.draw(st.integers(0, count)))
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
            receipt = exchange.submit(base, base + node + 1, 8, 4)
            assert (receipt.sequence, receipt.staleness) == (round_, 0)
            assert bench.buffer.pending(node)
            assert np.array_equal(contents(bench), before), "merged without the coordinator"
        assert bench.buffer.merge_for(0, 0.25)
        assert bench.buffer.merge_for(1, 0.75)
        assert not bench.buffer.pending(0)
        np.testing.assert_allclose(contents(bench), before + 0.25 * 1 + 0.75 * 2)


def test_a_node_that_is_not_live_does_not_merge(bench: Bench) -> None:
    exchange = bench.exchange(1, "agwu")
    base = refreshed(exchange)
    bench.buffer.set_live(1, False)
    with pytest.raises(ValueError, match="not live"):
        exchange.submit(base, base + 1, 8, 4)
    assert not contents(bench).any()
    assert bench.buffer.submission(1).sequence == 0


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_weights_that_have_diverged_are_not_submitted(bench: Bench, value: float) -> None:
    exchange = bench.exchange(0, "agwu")
    base = refreshed(exchange)
    before = contents(bench)
    trained = base.copy()
    trained[-1] = value
    with pytest.raises(Diverged):
        exchange.submit(base, trained, 8, 8)
    assert bench.buffer.updates() == 0
    assert np.array_equal(contents(bench), before)
