"""The coordinator's protocol, event by event."""

from dataclasses import replace

import numpy as np
import pytest

from bptcnn.outer.coordinator import Coordinator
from bptcnn.outer.messages import (
    Action,
    EpochEnd,
    EpochRecorded,
    Failed,
    Finish,
    Heartbeat,
    Kill,
    MergeRound,
    NodeLost,
    Pause,
    Paused,
    Ready,
    Refused,
    Release,
    Resume,
    Send,
    Stop,
    Submitted,
    Tick,
    Trial,
    Tried,
    Work,
)
from bptcnn.outer.phase import Phase
from bptcnn.outer.settings import NodeProfile, RunSettings, Update


def coordinator(nodes: int = 2, samples: int = 40, epochs: int = 2, update: Update = "agwu") -> Coordinator:
    return Coordinator(
        RunSettings(
            nodes=tuple(NodeProfile(f"n{node}", 1.0) for node in range(nodes)),
            samples=samples,
            epochs=epochs,
            batch_size=10,
            local_steps=2,
            learning_rates=tuple(0.1 / (1 + epoch) for epoch in range(epochs)),
            update=update,
            rounds=1,
        )
    )


def start(machine: Coordinator, nodes: int = 2) -> list[Action]:
    return [action for node in range(nodes) for action in machine.handle(Ready(node, 0.0))]


def submitted(node: int, sequence: int, committed: int, epoch: int, samples: int, correct: int = 5) -> Submitted:
    return Submitted(
        node,
        float(sequence),
        sequence,
        committed,
        epoch,
        samples,
        samples * 2.0,
        correct,
        1,
        1.0,
        0.5,
        0.1,
        samples,
        1.1,
    )


def lost(node: int, sequence: int = 0, committed: int = 0, trained: int = 0) -> NodeLost:
    return NodeLost(node, 9.0, sequence, committed, 0.5, trained, "killed")


def work(actions: list[Action]) -> list[tuple[int, int, int]]:
    """(node, epoch, samples) of all Work sent."""
    messages = [(action.node, action.message) for action in actions if isinstance(action, Send)]
    return [(node, message.epoch, message.indices.size) for node, message in messages if isinstance(message, Work)]


def sent(actions: list[Action], kind: type) -> list[int]:
    return [action.node for action in actions if isinstance(action, Send) and isinstance(action.message, kind)]


def test_work_starts_when_all_are_ready() -> None:
    machine = coordinator()
    assert machine.handle(Ready(0, 0.0)) == []
    # each gets its 20 of epoch 1, and behind them what fills four local iterations
    assert work(machine.handle(Ready(1, 0.0))) == [(0, 1, 20), (0, 2, 20), (1, 1, 20), (1, 2, 20)]
    machine.validate()


def test_a_node_lost_before_it_is_ready_is_absent() -> None:
    machine = coordinator()
    machine.handle(Ready(0, 0.0))
    assert {node for node, _, _ in work(machine.handle(lost(1)))} == {0}
    machine.validate()


def test_the_run_fails_when_every_node_is_lost() -> None:
    machine = coordinator()
    start(machine)
    machine.handle(lost(0))
    actions = machine.handle(lost(1))
    assert isinstance(actions[-1], Finish)
    assert actions[-1].outcome == "failed"
    assert machine.handle(Ready(0, 1.0)) == []


def test_work_carries_rate_and_steps_of_its_epoch() -> None:
    messages = [action.message for action in start(coordinator()) if isinstance(action, Send)]
    rates = {message.epoch: message.learning_rate for message in messages if isinstance(message, Work)}
    assert rates == {1: 0.1, 2: 0.05}
    assert {message.local_steps for message in messages if isinstance(message, Work)} == {2}


def test_an_epoch_ends_once_with_all_nodes_paused() -> None:
    machine = coordinator()
    start(machine)
    assert machine.handle(submitted(0, 1, 20, 1, 20)) == []
    assert sent(machine.handle(submitted(1, 1, 20, 1, 20, correct=15)), Pause) == [0, 1]
    assert machine.handle(Paused(0, 2.0)) == []
    # the other one still reports what it did of the next epoch before it stood still
    assert machine.handle(submitted(1, 2, 30, 2, 10)) == []
    actions = machine.handle(Paused(1, 2.5))
    assert isinstance(actions[0], EpochEnd)
    assert len(actions) == 1
    assert (actions[0].metrics.loss, actions[0].metrics.accuracy) == (2.0, 0.5)
    assert machine.handle(Heartbeat(0, 3.0, 20)) == []
    assert np.count_nonzero(machine.state().ahead) == 10
    resumed = machine.handle(EpochRecorded(4.0, stop=False))
    assert sent(resumed, Resume) == [0, 1]
    assert (machine.epoch, machine.trained_in_epoch) == (2, 10)
    machine.validate()


