"""The coordinator's side of a node's data: what a host that lies or is broken sends is refused and harms nobody."""

import contextlib
import math
import queue
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bptcnn.data import Samples
from bptcnn.memory import WeightBuffer
from bptcnn.nodes.claims import Impossible, Shipments
from bptcnn.nodes.divergence import Diverged
from bptcnn.nodes.encoding import decode, encode
from bptcnn.nodes.exchange import Committer, Iteration
from bptcnn.nodes.frames import META_LIMIT, Channel, Frame, FrameError, Kind
from bptcnn.nodes.gate import Shut
from bptcnn.nodes.servant import Servant
from bptcnn.nodes.wire import Wire, payload_size
from bptcnn.outer import Submitted, Update, Work

SIZE = 37
SECONDS = 30.0
KEY = bytes(range(32))
REFUSALS = (Impossible, Diverged, ValueError, FrameError)
SAMPLES = Samples(np.arange(5 * 12, dtype=np.uint8).reshape(5, 2, 2, 3), np.arange(5, dtype=np.int32))


def work(epoch: int, samples: int) -> Work:
    return Work(epoch, np.zeros(samples, np.int32), 0.1, 1)


class Served:
    """A servant at one end of a channel, a host that says what it likes at the other."""

    def __init__(self, wire: Wire, update: Update) -> None:
        self.wire: Wire = wire
        self.buffer = WeightBuffer.create(SIZE, 2)
        self.buffer.store(np.linspace(-1, 1, SIZE, dtype=np.float32))
        for node in (0, 1):
            self.buffer.set_live(node, True)
        self.reports: queue.SimpleQueue[Submitted] = queue.SimpleQueue()
        self.servant = Servant(0, Committer(self.buffer, 0, update), update, wire, SIZE, SAMPLES, self.reports.put)
        ours, theirs = socket.socketpair()
        with ThreadPoolExecutor(1) as pool:
            accepting = pool.submit(Channel.accept, ours, KEY, 0, SECONDS)
            self.host = Channel.connect(theirs, KEY, 0, SECONDS)
            self.here = accepting.result(SECONDS)
        self.ended: list[BaseException] = []
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()

    def _serve(self) -> None:
        try:
            self.servant.serve(self.here)
        except BaseException as error:  # whatever it is: the test asks
            self.ended.append(error)
        self.here.shutdown()

    def weights(self) -> npt.NDArray[np.float32]:
        out = np.empty(SIZE, np.float32)
        self.buffer.snapshot(out)
        return out

    def ask(self, kind: Kind, meta: dict[str, Any], payload: Any = b"") -> Frame:
        self.host.send(kind, meta, payload)
        return self.host.receive({Kind.WEIGHTS: 4 * SIZE, Kind.MERGED: 4 * SIZE, Kind.CHUNK: 1 << 20})

    def submit(self, samples: int, payload: Any = None, **changes: Any) -> Frame:
        progress = encode(self.wire, np.full(SIZE, 0.5, np.float32)) if payload is None else payload
        return self.ask(Kind.SUBMIT, head(samples) | changes, progress)

    def is_refused(self, meta: dict[str, Any], payload: Any = None) -> BaseException:
        """Send a submission; it must end the conversation and change nothing."""
        before, updates = self.weights(), self.buffer.updates()
        table, record = self.buffer.table(), self.buffer.submission(0)
        whole = encode(self.wire, np.full(SIZE, 0.5, np.float32)) if payload is None else payload
        with contextlib.suppress(OSError):
            self.host.send(Kind.SUBMIT, meta, whole)
        with pytest.raises((EOFError, FrameError)):
            self.host.receive({Kind.MERGED: 4 * SIZE})
        self.thread.join(SECONDS)
        (error,) = self.ended
        assert isinstance(error, REFUSALS), repr(error)
        assert "\n" not in str(error)
        assert len(str(error)) < 500
        assert np.array_equal(self.weights(), before)
        assert self.buffer.updates() == updates
        assert self.buffer.submission(0) == record
        assert np.array_equal(self.buffer.table().base_versions, table.base_versions)
        assert np.isfinite(self.buffer.table().qualities).all()
        self.buffer.validate()
        assert self.reports.empty()
        return error

    def close(self) -> None:
        self.servant.gate.shut()
        for channel in (self.host, self.here):
            channel.shutdown()
        self.thread.join(SECONDS)
        for channel in (self.host, self.here):
            channel.close()
        del self.servant
        self.buffer.close()


