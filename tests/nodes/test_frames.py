"""Frames between two ends of a socket: whole and in order, or refused; and nothing hangs."""

import resource
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from wired import HELLO, PROOF, SECONDS, channels, tapped

from bptcnn.nodes import frames
from bptcnn.nodes.frames import Channel, FrameError, Kind

ALL = dict.fromkeys(Kind, 1 << 25)


@contextmanager
def working(*channels: Channel) -> Iterator[Callable[..., "Future[Any]"]]:
    """Run functions in threads that end with the block, as the channels are shut down then."""
    with ThreadPoolExecutor(4) as pool:
        try:
            yield pool.submit
        finally:
            for channel in channels:
                channel.shutdown()


# ---- what is sent arrives --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 7, 65_535, 65_536, 65_537, 131_073, 16 << 20])
def test_frames_arrive_as_they_were_sent(size: int) -> None:
    payload = np.random.default_rng(size).integers(0, 256, size, np.uint8)
    with channels() as (connected, accepted), working(connected, accepted) as start:
        for sender, receiver in ((connected, accepted), (accepted, connected)):
            sending = start(sender.send, Kind.SUBMIT, {"size": size}, payload)
            frame = receiver.receive({Kind.SUBMIT: size}, SECONDS)
            sending.result(SECONDS)
            assert (frame.kind, frame.meta) == (Kind.SUBMIT, {"size": size})
            np.testing.assert_array_equal(frame.payload, payload)
            assert frame.payload.flags.writeable
        assert connected.bytes_sent == accepted.bytes_received
        assert connected.bytes_received == accepted.bytes_sent
        assert connected.bytes_sent > size + HELLO + PROOF


def test_both_directions_at_once() -> None:
    count, size = 40, 300_001

    def send(channel: Channel) -> None:
        for number in range(count):
            channel.send(Kind.CHUNK, {"number": number}, bytes([number]) * size)

    def receive(channel: Channel) -> None:
        for number in range(count):
            frame = channel.receive(ALL, SECONDS)
            assert frame.meta == {"number": number}
            assert frame.payload.size == size
            assert (frame.payload == number).all()

    with channels() as (connected, accepted), working(connected, accepted) as start:
        jobs = [start(work, channel) for work in (send, receive) for channel in (connected, accepted)]
        for job in jobs:
            job.result(SECONDS)


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**18), 10**18),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(),
)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(Kind),
            st.dictionaries(st.text(), st.one_of(SCALARS, st.lists(SCALARS, max_size=5)), max_size=5),
            st.binary(max_size=100),
        ),
        min_size=1,
        max_size=5,
    )
)
def test_any_frames_arrive_in_order(sent: list[tuple[Kind, Any, bytes]]) -> None:
    with channels() as (connected, accepted):
        for kind, meta, payload in sent:
            connected.send(kind, meta, payload)
        for kind, meta, payload in sent:
            frame = accepted.receive(ALL, SECONDS)
            assert (frame.kind, frame.meta, frame.payload.tobytes()) == (kind, meta, payload)


def test_any_contiguous_buffer_is_a_payload() -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    array.flags.writeable = False
    with channels() as (connected, accepted):
        for payload in (array, array.tobytes(), bytearray(array.tobytes()), memoryview(array.tobytes())):
            connected.send(Kind.CHUNK, {}, payload)
            assert accepted.receive(ALL, SECONDS).payload.tobytes() == array.tobytes()
        for empty in (np.empty((0, 4), np.float32), b"", memoryview(b"")):
            connected.send(Kind.CHUNK, {}, empty)
            assert accepted.receive(ALL, SECONDS).payload.size == 0
        with pytest.raises(TypeError):
            connected.send(Kind.CHUNK, {}, array[:, ::2])
        connected.send(Kind.ERROR)
        assert accepted.receive(ALL, SECONDS).kind is Kind.ERROR


def test_what_cannot_be_meta_is_not_sent_and_harms_nothing() -> None:
    with channels() as (connected, accepted):
        for meta in ({"text": "x" * frames.META_LIMIT}, {"number": float("nan")}):
            with pytest.raises(ValueError, match=r"meta|JSON"):
                connected.send(Kind.CHUNK, meta)
        connected.send(Kind.CHUNK, {"text": "x" * (frames.META_LIMIT - 11)})
        assert len(accepted.receive(ALL, SECONDS).meta["text"]) == frames.META_LIMIT - 11


