"""What an agent may say of itself, and what it is told."""

from typing import Any

import pytest

from bptcnn.nodes.codec import encode_event, encode_message
from bptcnn.nodes.desk import NodeDesk
from bptcnn.outer import Failed, Heartbeat, NodeEvent, Pause, Paused, Ready, Resume, Stop
from bptcnn.version import VERSION


class Listener:
    """A desk of node 3, and what it has let through."""

    def __init__(self) -> None:
        self.taken: list[NodeEvent] = []
        self.refused: list[str] = []
        self.greeted: list[int | None] = []
        self.desk = NodeDesk(
            3, self.taken.append, self.refused.append, lambda: 11, lambda: self.greeted.append(self.desk.pid)
        )


def test_a_desk_takes_what_its_own_node_says() -> None:
    here = Listener()
    events: list[NodeEvent] = [Ready(3, 1.0), Heartbeat(3, 2.0, 5), Paused(3, 3.0), Failed(3, 4.0, "why")]
    here.desk.report([encode_event(event) for event in events])
    assert here.taken == events
    assert not here.refused
    here.desk.greet(VERSION, 77)
    assert here.desk.pid == 77


FORGED: list[Any] = [
    encode_event(Ready(4, 1.0)),
    encode_event(Failed(0, 1.0, "shoot the other one")),
    {"type": "Submitted", "node": 3, "time": 1.0},
    {"type": "NodeLost", "node": 3, "time": 1.0},
    encode_message(Pause()),
    {"type": "Ready", "node": 3.0, "time": 1.0},
    {"type": "Ready", "node": True, "time": 1.0},
    {"type": "Ready", "node": -3, "time": 1.0},
    {"type": "Heartbeat", "node": 3, "time": 1.0, "samples_trained": -1},
    {"type": "Heartbeat", "node": 3, "time": 1.0, "samples_trained": 10**400},
    {"type": "Heartbeat", "node": 3, "time": 1.0, "samples_trained": 1.5},
    {"type": "Failed", "node": 3, "time": 1.0, "reason": None},
    {"type": []},
    None,
    5,
    "Ready",
    [],
]


@pytest.mark.parametrize("event", FORGED, ids=range(len(FORGED)))
def test_a_desk_refuses_what_cannot_be(event: Any) -> None:
    here = Listener()
    with pytest.raises(ValueError, match=r"speaks for node|no message|is "):
        here.desk.report([event])
    assert not here.taken
    (reason,) = here.refused
    assert reason.startswith("it reported what cannot be: ")
    assert reason.isprintable()


@pytest.mark.parametrize("version", ["", "0", None, 5, ["x"] * 10**5, VERSION + "1"])
def test_a_desk_refuses_agents_of_another_version(version: Any) -> None:
    here = Listener()
    with pytest.raises(ValueError, match=f"to a coordinator of {VERSION}") as refused:
        here.desk.greet(version, 1)
    assert len(str(refused.value)) < 200
    assert here.desk.pid is None


def test_a_desk_hands_out_messages_once_and_in_order() -> None:
    here = Listener()
    for message in (Pause(), Resume(), Stop()):
        here.desk.send(message)
    here.desk.send(None)
    answer = here.desk.collect(5.0)
    assert answer == {"messages": [{"type": "Pause"}, {"type": "Resume"}, {"type": "Stop"}], "updates": 11}
    for seconds in (0.0, -5.0, float("nan"), 0):
        assert here.desk.collect(seconds)["messages"] == []
