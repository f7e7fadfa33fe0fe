"""Nodes that were lost and come back, or may: the coordinator's protocol, event by event."""

from dataclasses import replace

import numpy as np
import pytest

from bptcnn.outer.coordinator import Coordinator
from bptcnn.outer.messages import (
    Action,
    EpochEnd,
    EpochRecorded,
    Finish,
    Heartbeat,
    Kill,
    MergeRound,
    NodeAbandoned,
    NodeJoined,
    NodeLost,
    NodeReturned,
    Pause,
    Paused,
    Ready,
    Release,
    Resume,
    Send,
    Stop,
    Submitted,
    Tick,
    Work,
)
from bptcnn.outer.phase import Phase
from bptcnn.outer.settings import NodeProfile, Partition, RunSettings, Update


def coordinator(
    nodes: int = 2, samples: int = 40, epochs: int = 2, update: Update = "agwu", partition: Partition = "idpa"
) -> Coordinator:
    return Coordinator(
        RunSettings(
            nodes=tuple(NodeProfile(f"n{node}", 1.0) for node in range(nodes)),
            samples=samples,
            epochs=epochs,
            batch_size=10,
            local_steps=2,
            learning_rates=(0.1,) * epochs,
            update=update,
            partition=partition,
            rounds=1,
            return_seconds=30.0,
        )
    )


def started(**changes: object) -> Coordinator:
    machine = coordinator(**changes)  # type: ignore[arg-type]
    for node in range(len(machine.statuses())):
        machine.handle(Ready(node, 0.0))
    return machine


def submitted(node: int, sequence: int, committed: int, epoch: int, samples: int) -> Submitted:
    return Submitted(node, 1.0, sequence, committed, epoch, samples, samples * 2.0, 5, 1, 1.0, 0.5, 0.1, samples, 1.1)


def away(node: int, sequence: int = 0, committed: int = 0, trained: int = 0) -> NodeLost:
    return NodeLost(node, 9.0, sequence, committed, 0.5, trained, f"no answer from n{node}", may_return=True)


def final(node: int, sequence: int = 0, committed: int = 0) -> NodeLost:
    return replace(away(node, sequence, committed), may_return=False)


def work(actions: list[Action]) -> list[tuple[int, int, int]]:
    """(node, epoch, samples) of all Work sent."""
    messages = [(action.node, action.message) for action in actions if isinstance(action, Send)]
    return [(node, message.epoch, message.indices.size) for node, message in messages if isinstance(message, Work)]


def sent(actions: list[Action], kind: type) -> list[int]:
    return [action.node for action in actions if isinstance(action, Send) and isinstance(action.message, kind)]


def ticks(machine: Coordinator, begin: float, seconds: int) -> list[Action]:
    """A Tick a second."""
    return [action for second in range(seconds) for action in machine.handle(Tick(begin + second))]


def test_a_node_that_returns_takes_its_part_of_what_is_unsent() -> None:
    machine = started(samples=400)
    assert work(machine.handle(away(1, sequence=1, committed=20, trained=35))) == []
    one, other = machine.statuses()
    assert (one.share, other.share, other.live, other.away) == (1.0, 0.0, False, True)
    actions = machine.handle(NodeReturned(1, 20.0))
    machine.validate()
    # 80 of the 380 that are left are in the other one's hands
    assert work(actions) == [(1, 1, 80)]
    one, other = machine.statuses()
    assert other.share * 400 == 190
    assert (other.live, other.away, other.reason_lost) == (True, False, None)
    # its counters go on
    assert machine.handle(Heartbeat(1, 20.5, 30)) == []
    machine.handle(submitted(1, 2, 40, 1, 20))
    machine.validate()
    assert machine.statuses()[1].totals.images == 40
    assert machine.counters().images_redone == 15