def test_a_payload_is_not_copied_by_who_sends() -> None:
    payload = np.ones(16 << 20, np.uint8)
    with channels() as (connected, accepted), working(connected, accepted) as start:
        receiving = start(accepted._pull, memoryview(bytearray(payload.size)))
        tracemalloc.start()
        try:
            sending = start(connected.send, Kind.CHUNK, {}, payload)
            receiving.result(SECONDS)
            assert tracemalloc.get_traced_memory()[1] < 1 << 20
        finally:
            tracemalloc.stop()
        sending.result(SECONDS)


def test_traffic_is_told_in_the_middle_of_a_frame() -> None:
    told: dict[str, list[int]] = {"sent": [], "received": []}
    with channels() as (connected, accepted), working(connected, accepted) as start:
        connected.on_traffic = lambda: told["sent"].append(connected.bytes_sent)
        accepted.on_traffic = lambda: told["received"].append(accepted.bytes_received)
        sending = start(connected.send, Kind.CHUNK, {}, bytes(4 << 20))
        accepted.receive(ALL, SECONDS)
        sending.result(SECONDS)
    for totals in told.values():
        assert len(totals) > 10
        assert totals == sorted(set(totals))
        assert max(np.diff(totals)) <= 1 << 17


def test_waiting_for_a_frame_ends_and_the_next_frame_arrives() -> None:
    with channels() as (connected, accepted):
        for seconds in (0.0, 0.01):
            with pytest.raises(TimeoutError, match="no frame within"):
                accepted.receive(ALL, seconds)
        connected.send(Kind.CHUNK, {}, b"late")
        assert accepted.receive(ALL, 0.0).payload.tobytes() == b"late"


# ---- the end ---------------------------------------------------------------------------------------------------------


def test_the_end_between_frames() -> None:
    with channels() as (connected, accepted):
        connected.send(Kind.CHUNK, {}, b"last")
        connected.close()
        connected.close()
        assert accepted.receive(ALL, SECONDS).payload.tobytes() == b"last"
        for _ in range(2):
            with pytest.raises(EOFError):
                accepted.receive(ALL, SECONDS)
        with pytest.raises(OSError, match="pipe"):
            accepted.send(Kind.CHUNK, {}, bytes(100))
        with pytest.raises(OSError, match="not sent whole"):
            accepted.send(Kind.CHUNK)


def test_a_peer_that_closes_without_reading() -> None:
    with channels() as (connected, accepted):
        connected.send(Kind.CHUNK, {}, bytes(100))
        accepted.close()
        with pytest.raises(EOFError):
            connected.receive(ALL, SECONDS)


def test_shutdown_wakes_who_receives() -> None:
    with channels() as (connected, accepted), working(connected, accepted) as start:
        waiting = [start(connected.receive, ALL), start(accepted.receive, ALL, SECONDS)]
        connected.shutdown()
        connected.shutdown()
        for job in waiting:
            with pytest.raises(EOFError):
                job.result(SECONDS)


def test_shutdown_wakes_who_sends() -> None:
    with channels() as (connected, accepted), working(connected, accepted) as start:
        sending = start(connected.send, Kind.CHUNK, {}, bytes(16 << 20))
        deadline = time.monotonic() + SECONDS
        while connected.bytes_sent <= HELLO + PROOF and time.monotonic() < deadline:
            time.sleep(0.001)
        connected.shutdown()
        with pytest.raises(OSError, match="pipe"):
            sending.result(SECONDS)
        with pytest.raises(FrameError, match="middle of a frame"):
            accepted.receive(ALL, SECONDS)
        connected.close()
        connected.shutdown()


# ---- bytes that are not as they were sent ----------------------------------------------------------------------------


def frame_size() -> int:
    with tapped() as between:
        return len(between.captured(Kind.SUBMIT, {"a": 1}, b"12345"))


def test_every_changed_byte_is_refused() -> None:
    for position in range(frame_size()):
        for mask in (0x01, 0x80, 0xFF):
            with tapped() as between:
                content = bytearray(between.captured(Kind.SUBMIT, {"a": 1}, b"12345"))
                content[position] ^= mask
                between.deliver(bytes(content))
                with pytest.raises(FrameError):
                    between.accepted.receive({Kind.SUBMIT: 1 << 20, Kind.MERGED: 1 << 20}, SECONDS)
                with pytest.raises(FrameError, match="earlier frame"):
                    between.accepted.receive(ALL, SECONDS)


def test_truncation_at_every_byte_is_refused() -> None:
    for length in range(frame_size()):
        with tapped() as between:
            between.deliver(between.captured(Kind.SUBMIT, {"a": 1}, b"12345")[:length])
            with pytest.raises(FrameError if length else EOFError):
                between.accepted.receive(ALL, SECONDS)


