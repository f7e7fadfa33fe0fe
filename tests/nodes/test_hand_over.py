"""A remote node's pause: answered when its state has come, at once where none is to come, and after a time at last."""

from types import SimpleNamespace

import pytest

from bptcnn.nodes import hand_over
from bptcnn.nodes.claims import Impossible
from bptcnn.nodes.gate import Gate
from bptcnn.nodes.hand_over import LONGEST_SECONDS, HandOver
from bptcnn.nodes.optimizer_state import OptimizerState

STATE = OptimizerState(5)


class Side:
    """A coordinator's side on a clock of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, wanted: bool = True) -> None:
        self.now, self.pauses = 100.0, 0
        monkeypatch.setattr(hand_over, "time", SimpleNamespace(monotonic=lambda: self.now))
        self.gate = Gate()
        self.it = HandOver(self.gate, wanted, OptimizerState(1), self._paused)

    def _paused(self) -> None:
        self.pauses += 1

    def is_open(self) -> bool:
        return not self.gate._closed


def test_it_is_paused_when_its_state_has_come(monkeypatch: pytest.MonkeyPatch) -> None:
    side = Side(monkeypatch)
    assert side.it.state() is not None, "that which it started from"
    for pause in (1, 2):
        side.it.pause()
        assert side.it.state() is None
        assert (side.pauses, side.is_open()) == (pause - 1, True), "what travels still passes"
        assert side.it.take(STATE)
        assert (side.pauses, side.is_open()) == (pause, False)
        assert side.it.state() is STATE
        side.it.resume()
        assert side.is_open()
        assert side.it.state() is None


def test_it_is_paused_at_once_where_no_state_is_to_come(monkeypatch: pytest.MonkeyPatch) -> None:
    side = Side(monkeypatch, wanted=False)
    side.it.pause()
    assert (side.pauses, side.is_open(), side.it.state()) == (1, False, None)
    side.it.resume()
    assert side.is_open()


def test_what_takes_too_long_is_not_waited_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    side = Side(monkeypatch)
    side.it.attend()
    side.it.pause()
    side.now += LONGEST_SECONDS
    side.it.attend()
    assert side.pauses == 0
    side.now += 0.1
    side.it.attend()
    side.it.attend()
    assert (side.pauses, side.is_open()) == (1, False)
    assert not side.it.take(STATE), "it need not send another one"
    assert side.it.state() is None, "late: nobody knows what it is of"
    side.it.resume()
    side.it.pause()
    assert (side.pauses, side.is_open(), side.it.state()) == (2, False, None)


def test_a_state_that_comes_after_its_pause_counts_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    side = Side(monkeypatch)
    side.it.pause()
    side.it.resume()
    assert side.it.take(STATE)
    assert (side.pauses, side.is_open(), side.it.state()) == (0, True, None)


def test_more_states_than_pauses_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    side = Side(monkeypatch)
    with pytest.raises(Impossible, match="more states"):
        side.it.take(STATE)
    for _ in range(1000):  # however short the epochs are
        side.it.pause()
        side.it.take(STATE)
        side.it.resume()
    with pytest.raises(Impossible, match="more states"):
        side.it.take(STATE)
