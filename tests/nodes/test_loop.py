"""The node's loop, message by message: what it trains when, and where its local iterations end."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nodes.scripted import IDLE, LOSS, REFRESH, RELEASE, RESUME, STEP, STOP, SUBMIT, OverrunError, Surroundings, work

from bptcnn.nodes.divergence import Diverged
from bptcnn.nodes.throttle import CREDIT_SECONDS
from bptcnn.outer import Message, Pause, Paused, Update, Work


@st.composite
def shipments(draw: st.DrawFn) -> list[Work]:
    """Work of non-decreasing epochs, every sample's index different."""
    sizes = draw(st.lists(st.integers(1, 23), min_size=1, max_size=8))
    steps, epoch, first = draw(st.integers(1, 4)), 1, 0
    messages = []
    for size in sizes:
        epoch += draw(st.integers(0, 1))
        messages.append(work(epoch, range(first, first + size), steps))
        first += size
    return messages


def expected_steps(messages: list[Work], batch: int) -> list[list[tuple[int, int]]]:
    """Per local iteration its (epoch, samples) steps, where everything arrives at once."""
    totals: dict[int, int] = {}
    for message in messages:
        totals[message.epoch] = totals.get(message.epoch, 0) + len(message.indices)
    iterations: list[list[tuple[int, int]]] = []
    for epoch, total in totals.items():
        sizes = [min(batch, total - done) for done in range(0, total, batch)]
        local = messages[0].local_steps
        iterations += [[(epoch, size) for size in sizes[i : i + local]] for i in range(0, len(sizes), local)]
    return iterations