@pytest.mark.parametrize(
    ("meta", "size", "expected"),
    [
        (0, 101, "SUBMIT with 101 bytes, allowed are 100"),
        (0, 1 << 40, "allowed are 100"),
        (0, 1 << 63, "allowed are 100"),
        (0, (1 << 64) - 1, "allowed are 100"),
        (frames.META_LIMIT + 1, 0, "bytes of meta"),
        ((1 << 32) - 1, 100, "bytes of meta"),
    ],
)
def test_promised_lengths_allocate_nothing(meta: int, size: int, expected: str) -> None:
    with tapped() as between:
        between.deliver(frames._HEADER.pack(frames._MAGIC, Kind.SUBMIT, 0, meta, size) + bytes(1000))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        tracemalloc.start()
        try:
            with pytest.raises(FrameError, match=expected):
                between.accepted.receive({Kind.SUBMIT: 100}, SECONDS)
            assert tracemalloc.get_traced_memory()[1] < 100_000
        finally:
            tracemalloc.stop()
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 50_000  # KiB


def test_kinds_that_are_not_expected_are_refused() -> None:
    with channels() as (connected, accepted):
        connected.send(Kind.CHUNK)
        with pytest.raises(FrameError, match="kind 5, expected WEIGHTS, SUBMIT"):
            accepted.receive({Kind.WEIGHTS: 0, Kind.SUBMIT: 9}, SECONDS)


def test_replay_reordering_and_loss_are_refused() -> None:
    for numbers in ([0, 0], [1, 0], [1], [0, 2]):
        with tapped() as between:
            sent = [between.captured(Kind.CHUNK, {"number": number}, b"12345") for number in range(3)]
            between.deliver(b"".join(sent[number] for number in numbers))
            good = 1 if numbers[0] == 0 else 0
            for number in range(good):
                assert between.accepted.receive(ALL, SECONDS).meta == {"number": number}
            with pytest.raises(FrameError, match=f"frame number {numbers[good]}, expected {good}"):
                between.accepted.receive(ALL, SECONDS)


def test_a_frame_of_another_direction_or_connection_is_refused() -> None:
    with tapped() as between, tapped() as other:
        content = between.captured(Kind.CHUNK, {}, b"12345")
        between.wire_of_connected.sendall(content)
        other.deliver(content)
        for channel in (between.connected, other.accepted):
            with pytest.raises(FrameError, match="authentication code"):
                channel.receive(ALL, SECONDS)


@given(st.binary(max_size=300), st.booleans())
def test_random_bytes_are_no_frame(noise: bytes, magic: bool) -> None:
    content = frames._MAGIC + noise if magic else noise
    with tapped() as between:
        between.deliver(content)
        with pytest.raises(FrameError if content else EOFError):
            between.accepted.receive(ALL, SECONDS)


@pytest.mark.parametrize("text", [b"", b"3", b"[]", b"{", b'{"a":NaN}', b"\xff", b"[" * 16_000, b"9" * 10_000])
def test_authentic_meta_that_is_no_object_is_refused(text: bytes) -> None:
    with channels() as (connected, accepted):
        head = frames._HEADER.pack(frames._MAGIC, Kind.CHUNK, 0, len(text), 0) + text
        connected._push([memoryview(head), memoryview(connected._mac(connected._role, head).digest())])
        with pytest.raises(FrameError, match="the meta of a frame"):
            accepted.receive(ALL, SECONDS)


def test_a_frame_that_trickles_is_refused_and_waiting_for_one_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "_FRAME_SECONDS", 0.2)
    with channels() as (connected, accepted):
        connected.least_rate = accepted.least_rate = 1e9
        with pytest.raises(TimeoutError, match="no frame"):
            accepted.receive(ALL, 0.5)
        connected._push([memoryview(frames._HEADER.pack(frames._MAGIC, Kind.CHUNK, 0, 0, 1000) + b"x")])
        with pytest.raises(FrameError, match="a frame came too slowly"):
            accepted.receive(ALL)
        with pytest.raises(FrameError):
            accepted.receive(ALL)


def test_a_large_frame_has_the_time_that_its_size_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "_FRAME_SECONDS", SECONDS / 2)
    with channels() as (connected, accepted), ThreadPoolExecutor(1) as pool:
        accepted.least_rate = 1.0
        for size in (1, 1 << 22):
            sending = pool.submit(connected.send, Kind.CHUNK, {}, bytes(size))
            assert accepted.receive(ALL).payload.size == size
            sending.result(SECONDS)