def head(samples: int) -> dict[str, Any]:
    return {**asdict(Iteration(1, samples, 1.0, samples // 2)), "version": 0, "transfer_seconds": 0.25}


@contextmanager
def served(wire: Wire = "float32", update: Update = "agwu", sent: int = 100) -> Iterator[Served]:
    made = Served(wire, update)
    made.servant.shipments.add(work(1, sent))
    try:
        yield made
    finally:
        made.close()


# ---- what was sent ---------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 9)), max_size=8), st.data())
def test_samples_come_back_in_the_order_sent(sent: list[tuple[int, int]], data: st.DataObject) -> None:
    shipments = Shipments()
    sent = sorted(sent)
    for epoch, samples in sent:
        shipments.add(work(epoch, samples))
    left = [epoch for epoch, samples in sent for _ in range(samples)]
    while left:
        epoch = left[0]
        count = data.draw(st.integers(1, left.count(epoch)))
        shipments.take(epoch, count)
        del left[:count]
    with pytest.raises(Impossible, match="was not sent"):
        shipments.take(1, 1)


@given(st.integers(1, 20), st.integers(1, 20))
def test_more_than_was_sent_is_refused(sent: int, more: int) -> None:
    shipments = Shipments()
    shipments.add(work(1, sent))
    shipments.add(work(2, 100))
    with pytest.raises(Impossible, match=f"{sent + more} samples of epoch 1"):
        shipments.take(1, sent + more)


# ---- the honest conversation -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("wire", ["float32", "float16", "bfloat16"])
def test_weights_then_submissions(wire: Wire) -> None:
    with served(wire) as here:
        first = here.ask(Kind.WEIGHTS, {})
        assert first.meta == {"version": 0, "full": True}
        held = np.empty(SIZE, np.float32)
        decode("float32", first.payload, held)
        assert np.array_equal(held, here.weights())
        scratch = np.empty(SIZE, np.float32)
        for number in (1, 2, 3):
            answer = here.submit(10, version=number - 1)
            whole = wire == "float32"  # no longer than the difference, and not rounded
            assert answer.meta == {"version": number, "full": whole}
            assert len(answer.payload) == payload_size(wire, SIZE)
            decode(wire, answer.payload, scratch)
            held = scratch.copy() if whole else held + scratch
            np.testing.assert_allclose(held, here.weights(), atol=0 if whole else 1e-2)
            report = here.reports.get(timeout=SECONDS)
            assert (report.node, report.sequence, report.samples_committed) == (0, number, 10 * number)
            assert (report.epoch, report.samples, report.correct, report.loss_sum) == (1, 10, 5, 1.0)
            assert (report.staleness, report.transfer_seconds) == (0, 0.25)


def test_the_report_is_made_before_the_answer() -> None:
    with served() as here:
        here.ask(Kind.WEIGHTS, {})
        for _ in range(20):
            here.submit(5)
            assert here.reports.get_nowait().samples == 5, "the answer came first"


def test_bytes_are_counted_as_the_node_sees_them() -> None:
    with served() as here:
        here.host.send(Kind.SAMPLES)
        for _ in range(2):
            here.host.receive({Kind.CHUNK: 1 << 20})
        here.ask(Kind.WEIGHTS, {})
        here.submit(5)
        here.submit(5)
        reports = [here.reports.get(timeout=SECONDS) for _ in range(2)]
        assert all(4 * SIZE < report.bytes_sent < 4 * SIZE + 1000 for report in reports[1:])
        assert all(4 * SIZE < report.bytes_received < 4 * SIZE + 1000 for report in reports), reports


def test_samples_are_sent_as_they_are_and_once() -> None:
    with served() as here:
        here.host.send(Kind.SAMPLES)
        chunks = [here.host.receive({Kind.CHUNK: 1 << 20}).payload.tobytes() for _ in range(2)]
        assert chunks == [SAMPLES.images.tobytes(), SAMPLES.labels.tobytes()]
        here.host.send(Kind.SAMPLES)
        here.thread.join(SECONDS)
        assert isinstance(here.ended[0], FrameError)


def test_who_asks_for_weights_and_submits_nothing_is_out() -> None:
    with served() as here:
        for _ in range(8):
            here.ask(Kind.WEIGHTS, {})
        here.submit(5)
        for _ in range(8):
            here.ask(Kind.WEIGHTS, {})
        here.host.send(Kind.WEIGHTS)
        here.thread.join(SECONDS)
        assert isinstance(here.ended[0], Impossible)
        assert str(here.ended[0]) == "it asked for the weights 9 times and submitted nothing"


@pytest.mark.parametrize(
    "change",
    [
        {"timed_seconds": 1e300},
        {"timed_seconds": 1e8},
        {"compute_seconds": 1e3},
        {"wait_seconds": 1e3},
        {"communication_seconds": 1e3},
        {"transfer_seconds": 1e300},
        {"transfer_seconds": 1e3},
        {"loss_sum": 1e300},
        {"loss_sum": 1e8},
        {"samples": 2**41},
        {"version": 2**50},
    ],
    ids=str,
)
def test_what_contradicts_the_clock_or_all_experience_is_refused(change: dict[str, Any]) -> None:
    with served() as here:
        here.ask(Kind.WEIGHTS, {})
        assert isinstance(here.is_refused(head(5) | change), Impossible)


def test_times_are_refused_as_a_sum() -> None:
    with served() as here:
        here.ask(Kind.WEIGHTS, {})
        for _ in range(2):
            here.submit(1, wait_seconds=4.0)
        here.reports.get()
        here.reports.get()
        error = here.is_refused(head(1) | {"wait_seconds": 4.0})
        assert str(error).startswith("it says wait_seconds of 12, and came 0 s ago")


@pytest.mark.parametrize("value", [1e4, 1e15, -1e18])
def test_a_difference_far_beyond_the_weights_is_refused(value: float) -> None:
    with served() as here:
        here.ask(Kind.WEIGHTS, {})
        payload = encode("float32", np.full(SIZE, value, np.float32))
        assert isinstance(here.is_refused(head(5), payload), Diverged)


def test_a_large_difference_is_taken() -> None:
    """Of 50 times the weights' norm: learning rates that are far too high make some."""
    with served() as here:
        here.ask(Kind.WEIGHTS, {})
        step = np.zeros(SIZE, np.float32)
        step[3] = 50 * np.linalg.norm(here.weights())
        here.submit(5, encode("float32", step))
        assert here.weights()[3] > 50


def test_a_closed_gate_holds_a_submission_back_and_a_shut_one_refuses_it() -> None:
    with served() as here:
        here.ask(Kind.WEIGHTS, {})
        before = here.weights()
        here.servant.gate.close()
        here.host.send(Kind.SUBMIT, head(5), encode("float32", np.ones(SIZE, np.float32)))
        here.host.send(Kind.WEIGHTS)
        with pytest.raises(TimeoutError):
            here.host.receive({Kind.MERGED: 4 * SIZE}, 0.2)
        assert here.reports.empty()
        assert np.array_equal(here.weights(), before)
        here.servant.gate.open()
        here.host.receive({Kind.MERGED: 4 * SIZE}, SECONDS)
        here.host.receive({Kind.WEIGHTS: 4 * SIZE}, SECONDS)
        assert here.reports.get(timeout=SECONDS).samples == 5
        here.servant.gate.close()
        here.host.send(Kind.SUBMIT, head(5), encode("float32", np.ones(SIZE, np.float32)))
        after = here.weights()
        here.servant.gate.shut()
        here.thread.join(SECONDS)
        assert isinstance(here.ended[0], Shut)
        assert np.array_equal(here.weights(), after)


# ---- refusals --------------------------------------------------------------------------------------------------------

HUGE = [2**62, 2**63, 10**400]
WRONG = [None, True, -1, -0.5, "1", "", [1], 10**400, 1e301, "\x1b[2J" * 500]
REFUSED = [
    *({"samples": value} for value in (0, 101, 10**9, *HUGE)),
    *({"epoch": value} for value in (0, 2, *HUGE)),
    *({"correct": value} for value in (11, *HUGE)),
    *({"version": value} for value in (1, *HUGE)),
    *({"timed_samples": value} for value in (11, *HUGE)),
    *({name: value} for name in ("samples", "loss_sum", "version") for value in WRONG),
    {"unknown": 1},
    {"x" * 5000: 1},
]


@pytest.mark.parametrize("changes", REFUSED, ids=lambda changes: f"{changes!s:.30}")
def test_submissions_that_cannot_be_are_refused(changes: dict[str, Any]) -> None:
    with served() as here:
        here.ask(Kind.WEIGHTS, {})
        here.is_refused(head(10) | changes)


@pytest.mark.parametrize("name", list(head(1)))
def test_a_submission_without_a_field_is_refused(name: str) -> None:
    meta = head(10)
    del meta[name]
    with served() as here:
        here.is_refused(meta)


def test_a_submission_of_two_epochs_is_refused() -> None:
    with served(sent=6) as here:
        here.servant.shipments.add(work(2, 6))
        here.is_refused(head(10))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 3e38])
@pytest.mark.parametrize("wire", ["float32", "bfloat16"])
def test_weights_that_are_no_numbers_are_refused(wire: Wire, value: float) -> None:
    progress = np.zeros(SIZE, np.float32)
    progress[3] = value
    bits = progress.view(np.uint32)
    payload = progress.tobytes() if wire == "float32" else (bits >> 16).astype("<u2").tobytes()
    with served(wire) as here:
        here.ask(Kind.WEIGHTS, {})
        here.is_refused(head(10), payload)


@pytest.mark.parametrize("scale", [math.nan, math.inf, -1.0, 0.0, 3.0, 2.0**127])
def test_scales_that_are_none_are_refused(scale: float) -> None:
    halves = np.full(SIZE, 65504, np.float16).tobytes()
    with served("float16") as here:
        here.ask(Kind.WEIGHTS, {})
        here.is_refused(head(10), np.float32(scale).tobytes() + halves)


@pytest.mark.parametrize("wire", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("more", [-1, 1, -2, 4, 4 * SIZE, 10**6, None])
def test_payloads_of_another_size_are_refused(wire: Wire, more: int | None) -> None:
    size = 0 if more is None else payload_size(wire, SIZE) + more
    with served(wire) as here:
        here.ask(Kind.WEIGHTS, {})
        here.is_refused(head(10), bytes(size))


@pytest.mark.parametrize("kind", [Kind.MERGED, Kind.CHUNK, Kind.ERROR, Kind.HELLO])
def test_kinds_that_are_the_coordinators_own_are_refused(kind: Kind) -> None:
    with served() as here:
        here.host.send(kind)
        here.thread.join(SECONDS)
        assert isinstance(here.ended[0], FrameError)


@pytest.mark.parametrize("kind", [Kind.WEIGHTS, Kind.SAMPLES])
def test_requests_have_no_payload(kind: Kind) -> None:
    with served() as here:
        here.host.send(kind, {}, b"x")
        here.thread.join(SECONDS)
        assert isinstance(here.ended[0], FrameError)


def test_a_second_submission_in_a_round_is_refused_and_the_first_stays_whole() -> None:
    with served(update="sgwu") as here:
        here.ask(Kind.WEIGHTS, {})
        before = here.weights()
        assert not here.submit(10).payload.size
        assert here.reports.get(timeout=SECONDS).sequence == 1
        here.is_refused(head(10), encode("float32", np.full(SIZE, 9.0, np.float32)))
        assert here.buffer.merge_for(0, 1.0)
        np.testing.assert_allclose(here.weights(), before + 0.5, rtol=1e-6)


def test_a_submission_before_any_weights_is_refused() -> None:
    """It could be measured against nothing: its step may be as long as it likes."""
    with served() as here:
        error = here.is_refused(head(10), encode("float32", np.full(SIZE, 1e15, np.float32)))
        assert str(error) == "it trained from version 0, which it was not sent"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(sorted(head(1))), JSON, min_size=1))
def test_whatever_the_head_holds_it_is_refused_or_right(changes: dict[str, Any]) -> None:
    meta = head(10) | changes
    with served() as here:
        here.ask(Kind.WEIGHTS, {})
        try:
            answer = here.ask(Kind.SUBMIT, meta, encode("float32", np.full(SIZE, 0.5, np.float32)))
        except (EOFError, FrameError, OSError):
            here.thread.join(SECONDS)
            assert isinstance(here.ended[0], REFUSALS), repr(here.ended[0])
            assert here.buffer.updates() == 0
        else:
            assert answer.meta["version"] == 1
            assert here.reports.get(timeout=SECONDS).samples == meta["samples"] <= 100


def test_the_longest_head_costs_no_more_than_its_limit() -> None:
    with served() as here:
        here.ask(Kind.WEIGHTS, {})
        here.is_refused({"x": "y" * (META_LIMIT - 20)})