def test_a_next_epoch_trained_whole_before_the_pause_ends_without_resuming() -> None:
    machine = coordinator()
    start(machine)
    machine.handle(submitted(0, 1, 20, 1, 20))
    machine.handle(submitted(0, 2, 40, 2, 20))
    machine.handle(submitted(1, 1, 20, 1, 20))
    machine.handle(submitted(1, 2, 40, 2, 20))
    machine.handle(Paused(0, 5.0))
    machine.handle(Paused(1, 5.0))
    actions = machine.handle(EpochRecorded(6.0, stop=False))
    assert [action.epoch for action in actions if isinstance(action, EpochEnd)] == [2]
    actions = machine.handle(EpochRecorded(7.0, stop=False))
    assert sent(actions, Stop) == [0, 1]
    assert isinstance(actions[-1], Finish)
    assert actions[-1].outcome == "completed"
    assert machine.counters().images_trained == 80


def test_the_target_ends_the_run_at_an_epochs_end() -> None:
    machine = coordinator(nodes=1, samples=20)
    start(machine, 1)
    machine.handle(submitted(0, 1, 20, 1, 20))
    machine.handle(Paused(0, 2.0))
    actions = machine.handle(EpochRecorded(3.0, stop=True))
    assert isinstance(actions[-1], Finish)
    assert actions[-1].outcome == "stopped"


def test_the_state_is_refused_in_the_middle_of_an_epoch() -> None:
    machine = coordinator()
    start(machine)
    with pytest.raises(RuntimeError, match="epoch's end"):
        machine.state()


def test_a_failed_nodes_samples_move_when_it_is_lost_not_before() -> None:
    machine = coordinator()
    start(machine)
    machine.handle(submitted(1, 1, 10, 1, 10))
    assert machine.handle(Failed(0, 2.0, "no memory")) == [Kill(0, "no memory")]
    assert machine.handle(Failed(0, 2.1, "no memory")) == []
    assert machine.handle(submitted(1, 2, 20, 1, 10)) == []
    # it had committed 10 without saying so, and trained 5 more
    assert work(machine.handle(lost(0, sequence=1, committed=10, trained=15))) == [(1, 1, 10), (1, 2, 20)]
    machine.validate()
    assert machine.counters().images_redone == 5
    assert machine.counters().updates == 3
    # what it says after its death is ignored
    assert machine.handle(submitted(0, 1, 10, 1, 10)) == []
    assert machine.handle(lost(0, sequence=1, committed=10)) == []
    assert machine.counters().images_trained == 30


def test_one_report_may_be_of_several_submissions() -> None:
    machine = coordinator()
    start(machine)
    machine.handle(submitted(0, 3, 15, 1, 15))
    machine.handle(submitted(0, 4, 20, 1, 5))
    machine.validate()
    assert machine.counters().updates == 4
    assert machine.counters().images_trained == 20
    assert machine.statuses()[0].totals.submissions == 4


def test_a_refused_submission_is_counted_and_its_samples_stay() -> None:
    machine = coordinator()
    start(machine)
    machine.handle(submitted(0, 1, 5, 1, 5))
    machine.handle(Heartbeat(0, 1.5, 15))
    assert machine.handle(Refused(0, 2.0, 10, "the loss became nan")) == []
    machine.validate()
    assert machine.counters().images_redone == 10
    assert [status.totals.refused for status in machine.statuses()] == [1, 0]
    machine.handle(submitted(0, 2, 15, 1, 10))
    assert machine.counters().images_trained == 15
    machine.handle(lost(0, sequence=2, committed=15, trained=15))
    assert machine.counters().images_redone == 10, "what was refused is counted once"


def test_a_host_cannot_have_more_redone_than_it_was_sent() -> None:
    machine = coordinator()
    start(machine)
    machine.handle(Refused(0, 2.0, 2**62, "the loss became nan"))
    assert machine.counters().images_redone <= 40


def test_the_loss_of_the_last_node_that_moves_ends_the_epoch() -> None:
    machine = coordinator()
    start(machine)
    machine.handle(submitted(0, 1, 20, 1, 20))
    machine.handle(submitted(1, 1, 20, 1, 20))
    machine.handle(Paused(0, 3.0))
    actions = machine.handle(lost(1, sequence=2, committed=30))
    assert [type(action) for action in actions] == [EpochEnd]
    assert np.count_nonzero(machine.state().ahead) == 10


def test_an_epoch_does_not_end_before_a_condemned_node_is_lost() -> None:
    machine = coordinator()
    start(machine)
    machine.handle(submitted(0, 1, 20, 1, 20))
    machine.handle(submitted(1, 1, 20, 1, 20))
    machine.handle(Failed(1, 3.0, "no memory"))
    # it may still be merging: the weights are not at rest
    assert machine.handle(Paused(0, 3.1)) == []
    assert [type(action) for action in machine.handle(lost(1, sequence=1, committed=20))] == [EpochEnd]