def test_samples_move_in_both_epochs_that_are_open() -> None:
    machine = started(nodes=3, samples=300)
    machine.handle(submitted(0, 1, 20, 1, 20))
    machine.handle(submitted(0, 2, 40, 1, 20))
    assert work(machine.handle(submitted(0, 3, 60, 1, 20))) == [(0, 1, 20), (0, 2, 20)]
    machine.handle(away(2))
    actions = machine.handle(NodeReturned(2, 10.0))
    machine.validate()
    assert {(node, epoch) for node, epoch, _ in work(actions)} >= {(2, 1)}


@pytest.mark.parametrize("partition", ["static", "uniform"])
def test_under_a_baseline_a_node_that_returns_waits_for_the_next_epoch(partition: Partition) -> None:
    machine = started(update="sgwu", partition=partition)
    machine.handle(away(1))
    assert machine.handle(NodeReturned(1, 10.0)) == []
    machine.handle(submitted(0, 1, 20, 1, 20))
    assert sent(machine.handle(submitted(0, 2, 40, 1, 20)), Pause) == [0, 1]
    machine.handle(Paused(1, 11.0))
    machine.handle(Paused(0, 11.0))
    assert work(machine.handle(EpochRecorded(12.0, stop=False))) == [(0, 2, 20), (1, 2, 20)]
    machine.validate()


def test_a_node_that_returns_while_the_others_pause_counts_as_paused() -> None:
    machine = started(epochs=3)
    machine.handle(away(1))
    # the other one had 20 of each epoch in hand when it was given the rest of the first
    machine.handle(submitted(0, 1, 20, 1, 20))
    machine.handle(submitted(0, 2, 40, 2, 20))
    assert sent(machine.handle(submitted(0, 3, 60, 1, 20)), Pause) == [0]
    assert machine.handle(NodeReturned(1, 10.0)) == []
    assert machine.statuses()[1].paused
    assert [type(action) for action in machine.handle(Paused(0, 11.0))] == [EpochEnd]
    actions = machine.handle(EpochRecorded(12.0, stop=False))
    assert sent(actions, Resume) == [0, 1]
    assert not machine.statuses()[1].paused
    machine.validate()


def test_a_node_that_returns_while_the_epoch_is_recorded_gets_the_resume_of_all() -> None:
    machine = started(epochs=3)
    machine.handle(submitted(0, 1, 20, 1, 20))
    machine.handle(submitted(1, 1, 20, 1, 20))
    machine.handle(Paused(0, 5.0))
    assert [type(action) for action in machine.handle(away(1, sequence=1, committed=20))] == [EpochEnd]
    assert machine.handle(NodeReturned(1, 10.0)) == []
    assert sent(machine.handle(EpochRecorded(12.0, stop=False)), Resume) == [0, 1]
    machine.validate()


def test_a_node_may_be_lost_and_return_many_times() -> None:
    machine = started(samples=200)
    committed = 0
    for life in range(5):
        committed += 10
        assert machine.handle(Heartbeat(1, 9.0 + 30 * life, 13)) == []  # of this life
        machine.handle(replace(away(1, life + 1, committed), time=10.0 + 30 * life))
        machine.validate()
        machine.handle(NodeReturned(1, 20.0 + 30 * life))
        machine.validate()
    assert machine.counters().images_trained == 50
    assert machine.counters().images_redone == 5 * 3


