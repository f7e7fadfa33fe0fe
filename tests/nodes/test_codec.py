"""Messages and events as JSON: what is written is read back, and nothing else is taken."""

import json
import math
from dataclasses import asdict, fields
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bptcnn.nodes.codec import checked_event, decode_event, decode_message, encode_event, encode_message
from bptcnn.nodes.exchange import Iteration
from bptcnn.outer import (
    Failed,
    Heartbeat,
    Message,
    NodeEvent,
    Pause,
    Paused,
    Ready,
    Refused,
    Release,
    Resume,
    Stop,
    Submitted,
    Tried,
    Work,
)
from bptcnn.untrusted import Malformed, build

NODES = st.integers(0, 2**16)
COUNTS = st.integers(0, 2**40)
SECONDS = st.floats(0, 1e9)
PRINTABLE = st.text(st.characters().filter(str.isprintable), max_size=100)
EVENTS = st.one_of(
    st.builds(Ready, NODES, SECONDS),
    st.builds(Paused, NODES, SECONDS),
    st.builds(Tried, NODES, SECONDS, st.integers(1, 2**40), st.floats(1e-6, 1e6)),
    st.builds(Heartbeat, NODES, SECONDS, COUNTS),
    st.builds(Refused, NODES, SECONDS, COUNTS, PRINTABLE),
    st.builds(Failed, NODES, SECONDS, PRINTABLE),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
WRONG: list[Any] = [
    None, True, -1, -0.5, "1", "", [], [1], {}, {"type": "Heartbeat"}, 2**63, 10**400, -(10**400), 1e19,
    math.inf, -math.inf, math.nan, "x" * 10_001,
]  # fmt: skip


def over_the_wire(plain: dict[str, Any]) -> Any:
    return json.loads(json.dumps(plain))


@given(EVENTS)
def test_events_arrive_as_they_were(event: NodeEvent) -> None:
    assert decode_event(over_the_wire(encode_event(event))) == event


@given(COUNTS, st.lists(st.integers(-(2**31), 2**31 - 1), max_size=50), SECONDS, COUNTS)
def test_work_arrives_as_it_was(epoch: int, indices: list[int], rate: float, steps: int) -> None:
    sent = Work(epoch, np.array(indices, np.int32), rate, steps)
    came = decode_message(over_the_wire(encode_message(sent)))
    assert isinstance(came, Work)
    assert (came.epoch, came.learning_rate, came.local_steps) == (epoch, rate, steps)
    assert came.indices.dtype == np.int32
    assert np.array_equal(came.indices, sent.indices)


@pytest.mark.parametrize("message", [Pause(), Resume(), Release(), Stop()])
def test_signals_arrive(message: Message) -> None:
    assert decode_message(over_the_wire(encode_message(message))) == message


def test_messages_are_no_events_and_commits_are_made_here() -> None:
    with pytest.raises(ValueError, match="no message is called 'Pause'"):
        decode_event(encode_message(Pause()))
    with pytest.raises(ValueError, match="no message is called 'Ready'"):
        decode_message(encode_event(Ready(0, 0.0)))
    forged = {"type": "Submitted", "node": 0, "time": 0.0, "sequence": 1, "samples_committed": 10**6}
    with pytest.raises(ValueError, match="no message is called 'Submitted'"):
        decode_event(forged)


@pytest.mark.parametrize("kind", [None, 5, [], {}, ["Ready"], "ready", "", "__class__", "NodeLost", "Ready" * 10**5])
def test_unknown_kinds_are_refused(kind: Any) -> None:
    with pytest.raises(ValueError, match="no message is called") as refused:
        decode_event({"type": kind, "node": 0, "time": 0.0})
    assert len(str(refused.value)) < 200


@pytest.mark.parametrize("value", WRONG, ids=lambda value: repr(value)[:12])
@pytest.mark.parametrize("field", ["node", "time", "samples_trained"])
def test_wrong_values_are_refused_by_field(field: str, value: Any) -> None:
    plain = encode_event(Heartbeat(1, 2.0, 3))
    plain[field] = value
    with pytest.raises(ValueError, match=field) as refused:
        decode_event(plain)
    assert len(str(refused.value)) < 200


@pytest.mark.parametrize("value", [None, 5, ["x"], {"a": 1}, "x" * 1001])
def test_reasons_are_text_of_bounded_length(value: Any) -> None:
    with pytest.raises(ValueError, match="reason"):
        decode_event({"type": "Failed", "node": 0, "time": 0.0, "reason": value})


def test_a_reason_that_is_too_long_is_cut_where_it_is_sent() -> None:
    came = decode_event(over_the_wire(encode_event(Failed(0, 0.0, "x" * 100_000))))
    assert isinstance(came, Failed)
    assert came.reason == "x" * 1000


@given(st.text(max_size=50))
def test_what_a_host_says_cannot_steer_a_terminal(reason: str) -> None:
    came = decode_event({"type": "Failed", "node": 0, "time": 0.0, "reason": reason + "\x1b[2J\r\n\ud800"})
    assert isinstance(came, Failed)
    assert came.reason.isprintable()
    assert came.reason.encode()


@pytest.mark.parametrize("field", ["node", "time", "samples_trained", "type"])
def test_missing_fields_are_refused(field: str) -> None:
    plain = encode_event(Heartbeat(1, 2.0, 3))
    del plain[field]
    with pytest.raises(ValueError, match=r"is missing|no message"):
        decode_event(plain)


def test_unknown_fields_are_refused_in_a_short_line() -> None:
    plain = encode_event(Heartbeat(1, 2.0, 3)) | {f"{number}" * 1000: 1 for number in range(9)}
    with pytest.raises(ValueError, match="Heartbeat has no '0000") as refused:
        decode_event(plain)
    assert len(str(refused.value)) < 400


@given(JSON)
def test_whatever_comes_is_an_event_or_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=r"no message"):
        decode_event(value)
    with pytest.raises(ValueError, match=r"no message"):
        decode_message(value)
    with pytest.raises(ValueError, match=r"no table|is missing|has no"):
        build(Iteration, value)