@given(messages=shipments(), batch=st.integers(1, 9))
def test_samples_are_trained_in_the_order_sent(messages: list[Work], batch: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        seen = Surroundings([[*messages], [STOP]], batch_size=batch).run(patch)
    assert seen.trained() == [int(index) for message in messages for index in message.indices]
    iterations = expected_steps(messages, batch)
    assert [len(step) for step in seen.steps] == [size for steps in iterations for _, size in steps]
    assert [(s.epoch, s.samples) for s in seen.submissions] == [
        (steps[0][0], sum(size for _, size in steps)) for steps in iterations
    ]
    rates = {message.epoch: message.learning_rate for message in messages}
    assert seen.rates == [rates[epoch] for steps in iterations for epoch, _ in steps]
    assert [s.sequence for s in seen.submissions] == list(range(1, len(iterations) + 1))
    assert [s.samples_committed for s in seen.submissions] == np.cumsum([s.samples for s in seen.submissions]).tolist()


@given(messages=shipments(), batch=st.integers(1, 9), gaps=st.lists(st.integers(0, 5), min_size=8, max_size=8))
def test_the_order_holds_whenever_messages_arrive(messages: list[Work], batch: int, gaps: list[int]) -> None:
    steps = np.cumsum(gaps).tolist()
    trickle: list[tuple[int, Message]] = list(zip(steps, messages, strict=False))
    with pytest.MonkeyPatch.context() as patch:
        seen = Surroundings([[STOP]], batch_size=batch, trickle=trickle).run(patch)
    assert seen.trained() == [int(index) for message in messages for index in message.indices]
    assert sum(s.samples for s in seen.submissions) == len(seen.trained())
    epochs = {int(index): message.epoch for message in messages for index in message.indices}
    trained = iter(seen.trained())
    for submission in seen.submissions:
        assert {epochs[next(trained)] for _ in range(submission.samples)} == {submission.epoch}
        assert submission.samples <= batch * messages[0].local_steps


def test_an_iteration_refreshes_trains_submits_and_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Surroundings([[work(1, range(10), steps=2)], [STOP]]).run(monkeypatch)
    iteration = ["refresh", "step 4", "step 4", "submit 8", "Submitted"]
    assert seen.log == ["idle", *iteration, "refresh", "step 2", "submit 2", "Submitted", "idle"]
    first, second = seen.submissions
    assert (first.node, first.samples, first.correct, first.loss_sum) == (5, 8, 4, 8 * LOSS)
    assert (second.samples, second.correct, second.loss_sum) == (2, 1, 2 * LOSS)
    assert seen.loop is not None
    assert seen.loop.samples_trained == 10


def test_weights_start_from_the_refreshed_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Surroundings([[work(1, range(16), steps=2)], [STOP]], others={1: 6}).run(monkeypatch)
    assert seen.weights.tolist() == [702.0] * 3  # version 1 + 6, and two steps of 1
    assert [s.staleness for s in seen.submissions] == [6, 0]


def test_the_epoch_ends_an_iteration_and_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    messages: list[Message] = [work(1, range(6), 8), work(2, range(6, 20), 8)]
    seen = Surroundings([messages, [STOP]]).run(monkeypatch)
    assert [step.tolist() for step in seen.steps[:2]] == [[0, 1, 2, 3], [4, 5]]
    assert [(s.epoch, s.samples) for s in seen.submissions] == [(1, 6), (2, 14)]
    assert seen.rates == [0.1] * 2 + [0.2] * 4


def test_batches_are_filled_across_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    messages: list[Message] = [work(1, [9], 4), work(1, [8, 7], 4), work(1, [6, 5, 4, 3, 2, 1], 4)]
    seen = Surroundings([messages, [STOP]]).run(monkeypatch)
    assert [step.tolist() for step in seen.steps] == [[9, 8, 7, 6], [5, 4, 3, 2], [1]]


def test_samples_that_arrive_meanwhile_prolong_the_iteration(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Surroundings([[work(1, range(4), 3)], [STOP]], during={0: [work(1, range(4, 6), 3)]}).run(monkeypatch)
    assert [s.samples for s in seen.submissions] == [6]


def test_a_node_never_waits_for_more_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Surroundings([[work(1, [0], 8)], [work(1, [1], 8)], [STOP]]).run(monkeypatch)
    assert seen.log == ["idle", *["refresh", "step 1", "submit 1", "Submitted", "idle"] * 2]


def test_the_newest_local_steps_hold_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the message says and the simulator does: an iteration under way ends by the new number."""
    shorter = Surroundings([[work(1, range(32), 8)], [STOP]], during={1: [work(1, range(32, 40), 3)]})
    assert [s.samples for s in shorter.run(monkeypatch).submissions] == [12, 12, 12, 4]
    longer = Surroundings([[work(1, range(32), 2)], [STOP]], during={0: [work(1, range(32, 40), 5)]})
    assert [s.samples for s in longer.run(monkeypatch).submissions] == [20, 20]


# ---- pause, resume, release, stop ------------------------------------------------------------------------------------


def test_a_pause_takes_effect_between_two_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Surroundings([[work(1, range(16), 2)], [work(1, [99], 2)], [RESUME], [STOP]], during={0: [Pause()]})
    seen.run(monkeypatch)
    first = ["idle", "refresh", "step 4", "Paused", "idle", "idle", "step 4", "submit 8", "Submitted", "refresh"]
    assert seen.log[: len(first)] == first
    assert seen.trained() == [*range(16), 99]
    assert seen.pauses == 1


def test_a_pause_ends_the_rest_that_a_slow_node_owes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its credit, from its idle start, is used up in the second step; the pause pays what that one owes."""
    rests: list[float] = []
    seen = Surroundings([[work(1, range(16), 4)], [RESUME], [STOP]], speed=0.5, rests=rests, during={1: [Pause()]})
    seen.run(monkeypatch)
    assert seen.log[1:8] == ["refresh", "step 4", "step 4", "Paused", "idle", "step 4", "step 4"]
    assert rests == [pytest.approx((0.5 * STEP - CREDIT_SECONDS) / 0.5)], "only the fourth step's rest was taken"


def test_a_pause_reports_what_was_waited(monkeypatch: pytest.MonkeyPatch) -> None:
    messages: list[list[Message]] = [[work(1, range(4))], [Pause()], [work(2, range(4))], [RESUME], [STOP]]
    seen = Surroundings(messages).run(monkeypatch)
    paused = [event for event in seen.events if isinstance(event, Paused)]
    assert [event.wait_seconds for event in paused] == [IDLE]
    assert [s.wait_seconds for s in seen.submissions] == [0.0, 0.0], "a pause is no waiting, and nothing counts twice"


def test_an_idle_node_pauses_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Surroundings([[Pause()], [work(1, range(3)), RESUME], [STOP]]).run(monkeypatch)
    assert seen.log == ["idle", "Paused", "idle", "refresh", "step 3", "submit 3", "Submitted", "idle"]


def test_every_pause_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Surroundings([[Pause()], [RESUME], [Pause()], [RESUME], [STOP]]).run(monkeypatch)
    assert seen.pauses == 2


def test_sgwu_waits_for_its_release(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Surroundings([[work(1, range(12), 1)], [RELEASE], [RELEASE], [STOP]], update="sgwu").run(monkeypatch)
    iteration = ["refresh", "step 4", "submit 4", "Submitted", "idle"]
    assert seen.log == ["idle", *iteration * 3]
    assert [s.staleness for s in seen.submissions] == [0, 0, 0]


def test_sgwu_goes_on_only_when_released(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OverrunError):
        Surroundings([[work(1, range(8), 1)], [work(1, [8], 1)]], update="sgwu").run(monkeypatch)


def test_a_node_pauses_while_it_waits_for_its_release(monkeypatch: pytest.MonkeyPatch) -> None:
    idle: list[list[Message]] = [[work(1, range(8), 1)], [Pause()], [RELEASE], [RESUME], [RELEASE], [STOP]]
    seen = Surroundings(idle, update="sgwu").run(monkeypatch)
    iteration = ["refresh", "step 4", "submit 4", "Submitted"]
    # released while paused: it goes on as soon as it is resumed
    assert seen.log == ["idle", *iteration, "idle", "Paused", "idle", "idle", *iteration, "idle", "idle"]


@pytest.mark.parametrize("idle", [[[STOP]], [[Pause()], [STOP]], [[Pause(), STOP]], [[STOP, work(1, [1])]]])
def test_stop_ends_an_idle_or_paused_node(monkeypatch: pytest.MonkeyPatch, idle: list[list[Message]]) -> None:
    seen = Surroundings([*map(list, idle)]).run(monkeypatch)
    assert not seen.steps


def test_stop_ends_a_node_that_waits_for_its_release(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Surroundings([[work(1, range(8), 1)], [STOP]], update="sgwu").run(monkeypatch)
    assert len(seen.submissions) == 1


def test_stop_abandons_the_iteration_that_is_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Surroundings([[work(1, range(40), 2)]], during={2: [STOP]}).run(monkeypatch)
    assert [s.samples for s in seen.submissions] == [8]
    assert len(seen.trained()) == 12


# ---- staleness, timing  -----------------------------------------------------------------------------------


def test_the_staleness_bound_ends_an_iteration_early(monkeypatch: pytest.MonkeyPatch) -> None:
    def samples(bound: int | None) -> list[int]:
        seen = Surroundings([[work(1, range(24), 6)], [STOP]], staleness=bound, others={0: 1, 1: 2})
        return [s.samples for s in seen.run(monkeypatch).submissions]

    assert samples(None) == [24]
    assert samples(3) == [24]
    assert samples(2) == [8, 16]
    assert samples(0) == [4, 4, 16]


def test_what_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first step of a run warms up; waiting and pausing is neither computing nor speed."""
    idle: list[list[Message]] = [[work(1, range(8), 2)], [Pause()], [RESUME], [work(1, range(8, 12), 2)], [STOP]]
    first, second = Surroundings(idle).run(monkeypatch).submissions
    assert (first.compute_seconds, second.compute_seconds) == (2 * STEP, STEP)
    assert (first.timed_samples, second.timed_samples) == (4, 4)
    assert first.communication_seconds == second.communication_seconds == REFRESH + SUBMIT
    assert first.timed_seconds == second.timed_seconds == STEP + REFRESH + SUBMIT
    assert first.wait_seconds == 0.0  # until the first samples come, others get ready
    assert IDLE <= second.wait_seconds <= 2 * IDLE  # for the pause's message and for work, but not in the pause


# ---- divergence ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [math.nan, math.inf, 1e5])
def test_what_diverges_is_trained_anew(monkeypatch: pytest.MonkeyPatch, loss: float) -> None:
    """The second local iteration goes wrong in its second batch."""
    seen = Surroundings([[work(1, range(16), 2)], [STOP]], losses={3: loss}).run(monkeypatch)
    assert seen.trained() == [*range(16), *range(8, 16)]
    assert [s.samples for s in seen.submissions] == [8, 8]
    assert [s.loss_sum for s in seen.submissions] == [8 * LOSS, 8 * LOSS]
    assert [(r.samples, f"{loss:.4g}" in r.reason) for r in seen.refusals] == [(8, True)]
    refused = seen.log.index("Refused")
    assert seen.log[refused : refused + 4] == ["Refused", "forget", "refresh", "step 4"]
    assert seen.loop is not None
    assert seen.loop.samples_trained == 16
    assert seen.velocity[0] == 2.0, "momentum starts anew"
    assert seen.weights[0] == 102.0, "from the global weights"


def test_weights_that_diverge_in_the_last_batch_are_trained_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Surroundings([[work(1, range(16), 2)], [STOP]], diverging=frozenset({0, 2})).run(monkeypatch)
    assert seen.trained() == [*range(8), *range(8), *range(8, 16), *range(8, 16)]
    assert [s.samples_committed for s in seen.submissions] == [8, 16]
    assert [r.samples for r in seen.refusals] == [8, 8]


def test_work_is_kept_in_order_whatever_messages_it_came_in(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [work(1, range(3), 4), work(1, range(3, 7), 4), work(1, range(7, 20), 4, rate=0.25), work(2, range(8), 4)]
    seen = Surroundings([list(parts), [STOP]], losses={2: math.nan}).run(monkeypatch)
    assert seen.trained() == [*range(12), *range(20), *range(8)]
    assert [(s.epoch, s.samples) for s in seen.submissions] == [(1, 16), (1, 4), (2, 8)]
    again = Surroundings([list(parts), [STOP]]).run(monkeypatch)
    assert seen.rates[3:] == again.rates
    assert [step.tolist() for step in seen.steps[3:]] == [step.tolist() for step in again.steps]


@pytest.mark.parametrize("update", ["agwu", "sgwu"])
def test_a_node_gives_up_what_diverges_again_and_again(monkeypatch: pytest.MonkeyPatch, update: Update) -> None:
    first: list[Message] = [work(1, range(40), 2)]
    idle = [first, [RELEASE]] if update == "sgwu" else [first]
    seen = Surroundings(idle, update=update, losses={2: math.nan, 3: math.nan, 4: math.inf})
    with pytest.raises(Diverged, match=r"the loss became inf, 3 times in a row: .* smaller learning rate"):
        seen.run(monkeypatch)
    assert [s.samples for s in seen.submissions] == [8], "what diverged must not be submitted"
    assert len(seen.refusals) == 3


def test_a_node_goes_on_if_what_diverged_does_not_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two in a row, one submission, two in a row."""
    losses = dict.fromkeys((0, 1, 4, 5), math.nan)
    seen = Surroundings([[work(1, range(16), 2)], [STOP]], losses=losses).run(monkeypatch)
    assert [s.samples for s in seen.submissions] == [8, 8]
    assert len(seen.refusals) == 4


def test_a_loss_is_measured_by_that_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a network that starts far worse than guessing, and on batches that say enough."""
    indices = range(8 * 64)

    def refused(start: float, later: float) -> int:
        losses = {0: start, 1: start, 2: later}
        seen = Surroundings([[work(1, indices, 1)], [STOP]], batch_size=64, losses=losses).run(monkeypatch)
        return len(seen.refusals)

    guessing = math.log(10)
    assert [refused(guessing, loss) for loss in (9 * guessing, 11 * guessing)] == [0, 1]
    assert [refused(0.01, loss) for loss in (9 * guessing, 11 * guessing)] == [0, 1]
    assert [refused(100.0, loss) for loss in (900.0, 1100.0)] == [0, 1]


def test_one_image_that_costs_a_lot_is_no_divergence(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Surroundings([[work(1, range(9), 2)], [STOP]], losses={2: 60.0}).run(monkeypatch)
    assert not seen.refusals
    assert [s.samples for s in seen.submissions] == [8, 1]


def test_a_loss_that_explodes_over_many_small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    losses = dict.fromkeys(range(1, 24), 30.0)
    seen = Surroundings([[work(1, range(96), 24)], [STOP]], losses=losses).run(monkeypatch)
    assert len(seen.refusals) == 1
    assert [s.samples for s in seen.submissions] == [96]


def test_submissions_are_reported_together_while_enough_is_in_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """One lasts a step, so that the fifth is due; then so little is in hand that they are reported before."""
    seconds = 4.5 * (REFRESH + STEP + SUBMIT)
    script = [[work(1, range(40), steps=1), work(2, range(40, 48), steps=1)], [STOP]]
    seen = Surroundings(script, report_seconds=seconds).run(monkeypatch)
    assert [(s.epoch, s.sequence, s.samples, s.samples_committed) for s in seen.submissions] == [
        (1, 1, 4, 4),  # nothing was told before
        (1, 6, 20, 24),
        (1, 9, 12, 36),  # 12 are left: no more than these
        (1, 10, 4, 40),  # the epoch is over
        (2, 11, 4, 44),
        (2, 12, 4, 48),
    ]
    together = seen.submissions[1]
    assert (together.correct, together.loss_sum, together.compute_seconds) == (10, 20 * LOSS, 5 * STEP)
    assert together.communication_seconds == 5 * (REFRESH + SUBMIT)


def test_what_was_not_reported_is_before_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    during: dict[int, list[Message]] = {2: [Pause()]}
    script: list[list[Message]] = [[work(1, range(80), steps=1)], [RESUME], [STOP]]
    seen = Surroundings(script, report_seconds=1e9, during=during).run(monkeypatch)
    told = [type(event).__name__ for event in seen.events]
    assert told[:2] == ["Submitted", "Paused"]
    assert seen.submissions[0].sequence == 2


def test_what_was_not_reported_is_before_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    script: list[list[Message]] = [[work(1, range(80), steps=1)], [STOP]]
    seen = Surroundings(script, report_seconds=1e9, diverging=frozenset([3])).run(monkeypatch)
    told = [type(event).__name__ for event in seen.events]
    assert told[:2] == ["Submitted", "Refused"]
    assert seen.submissions[0].samples_committed == 12
    assert seen.trained()[12:20] == [12, 13, 14, 15, 12, 13, 14, 15]


def test_a_paused_node_has_handed_over_what_its_next_step_depends_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of the step, refused ones counted, the loss at the start, and the velocity as it is then."""
    messages: list[list[Message]] = [[work(1, range(12), 2)], [Pause()], [RESUME, work(2, range(8), 2)], [Pause()]]
    script = Surroundings([*messages, [RESUME], [STOP]], losses={0: 7.0, 3: math.nan}, first_step=100, started_with=0.5)
    seen = script.run(monkeypatch)
    assert [state.step for state in seen.kept] == [103, 106]
    assert [state.usual_loss for state in seen.kept] == [7.0, 7.0]
    assert [state.velocity.tolist() for state in seen.kept if state.velocity is not None] == [[3.5] * 3, [2.0] * 3]


def test_a_node_that_goes_on_judges_losses_as_it_did(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an uninterrupted node would not refuse, it does not either: its first loss was 3, above guessing."""
    for usual, refused in ((3.0, 0), (None, 1)):
        script = Surroundings([[work(1, range(64), 1)], [work(1, range(64), 1)], [STOP]], batch_size=64)
        script.losses, script.usual_loss = {0: 1.0, 1: 28.0}, usual
        assert len(script.run(monkeypatch).refusals) == refused
