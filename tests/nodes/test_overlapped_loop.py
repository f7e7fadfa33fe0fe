"""The node's loop where submissions travel: it trains on meanwhile, and has one under way at a time."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nodes.scripted import RESUME, STEP, STOP, OverrunError, Surroundings, work

from bptcnn.nodes.exchange import Iteration
from bptcnn.nodes.station import Arrival
from bptcnn.outer import Message, Pause, Release, Work

ARRIVAL: Any = Arrival()
BATCH = 4


@dataclass
class Sent:
    """A submission: what it was of, how many travelled already, and whether its epoch was over."""

    epoch: int
    samples: int
    beside: int
    over: bool
    iteration: Iteration


@dataclass
class Travelling(Surroundings):
    """Surroundings behind a link: an `Arrival` in the inbox is the answer to the oldest submission under way."""

    overlapped = True
    sent: list[Sent] = field(default_factory=list)
    settled: int = 0
    answers: int = 0

    def get(self) -> Message:
        message = super().get()
        if isinstance(message, Arrival):
            self.answers += 1
            assert self.settled + self.answers <= len(self.sent), "the script answers what was not sent"
        return message

    def begin(self, weights: npt.NDArray[np.float32]) -> None:
        self.log.append("begin")
        self.settle(weights)

    def settle(self, weights: npt.NDArray[np.float32]) -> None:
        if self.answers:
            self.log.append(f"settle {self.answers}")
        self.settled += self.answers
        self.answers = 0

    def ready(self) -> bool:
        return self.settled == len(self.sent)

    def submit(self, weights: npt.NDArray[np.float32], iteration: Iteration) -> Any:
        self.log.append(f"submit {iteration.samples}")
        assert self.loop is not None
        waiting = list(self.loop._work)[self.loop._taken :]
        over = bool(waiting) and waiting[0].epoch != iteration.epoch
        self.sent.append(Sent(iteration.epoch, iteration.samples, len(self.sent) - self.settled, over, iteration))

    def sizes(self) -> list[tuple[int, int]]:
        return [(sent.epoch, sent.samples) for sent in self.sent]


def batches(epoch: int, count: int, steps: int = 2, first: int = 0) -> Work:
    return work(epoch, range(first, first + count * BATCH), steps)


def run(patch: pytest.MonkeyPatch, idle: Sequence[Sequence[Any]], **settings: Any) -> Travelling:
    seen = Travelling([list(messages) for messages in idle], batch_size=BATCH, **settings)
    seen.run(patch)
    return seen


def test_an_iteration_grows_until_the_answer_has_come(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = run(monkeypatch, [[batches(1, 10)], [ARRIVAL], [ARRIVAL], [STOP]], during={6: [ARRIVAL]})
    assert seen.sizes() == [(1, 8), (1, 20), (1, 12)], "2 batches, 5 while they travelled, the rest"
    assert [sent.beside for sent in seen.sent] == [0, 0, 0]
    assert seen.log.index("settle 1") > [i for i, line in enumerate(seen.log) if line == "step 4"][6]
    # three batches are done when samples run out: the last submission waits for the answer to the one before
    assert seen.log[-5:] == ["idle", "settle 1", "submit 12", "idle", "idle"]


def test_an_answer_that_is_there_at_once_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    during = {number: [ARRIVAL] for number in (2, 4)}
    seen = run(monkeypatch, [[batches(1, 6)], [ARRIVAL], [STOP]], during=during)
    assert seen.sizes() == [(1, 8), (1, 8), (1, 8)]


def test_the_end_of_an_epoch_is_submitted_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    messages = [batches(1, 3), batches(2, 5), ARRIVAL]
    during = {5: [ARRIVAL, ARRIVAL]}
    seen = run(monkeypatch, [messages[:2], [ARRIVAL], [STOP]], during=during)
    assert seen.sizes() == [(1, 8), (1, 4), (2, 12), (2, 8)]
    assert [sent.beside for sent in seen.sent] == [0, 1, 0, 0]
    assert [sent.over for sent in seen.sent] == [False, True, False, False]


def test_running_dry_waits_for_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = run(monkeypatch, [[batches(1, 3)], [ARRIVAL], [ARRIVAL], [STOP]])
    assert seen.sizes() == [(1, 8), (1, 4)]
    assert seen.sent[1].iteration.wait_seconds > 0


def test_running_dry_goes_on_with_new_work(monkeypatch: pytest.MonkeyPatch) -> None:
    more = batches(1, 2, first=100)
    seen = run(monkeypatch, [[batches(1, 3)], [more], [ARRIVAL], [ARRIVAL], [STOP]])
    assert seen.sizes() == [(1, 8), (1, 12)], "the iteration in hand goes on"
    assert seen.trained() == [*range(12), *range(100, 108)]


def test_running_dry_ends_with_the_work_of_another_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = run(monkeypatch, [[batches(1, 3)], [batches(2, 1)], [ARRIVAL], [ARRIVAL], [ARRIVAL], [STOP]])
    assert seen.sizes() == [(1, 8), (1, 4), (2, 4)]
    assert [sent.beside for sent in seen.sent] == [0, 1, 0]


def test_a_pause_holds_up_the_unfinished_iteration(monkeypatch: pytest.MonkeyPatch) -> None:
    during = {0: [Pause()]}
    seen = run(monkeypatch, [[batches(1, 4, steps=4)], [RESUME], [ARRIVAL], [STOP]], during=during)
    assert seen.pauses == 1
    assert seen.sizes() == [(1, 16)], "four batches, one of them before the pause"
    assert seen.log[:5] == ["idle", "begin", "step 4", "Paused", "idle"]


def test_answers_that_come_in_a_pause_are_worked_in_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    idle = [[batches(1, 5)], [ARRIVAL], [RESUME], [ARRIVAL], [STOP]]
    seen = run(monkeypatch, idle, during={2: [Pause()]})
    assert seen.sizes() == [(1, 8), (1, 8), (1, 4)][: len(seen.sent)]
    paused = seen.log.index("Paused")
    assert "settle 1" not in seen.log[:paused]
    assert seen.log[paused + 1 : paused + 4] == ["idle", "idle", "settle 1"]


def test_a_pause_while_dry(monkeypatch: pytest.MonkeyPatch) -> None:
    idle = [[batches(1, 3)], [Pause()], [ARRIVAL], [RESUME], [ARRIVAL], [STOP]]
    seen = run(monkeypatch, idle)
    assert seen.pauses == 1
    assert seen.sizes() == [(1, 8), (1, 4)]
    assert seen.log.index("submit 4") > seen.log.index("Paused")


@pytest.mark.parametrize("when", ["computing", "dry", "paused"])
def test_stop_ends_it_while_a_submission_travels(monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    if when == "computing":
        seen = run(monkeypatch, [[batches(1, 9)]], during={4: [STOP]})
        assert len(seen.steps) == 5
    elif when == "dry":
        seen = run(monkeypatch, [[batches(1, 3)], [STOP]])
    else:
        seen = run(monkeypatch, [[batches(1, 9)], [STOP]], during={3: [Pause()]})
        assert len(seen.steps) == 4
    assert seen.sizes() == [(1, 8)], "what is in hand is not submitted"


def test_staleness_ends_an_iteration_only_where_nothing_travels(monkeypatch: pytest.MonkeyPatch) -> None:
    during = {3: [ARRIVAL]}
    others = {0: 3, 1: 3}
    idle = [[batches(1, 5, steps=9)], [ARRIVAL], [ARRIVAL], [STOP]]
    seen = run(monkeypatch, idle, during=during, others=others, staleness=2)
    assert [sent.beside for sent in seen.sent] == [0] * len(seen.sent)
    assert seen.sizes()[:2] == [(1, 4), (1, 12)]


@pytest.mark.parametrize("arrives", ["while it waits", "in its step", "in a pause"])
def test_what_diverges_beside_a_submission_waits_for_its_answer(monkeypatch: pytest.MonkeyPatch, arrives: str) -> None:
    """The submission that travels is good: it counts. What was learned since is trained anew."""
    idle, during = [[batches(1, 6)], [ARRIVAL], [ARRIVAL], [STOP]], {}
    if arrives == "in its step":
        during[3] = [idle.pop(1)[0]]
    elif arrives == "in a pause":
        idle[1:2] = [[Pause()], [ARRIVAL], [RESUME]]
    seen = run(monkeypatch, idle, during=during, losses={3: math.nan})
    assert seen.trained() == [*range(16), *range(8, 24)]
    assert sum(size for _, size in seen.sizes()) == 24
    assert seen.sizes()[0] == (1, 8)
    refused = seen.log.index("Refused")
    after = [line for line in seen.log[refused + 1 :] if line not in ("idle", "Paused")]
    assert after[:4] == ["settle 1", "forget", "begin", "step 4"]


def test_stop_ends_the_wait_for_an_answer_before_a_new_start(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = run(monkeypatch, [[batches(1, 6)], [STOP]], losses={3: math.nan})
    assert seen.sizes() == [(1, 8)]
    assert len(seen.steps) == 4


def test_under_sgwu_it_waits_for_the_release(monkeypatch: pytest.MonkeyPatch) -> None:
    idle = [[batches(1, 4)], [ARRIVAL], [Release()], [ARRIVAL], [STOP]]
    seen = run(monkeypatch, idle, update="sgwu")
    assert seen.sizes() == [(1, 8), (1, 8)]
    first = seen.log.index("submit 8")
    assert seen.log[first : first + 4] == ["submit 8", "idle", "idle", "begin"]


@st.composite
def scripts(draw: st.DrawFn) -> tuple[list[Work], int]:
    """Work of non-decreasing epochs, and steps after which an answer comes."""
    sizes = draw(st.lists(st.integers(1, 25), min_size=1, max_size=8))
    steps, epoch, first = draw(st.integers(1, 3)), 1, 0
    messages = []
    for size in sizes:
        epoch += draw(st.integers(0, 1))
        messages.append(work(epoch, range(first, first + size), steps))
        first += size
    return messages, steps


@dataclass
class Late(Travelling):
    """Each answer comes so many steps after its submission, or when the node waits."""

    delays: list[int] = field(default_factory=list)
    pauses_at: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        super().__post_init__()
        self.after: list[int] = []  # steps after which each answer comes
        self.posted = 0

    def _post(self) -> None:
        self._queue.append(ARRIVAL)
        self.posted += 1

    def step(self, *arguments: Any) -> Any:
        result = super().step(*arguments)
        done = len(self.steps)
        while self.posted < len(self.after) and self.after[self.posted] <= done:
            self._post()
        if done in self.pauses_at:
            self._queue += [Pause(), RESUME]
        return result

    def submit(self, weights: npt.NDArray[np.float32], iteration: Iteration) -> Any:
        super().submit(weights, iteration)
        self.after.append(len(self.steps) + self.delays[len(self.sent) % len(self.delays)])

    def get(self) -> Message:
        if not self._queue and self.posted < len(self.sent):
            self._post()
        return super().get()


@given(
    script=scripts(),
    delays=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    pauses=st.frozensets(st.integers(1, 30), max_size=3),
    diverging=st.frozensets(st.integers(0, 30), max_size=2),
)
def test_every_sample_is_submitted_once_whenever_answers_come(
    script: tuple[list[Work], int], delays: list[int], pauses: frozenset[int], diverging: frozenset[int]
) -> None:
    messages, steps = script
    with pytest.MonkeyPatch.context() as patch:
        seen = Late([[*messages], [STOP]], batch_size=BATCH, delays=delays, pauses_at=pauses)
        seen.losses = dict.fromkeys(diverging, math.nan)
        seen.run(patch)
    wanted = [int(index) for message in messages for index in message.indices]
    assert seen.trained() == wanted or seen.refusals
    assert list(dict.fromkeys(seen.trained())) == wanted
    assert len(seen.trained()) == len(wanted) + sum(refusal.samples for refusal in seen.refusals)
    for epoch in {message.epoch for message in messages}:
        sent = [one for one in seen.sent if one.epoch == epoch]
        assert sum(one.samples for one in sent) == sum(len(m.indices) for m in messages if m.epoch == epoch)
        assert all(one.samples >= steps * BATCH for one in sent[:-1]), "an iteration grows, it does not shrink"
    assert [one.epoch for one in seen.sent] == sorted(one.epoch for one in seen.sent)
    for one in seen.sent:
        assert one.samples
        assert not one.beside or one.over, "a second one is under way though its epoch was not over"
        assert one.iteration.compute_seconds == pytest.approx(STEP * -(-one.samples // BATCH), abs=2 * STEP)


def test_a_submission_whose_answer_never_comes_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OverrunError):
        run(monkeypatch, [[batches(1, 3)]])
