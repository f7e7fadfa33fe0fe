"""How long a node that starts anew may be silent: longer before its first sign of life than after it."""

from dataclasses import dataclass, field

import pytest

from bptcnn.outer import Heartbeat, NodeEvent, Ready
from bptcnn.training import returns
from bptcnn.training.returns import Returns


@dataclass
class Starting:
    """A node that says what it is told to."""

    name: str = "host"
    says: list[NodeEvent] = field(default_factory=list)
    killed: int = 0

    def receive(self) -> list[NodeEvent]:
        said, self.says = self.says, []
        return said

    def kill(self) -> None:
        self.killed += 1


def attend(monkeypatch: pytest.MonkeyPatch, speaks: bool, seconds: int) -> int:
    """Look after a node that starts for so long; return how often it was killed."""
    now, nodes = 1000.0, [Starting(says=[Heartbeat(0, 0.0, 0)] if speaks else []), *(Starting() for _ in range(99))]
    started = iter(nodes)
    monkeypatch.setattr(returns.time, "monotonic", lambda: now)
    looking = Returns(lambda index: next(started), lambda index: True, lambda: 30.0)  # type: ignore[arg-type, return-value]
    looking.begin(0)
    for _ in range(2 * seconds):
        now += 0.5
        looking.attend()
    killed = nodes[0].killed
    looking.close()
    return killed


@pytest.mark.parametrize(
    ("speaks", "seconds", "killed"), [(False, 110, 0), (False, 125, 1), (True, 15, 0), (True, 30, 1)]
)
def test_a_start_may_take_longer_than_a_silence(
    monkeypatch: pytest.MonkeyPatch, speaks: bool, seconds: int, killed: int
) -> None:
    assert attend(monkeypatch, speaks, seconds) == killed


def test_one_that_starts_slowly_is_taken_in(monkeypatch: pytest.MonkeyPatch) -> None:
    now, node = 1000.0, Starting()
    monkeypatch.setattr(returns.time, "monotonic", lambda: now)
    looking = Returns(lambda index: node, lambda index: True, lambda: 30.0)  # type: ignore[arg-type, return-value]
    looking.begin(0)
    for _ in range(120):
        now += 0.5
        assert looking.attend() == returns.Outcome()
    node.says.append(Ready(0, 0.0))
    now += 0.5
    assert looking.attend().back == [(0, node)]