@given(st.sampled_from(["Ready", "Heartbeat", "Refused", "Paused", "Failed"]), st.data())
def test_whatever_fields_hold_is_an_event_or_refused(name: str, data: st.DataObject) -> None:
    known = {"Ready": Ready, "Heartbeat": Heartbeat, "Refused": Refused, "Paused": Paused, "Failed": Failed}[name]
    plain = {field.name: data.draw(JSON) for field in fields(known)}
    try:
        event = decode_event({"type": name, **plain})
    except ValueError:
        return
    assert 0 <= event.node <= 2**16
    assert 0 <= event.time < math.inf


@pytest.mark.parametrize("indices", [None, 5, [1], "AAA", "AAA=", "AAAA", "AA AA AA==", "\u00e9", "====", "AAAAAAAAA"])
def test_indices_are_whole_words_in_base64(indices: Any) -> None:
    plain = encode_message(Work(1, np.arange(2, dtype=np.int32), 0.1, 1))
    plain["indices"] = indices
    with pytest.raises(ValueError):  # noqa: PT011  some of the messages are base64's own
        decode_message(plain)


def test_the_head_of_a_submission() -> None:
    whole = asdict(Iteration(1, 8, 0.5, 4))
    assert build(Iteration, whole) == Iteration(1, 8, 0.5, 4)
    assert build(Iteration, {**whole, "loss_sum": 3}).loss_sum == 3
    for field in whole:
        for value in (*WRONG, *([1.5, 2.0] if type(whole[field]) is int else [])):
            with pytest.raises(ValueError, match=field):
                build(Iteration, {**whole, field: value})


@given(EVENTS)
def test_events_of_this_machine_are_checked_as_those_of_hosts(event: NodeEvent) -> None:
    assert checked_event(event) == event


@pytest.mark.parametrize(
    "event",
    [
        7,
        None,
        Pause(),
        Heartbeat(0, 0.0, -1),
        Heartbeat(0, math.nan, 1),
        Heartbeat(0, 0.0, "x"),  # type: ignore[arg-type]
        Submitted(0, 0.0, 1, 8, 1, 8, math.inf, 4, 0, 1.0, 0.0, 0.0, 8, 1.0),
        Submitted(0, 0.0, 1, 8, 1, 8, 1.0, 4, 0, 1.0, 0.0, 0.0, 8, 1e300),
    ],
)
def test_what_a_node_of_this_machine_cannot_say_is_refused(event: Any) -> None:
    with pytest.raises(Malformed):
        checked_event(event)