def test_a_new_agent_counts_from_zero_and_its_progress_is_seen() -> None:
    """Whichever way it came: by itself, or by joining in the place of one that is lost for good."""
    for joins in (False, True):
        machine = started(samples=4000)
        ticks(machine, 0.0, 2)
        machine.handle((final if joins else away)(1, 1, 20))
        if joins:
            machine.handle(NodeJoined(1, 2.0, "n1", 1.0))
        machine.handle(NodeReturned(1, 3.0))
        kills = []
        for second in range(3, 300):  # a batch a minute: less than its first life had committed
            machine.handle(Heartbeat(0, float(second), second // 10))
            machine.handle(Heartbeat(1, float(second), second // 6))
            kills += ticks(machine, float(second), 1)
            machine.validate()
        assert kills == []
        machine.handle(NodeLost(1, 300.0, 1, 20, 0.5, 20, "killed"))
        assert machine.counters().images_redone == 299 // 6
        machine.validate()


def test_nobody_trains_more_than_it_was_sent() -> None:
    machine = started(samples=4000)
    in_hand = sum(samples for node, _, samples in work(machine.handle(away(0))) if node == 1)
    in_hand += machine._ledger.sent(1)
    ticks(machine, 0.0, 2)
    kills = []
    for second in range(2, 200):
        machine.handle(Heartbeat(1, float(second), in_hand + second))
        machine.validate()
        kills += ticks(machine, float(second), 1)
    assert kills == [Kill(1, "no progress for 120 s", for_good=True)]


def test_a_node_that_returned_is_killed_again_for_silence() -> None:
    machine = started()
    ticks(machine, 0.0, 2)
    machine.handle(replace(away(1), time=2.0))
    machine.handle(NodeReturned(1, 3.0))
    kills = []
    for second in range(3, 12):
        machine.handle(Heartbeat(0, float(second), second))
        kills += ticks(machine, float(second), 1)
    assert kills == [Kill(1, "silent for 4 s")]


def test_a_measured_speed_is_a_first_estimate_after_a_return_and_no_measure_of_it() -> None:
    machine = started(samples=4000)
    for sequence in range(1, 41):
        machine.handle(replace(submitted(1, sequence, 20 * sequence, 1, 20), timed_seconds=2.0))
    assert machine.statuses()[1].speed == pytest.approx(10.0)
    machine.handle(away(1, sequence=40, committed=800))
    machine.handle(NodeReturned(1, 10.0))
    assert machine.statuses()[1].speed == pytest.approx(10.0)
    for sequence in range(41, 47):
        machine.handle(replace(submitted(1, sequence, 20 * sequence, 1, 20), timed_seconds=1.0))
    assert machine.statuses()[1].speed > 15.0


# ---- the synchronous update ------------------------------------------------------------------------------------------


def test_a_synchronous_node_returns_after_its_last_merge_and_is_not_waited_for_before_it_has_samples() -> None:
    machine = started(nodes=3, update="sgwu", samples=360)
    machine.handle(submitted(0, 1, 20, 1, 20))
    machine.handle(away(1, sequence=1, committed=20))
    with pytest.raises(ValueError, match="before its last submission was merged"):
        machine.handle(NodeReturned(1, 10.0))
    actions = machine.handle(submitted(2, 1, 20, 1, 20))
    assert isinstance(actions[0], MergeRound)
    assert [node for node, _ in actions[0].scales] == [0, 1, 2]
    assert sent(actions, Release) == [0, 2]
    assert [node for node, _, _ in work(machine.handle(NodeReturned(1, 11.0)))] == [1]
    machine.handle(submitted(0, 2, 40, 1, 20))
    assert sent(machine.handle(submitted(2, 2, 40, 1, 20)), Release) == []
    actions = machine.handle(submitted(1, 2, 40, 1, 20))
    assert isinstance(actions[0], MergeRound)
    assert sent(actions, Release) == [0, 1, 2]
    machine.validate()


def test_what_the_last_live_node_committed_is_merged_though_nobody_is_left() -> None:
    machine = started(update="sgwu", samples=80)
    machine.handle(away(0, sequence=1, committed=20))
    actions = machine.handle(away(1))
    assert actions == [MergeRound(((0, 1.0),))]
    assert work(machine.handle(NodeReturned(0, 10.0))) == [(0, 1, 60)]
    machine.validate()


# ---- no node is live -------------------------------------------------------------------------------------------------


def test_a_run_without_a_live_node_waits_and_whoever_returns_inherits_all() -> None:
    machine = started(nodes=3, samples=60)
    machine.handle(away(0, sequence=1, committed=10))
    machine.handle(final(1))
    assert machine.handle(away(2)) == []
    machine.validate()
    assert machine.phase is Phase.TRAINING
    assert sum(status.share for status in machine.statuses()) == 1.0
    actions = machine.handle(NodeReturned(0, 20.0))
    assert work(actions) == [(0, 1, 50), (0, 2, 30)]
    machine.validate()
    assert [status.share for status in machine.statuses()] == [1.0, 0.0, 0.0]
    # the next one takes what is not in its hands
    machine.handle(NodeReturned(2, 21.0))
    machine.validate()


def test_a_run_without_a_live_node_fails_after_a_time() -> None:
    machine = started()
    machine.handle(away(0))
    machine.handle(away(1))
    assert ticks(machine, 9.0, 31) == []
    assert machine.phase is Phase.TRAINING
    assert ticks(machine, 40.0, 1) == [Finish("failed", "every node is lost, the last one: no answer from n1")]
    assert machine.handle(NodeReturned(1, 50.0)) == []


def test_the_time_begins_anew_after_a_return_and_after_the_driver_slept() -> None:
    machine = started(nodes=1)
    machine.handle(away(0))
    assert ticks(machine, 9.0, 25) == []
    machine.handle(NodeReturned(0, 34.0))
    machine.handle(replace(away(0), time=35.0))
    assert ticks(machine, 35.0, 25) == []
    assert ticks(machine, 500.0, 30) == []
    assert [type(action) for action in ticks(machine, 530.0, 3)] == [Finish]


def test_a_run_fails_with_its_last_hope() -> None:
    machine = started()
    machine.handle(away(0))
    assert machine.handle(final(1)) == []
    actions = machine.handle(NodeAbandoned(0, 12.0, "n0 could not be reached"))
    assert actions == [Finish("failed", "every node is lost, the last one: n0 could not be reached")]


def test_an_abandoned_node_changes_nothing_for_the_others() -> None:
    machine = started()
    machine.handle(away(0))
    assert machine.handle(NodeAbandoned(0, 12.0, "n0 could not be reached")) == []
    status = machine.statuses()[0]
    assert (status.live, status.away, status.reason_lost) == (False, False, "n0 could not be reached")
    machine.validate()


def test_an_epoch_that_is_complete_ends_though_no_node_is_live_and_the_next_one_waits() -> None:
    machine = started(nodes=1, epochs=2)
    actions = machine.handle(away(0, sequence=2, committed=40))
    assert [type(action) for action in actions] == [EpochEnd]
    machine.validate()
    assert np.array_equal(np.unique(machine.state().owners), [0])
    assert machine.handle(EpochRecorded(12.0, stop=False)) == []
    assert (machine.phase, machine.epoch) == (Phase.TRAINING, 2)
    machine.validate()
    assert work(machine.handle(NodeReturned(0, 20.0))) == [(0, 2, 40)]


@pytest.mark.parametrize("may_return", [True, False])
def test_the_end_of_the_last_epoch_needs_no_live_node(may_return: bool) -> None:
    machine = started(nodes=1, epochs=1)
    actions = machine.handle(replace(away(0, sequence=2, committed=40), may_return=may_return))
    assert [type(action) for action in actions] == [EpochEnd]
    assert machine.handle(EpochRecorded(12.0, stop=False)) == [Finish("completed", "1 epochs trained")]


def test_a_run_whose_nodes_are_all_lost_for_good_fails_after_the_end_of_a_complete_epoch() -> None:
    machine = started(nodes=1, epochs=2)
    assert [type(action) for action in machine.handle(final(0, sequence=2, committed=40))] == [EpochEnd]
    actions = machine.handle(EpochRecorded(12.0, stop=False))
    assert actions == [Finish("failed", "every node is lost, the last one: no answer from n0")]


def test_recording_is_not_interrupted_when_the_time_is_up() -> None:
    machine = started(nodes=1, epochs=2)
    machine.handle(away(0, sequence=2, committed=40))
    assert ticks(machine, 9.0, 40) == []
    assert [type(action) for action in machine.handle(EpochRecorded(50.0, stop=False))] == [Finish]


# ---- before the start ------------------------------------------------------------------------------------------------


def test_a_run_starts_without_a_node_that_is_away_and_takes_it_in_later() -> None:
    machine = coordinator(samples=400)
    machine.handle(away(1))
    assert {node for node, _, _ in work(machine.handle(Ready(0, 10.0)))} == {0}
    assert {node for node, _, _ in work(machine.handle(NodeReturned(1, 11.0)))} == {1}
    machine.validate()


def test_a_node_that_returns_before_the_start_is_ready() -> None:
    machine = coordinator()
    machine.handle(away(1))
    assert machine.handle(NodeReturned(1, 10.0)) == []
    assert {node for node, _, _ in work(machine.handle(Ready(0, 11.0)))} == {0, 1}


def test_a_run_does_not_start_without_a_live_node() -> None:
    machine = coordinator()
    machine.handle(Ready(0, 0.0))
    machine.handle(away(1))
    machine = coordinator()
    machine.handle(Ready(0, 0.0))
    machine.handle(away(0))
    assert machine.handle(away(1)) == []
    machine.validate()
    assert machine.phase is Phase.STARTING
    assert work(machine.handle(NodeReturned(1, 10.0))) == [(1, 1, 40), (1, 2, 40)]
    machine.validate()


def test_a_run_fails_if_no_node_can_be_reached_at_its_start() -> None:
    machine = coordinator()
    machine.handle(final(0))
    machine.handle(away(1))
    actions = ticks(machine, 9.0, 40)
    assert actions == [Finish("failed", "every node is lost, the last one: no answer from n1")]


# ---- what cannot be, what is counted ---------------------------------------------------------------------------------


@pytest.mark.parametrize("event", [NodeReturned(0, 1.0), NodeAbandoned(0, 1.0, "given up")])
def test_only_a_lost_node_returns_or_is_abandoned(event: NodeReturned | NodeAbandoned) -> None:
    with pytest.raises(ValueError, match="without being lost"):
        started().handle(event)


def test_a_stop_does_not_reach_nodes_that_are_away() -> None:
    machine = started()
    machine.handle(away(0))
    assert sent(machine.stop("interrupted"), Stop) == [1]


def test_what_travelled_is_summed() -> None:
    machine = started(samples=400)
    machine.handle(replace(submitted(0, 1, 20, 1, 20), transfer_seconds=0.5, bytes_sent=100, bytes_received=70))
    machine.handle(replace(submitted(0, 2, 40, 1, 20), transfer_seconds=0.25, bytes_sent=100, bytes_received=90))
    machine.handle(away(0, sequence=3, committed=60))
    totals = machine.statuses()[0].totals
    assert (totals.transfer_seconds, totals.bytes_sent, totals.bytes_received) == (0.75, 200, 160)
    assert (totals.images, totals.submissions) == (60, 3)


def test_a_node_that_trains_on_while_its_submissions_travel_is_given_more() -> None:
    machine = started(samples=4000)

    def in_hand_after(size: int) -> int:
        sequence = machine.statuses()[0].totals.submissions + 1
        committed = machine.statuses()[0].totals.images + size
        event = replace(
            submitted(0, sequence, committed, 1, size), timed_seconds=size / 100, transfer_seconds=0.01 * size
        )
        sent_to_it.extend(samples for node, _, samples in work(machine.handle(event)) if node == 0)
        return sum(sent_to_it) - committed

    sent_to_it = [80]
    in_hand_after(20)
    # measured now: twice its planned local iteration and what it trains in 0.25 s, and what it trains meanwhile
    assert in_hand_after(20) == 2 * (20 + 25) + 20
    in_hand_after(60)
    in_hand_after(60)
    for _ in range(4):
        # once to twice its real local iteration and what it trains in 0.25 s, and what it trains meanwhile
        assert 60 + 25 + 60 <= in_hand_after(60) <= 2 * (60 + 25) + 60
    # one submission that is cut short is not its usual size
    assert in_hand_after(5) >= 60 + 25 + 60
    machine.validate()
