"""A host's optimizer states as the coordinator's side takes them: what lies is refused, and ends that host only."""

import queue
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from nodes.wired import NODE, SECONDS, channels

from bptcnn.data import Samples
from bptcnn.memory import WeightBuffer
from bptcnn.nodes.exchange import Committer
from bptcnn.nodes.frames import Channel, FrameError, Kind
from bptcnn.nodes.optimizer_state import OptimizerState
from bptcnn.nodes.servant import Impossible, Servant
from bptcnn.outer import Submitted

SIZE = 11
SAMPLES = Samples(np.zeros((1, 2, 2, 1), np.uint8), np.zeros(1, np.int32))
VELOCITY = np.linspace(-1, 1, SIZE, dtype=np.float32)
GOOD: dict[str, Any] = {"step": 5, "usual_loss": 2.5}


class Served:
    """A servant, a host that says what it likes, and what became of it."""

    def __init__(self, host: Channel, here: Channel, buffer: WeightBuffer, asked: bool) -> None:
        self.host = host
        self.taken: list[OptimizerState] = []
        self.ended: queue.SimpleQueue[BaseException] = queue.SimpleQueue()
        reports: queue.SimpleQueue[Submitted] = queue.SimpleQueue()
        about = NODE, Committer(buffer, NODE, "agwu"), "agwu", "float32", SIZE, SAMPLES, reports.put
        self.servant = Servant(*about, self._take if asked else None, SIZE, VELOCITY)  # type: ignore[arg-type]
        self.thread = threading.Thread(target=self._serve, args=(here,))
        self.thread.start()

    def _take(self, state: OptimizerState) -> bool:
        self.taken.append(state)
        return len(self.taken) < 2

    def _serve(self, here: Channel) -> None:
        try:
            self.servant.serve(here)
        except Exception as error:
            self.ended.put(error.with_traceback(None))  # which would hold the buffer
        here.shutdown()

    def is_refused(self, kind: Kind, meta: dict[str, Any], payload: Any = b"") -> None:
        """It ends the conversation, in one line, and nothing was taken."""
        self.host.send(kind, meta, payload)
        error = self.ended.get(timeout=SECONDS)
        assert isinstance(error, Impossible | FrameError)
        assert "\n" not in str(error)
        assert not self.taken


@pytest.fixture(params=[True])
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    with WeightBuffer.create(SIZE, NODE + 1) as buffer, channels() as (host, here):
        made = Served(host, here, buffer, request.param)
        yield made
        host.shutdown()
        made.thread.join(SECONDS)
        del made.servant


def test_states_are_taken_and_the_host_is_told_whether_to_go_on(served: Served) -> None:
    for again in (True, False):
        served.host.send(Kind.KEEP, GOOD, VELOCITY)
        assert served.host.receive({Kind.KEPT: 0}, SECONDS).meta == {"again": again}
    state = served.taken[0]
    assert (state.step, state.usual_loss) == (5, 2.5)
    assert state.velocity is not None
    assert state.velocity.tobytes() == VELOCITY.tobytes()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_velocity_that_is_not_finite_is_left_out(served: Served, value: float) -> None:
    """An honest host that diverges sends one, too: its node is not lost for it."""
    velocity = VELOCITY.copy()
    velocity[3] = value
    served.host.send(Kind.KEEP, {"step": 5, "usual_loss": None}, velocity)
    served.host.receive({Kind.KEPT: 0}, SECONDS)
    assert (served.taken[0].step, served.taken[0].velocity) == (5, None)


METAS: list[dict[str, Any]] = [
    {},
    {"step": 5},
    GOOD | {"step": -1},
    GOOD | {"step": 2**62},
    GOOD | {"step": 1.5},
    GOOD | {"step": True},
    GOOD | {"step": None},
    GOOD | {"step": "5"},
    GOOD | {"usual_loss": -1.0},
    GOOD | {"usual_loss": 1e300},
    GOOD | {"usual_loss": "high"},
    GOOD | {"more": 1},
]


@pytest.mark.parametrize("meta", METAS, ids=str)
def test_heads_that_lie(served: Served, meta: dict[str, Any]) -> None:
    served.is_refused(Kind.KEEP, meta, VELOCITY)


@pytest.mark.parametrize("size", [1, 4 * SIZE - 4, 4 * SIZE - 1, 4 * SIZE + 4])
def test_velocities_of_another_size(served: Served, size: int) -> None:
    served.is_refused(Kind.KEEP, GOOD, bytes(size))


@pytest.mark.parametrize("served", [False], indirect=True)
def test_a_host_that_is_not_to_send_states(served: Served) -> None:
    served.is_refused(Kind.KEEP, GOOD, VELOCITY)


def test_a_velocity_is_sent_once(served: Served) -> None:
    served.host.send(Kind.STATE)
    frame = served.host.receive({Kind.STATE: 4 * SIZE}, SECONDS)
    assert frame.payload.tobytes() == VELOCITY.tobytes()
    served.is_refused(Kind.STATE, {})