def test_synchronous_nodes_meet_and_are_released_together() -> None:
    machine = coordinator(update="sgwu", samples=80)
    assert work(start(machine)) == [(0, 1, 40), (1, 1, 40)]
    assert machine.handle(submitted(0, 1, 20, 1, 20, correct=15)) == []
    actions = machine.handle(submitted(1, 1, 20, 1, 20, correct=5))
    assert actions[0] == MergeRound(((0, 0.75), (1, 0.25)))
    assert sent(actions, Release) == [0, 1]
    assert machine.counters().updates == 1


def test_a_synchronous_merge_keeps_a_dead_nodes_commit_and_waits_for_nobody_dead() -> None:
    machine = coordinator(nodes=3, update="sgwu", samples=120)
    start(machine, 3)
    machine.handle(submitted(0, 1, 20, 1, 20, correct=10))
    assert not any(isinstance(action, MergeRound) for action in machine.handle(lost(1, sequence=1, committed=20)))
    actions = machine.handle(lost(2))
    assert actions[0] == MergeRound(((0, 0.5), (1, 0.5)))
    assert sent(actions, Release) == [0]
    machine.validate()


def test_synchronous_nodes_do_not_run_ahead_and_merge_before_the_epoch_ends() -> None:
    machine = coordinator(update="sgwu")
    assert work(start(machine)) == [(0, 1, 20), (1, 1, 20)]
    machine.handle(submitted(0, 1, 20, 1, 20))
    actions = machine.handle(submitted(1, 1, 20, 1, 20))
    assert isinstance(actions[0], MergeRound)
    assert [type(action.message) for action in actions[1:] if isinstance(action, Send)] == [
        Release,
        Release,
        Pause,
        Pause,
    ]


def test_silence_kills_once_and_a_driver_that_slept_judges_nobody() -> None:
    machine = coordinator()
    start(machine)
    machine.handle(Tick(0.0))
    for second in range(1, 5):
        machine.handle(Heartbeat(0, float(second), 0))
        assert machine.handle(Tick(float(second))) == []
    assert machine.handle(Tick(60.0)) == []
    kills = []
    for second in range(61, 70):
        machine.handle(Heartbeat(0, float(second), 0))
        kills += machine.handle(Tick(float(second)))
    assert kills == [Kill(1, "silent for 4 s")]


def test_a_node_that_lives_but_does_not_move_is_killed() -> None:
    machine = coordinator()
    start(machine)
    kills = []
    for second in range(140):
        machine.handle(Heartbeat(0, float(second), second))
        machine.handle(Heartbeat(1, float(second), 3))
        kills += machine.handle(Tick(float(second)))
    assert kills == [Kill(1, "no progress for 120 s", for_good=True)]


def test_a_node_that_never_becomes_ready_is_killed() -> None:
    machine = coordinator()
    machine.handle(Ready(0, 0.0))
    actions: list[Action] = []
    for second in range(310):
        machine.handle(Heartbeat(0, float(second), 0))
        actions += machine.handle(Tick(float(second)))
    assert actions == [Kill(1, "not ready after 300 s")]
    assert machine.phase is Phase.STARTING
    machine.handle(lost(1))
    assert machine.phase is Phase.TRAINING


def test_stop_stops_every_live_node_and_finishes() -> None:
    machine = coordinator(nodes=3)
    start(machine, 3)
    machine.handle(lost(1))
    actions = machine.stop("interrupted")
    assert sent(actions, Stop) == [0, 2]
    assert actions[-1] == Finish("stopped", "interrupted")
    assert machine.stop("again") == []


def test_statuses_add_up() -> None:
    machine = coordinator()
    start(machine)
    machine.handle(submitted(0, 1, 20, 1, 20))
    machine.handle(lost(1, sequence=1, committed=10))
    one, other = machine.statuses()
    assert (one.totals.images, one.totals.wait_seconds, one.staleness, one.share) == (20, 0.5, 1, 1.0)
    assert (other.totals.images, other.live, other.reason_lost) == (10, False, "killed")


@pytest.mark.parametrize(
    "event",
    [
        submitted(0, 0, 10, 1, 10),
        submitted(0, 1, 10, 2, 10),
        submitted(0, 1, 12, 1, 10),
        submitted(0, 1, 500, 1, 500),
        lost(0, sequence=0, committed=10),
        EpochRecorded(1.0, stop=False),
    ],
)
def test_events_that_cannot_be_are_refused(event: Submitted) -> None:
    machine = coordinator()
    start(machine)
    with pytest.raises(ValueError):  # noqa: PT011
        machine.handle(event)


# ---- trials ----------------------------------------------------------------------------------------------------------


def measuring(nodes: int = 2) -> Coordinator:
    return Coordinator(
        RunSettings(
            nodes=tuple(NodeProfile(f"n{node}", 1.0) for node in range(nodes)),
            samples=4000,
            epochs=2,
            batch_size=10,
            local_steps=2,
            learning_rates=(0.1, 0.1),
            trial_seconds=0.5,
        )
    )


def test_nodes_are_measured_one_after_the_other_before_any_work() -> None:
    machine = measuring()
    assert machine.handle(Ready(0, 0.0)) == []
    assert machine.handle(Ready(1, 1.0)) == [Send(0, Trial(0.5, 80))]
    assert machine.handle(Tick(1.2)) == []
    assert machine.handle(Heartbeat(1, 1.3, 0)) == []
    assert machine.handle(Tried(0, 1.6, 200, 0.4)) == [Send(1, Trial(0.5, 80))]
    assert {node for node, _, _ in work(machine.handle(Tried(1, 2.6, 50, 0.5)))} == {0, 1}
    assert machine.phase is Phase.TRAINING
    assert [status.alone for status in machine.statuses()] == [500.0, 100.0]


def test_a_node_lost_in_its_trial_is_absent() -> None:
    machine = measuring()
    start(machine)
    assert machine.handle(lost(0)) == [Send(1, Trial(0.5, 80))]
    assert {node for node, _, _ in work(machine.handle(Tried(1, 9.5, 50, 0.5)))} == {1}
    assert [status.alone for status in machine.statuses()] == [None, 100.0]


def test_a_trial_that_never_ends_holds_up_nobody() -> None:
    """The others are measured, and train; who does nothing then, either, is lost."""
    machine = measuring()
    start(machine)
    sent_at: dict[type, list[tuple[int, int]]] = {}
    for second in range(300):
        actions = machine.handle(Tick(float(second)))
        for node in range(2):
            actions += machine.handle(Heartbeat(node, float(second), 0))
        for action in actions:
            if isinstance(action, Kill):
                sent_at.setdefault(Kill, []).append((second, action.node))
            elif isinstance(action, Send):
                sent_at.setdefault(type(action.message), []).append((second, action.node))
            if isinstance(action, Send) and isinstance(action.message, Trial):
                actions += machine.handle(Tried(1, float(second), 50, 0.5))
    assert sent_at[Trial] == [(61, 1)]
    assert {second for second, _ in sent_at[Work]} == {61}
    assert [status.alone for status in machine.statuses()] == [None, 100.0]
    assert machine.handle(Tried(0, 300.0, 50, 0.5)) == []
    assert machine.statuses()[0].alone is None, "too late: it trained beside others"
    assert (182, 0) in sent_at[Kill]


def test_a_node_whose_batches_are_known_to_take_long_has_time_for_the_first() -> None:
    machine = measuring(1)
    machine.handle(Ready(0, 0.0))
    machine.handle(Tried(0, 1.0, 10, 300.0))
    killed = []
    for second in range(1, 1900):
        machine.handle(Heartbeat(0, float(second), 0))
        killed += [second for action in machine.handle(Tick(float(second))) if isinstance(action, Kill)]
    assert killed == [1802]


def test_a_trial_that_nobody_asked_for_counts_for_nothing() -> None:
    machine = measuring()
    machine.handle(Ready(0, 0.0))
    machine.handle(Tried(0, 0.5, 1, 0.0))
    assert machine.statuses()[0].alone is None
    assert machine.handle(Ready(1, 1.0)) == [Send(0, Trial(0.5, 80))]


# ---- where the time goes ---------------------------------------------------------------------------------------------


def test_time_is_counted_by_what_the_run_does() -> None:
    machine = coordinator()
    start(machine)  # at 0.0
    machine.handle(submitted(0, 1, 20, 1, 20))  # at 1.0
    machine.handle(Tick(3.0))
    sequence_two = replace(submitted(1, 1, 20, 1, 20), time=4.0)
    assert sent(machine.handle(sequence_two), Pause) == [0, 1]
    machine.handle(Paused(0, 5.0, 0.75))
    machine.handle(Paused(1, 7.0))
    machine.handle(EpochRecorded(10.0, stop=False))
    machine.handle(Tick(10.5))
    first, second = (status.totals for status in machine.statuses())
    assert (first.live_seconds, first.paused_seconds, first.recording_seconds) == (7.5, 2.0, 3.0)
    assert (second.live_seconds, second.paused_seconds, second.recording_seconds) == (7.5, 0.0, 3.0)
    assert (first.wait_seconds, second.wait_seconds) == (0.5 + 0.75, 0.5)
    machine.handle(replace(lost(1, 1, 20, 20), time=11.5))
    machine.handle(Tick(20.0))
    assert [status.totals.live_seconds for status in machine.statuses()] == [17.0, 8.5]
