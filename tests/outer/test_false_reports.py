"""What nodes report wrongly: nothing of it breaks the books, stalls the run, or keeps it from being planned."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from outer.test_coordinator import coordinator, lost, start, submitted

from bptcnn.outer import Coordinator, NodeProfile, RunSettings
from bptcnn.outer.messages import Action, Failed, Heartbeat, Kill, Ready, Refused, Send, Tick, Work
from bptcnn.outer.settings import Update

STALLED = [Kill(1, "no progress for 120 s", for_good=True)]


def killed(actions: list[Action]) -> list[Kill]:
    return [action for action in actions if isinstance(action, Kill)]


@pytest.mark.parametrize("rising", [1, 7, 1000, 10**12])
def test_progress_counts_only_up_to_what_was_sent(rising: int) -> None:
    """Heartbeats that rise for ever: 40 samples were sent to the node, in batches of 10."""
    machine = coordinator()
    start(machine)
    kills: list[Kill] = []
    second = 0
    while not kills and second < 2000:
        machine.handle(Heartbeat(0, float(second), 0))
        machine.handle(Heartbeat(1, float(second), rising * second))
        kills += [kill for kill in killed(machine.handle(Tick(float(second)))) if kill.node == 1]
        machine.validate()
        second += 1
    assert kills == STALLED
    assert second <= 120 + 40 + 5  # its last batch is claimed after 40 s at most


def test_progress_that_trickles_counts_by_whole_batches() -> None:
    machine = coordinator()
    start(machine)
    kills: list[Kill] = []
    for second in range(130):  # 9 samples in 130 s
        machine.handle(Heartbeat(1, float(second), second // 14))
        kills += killed(machine.handle(Tick(float(second))))
    assert Kill(1, "no progress for 120 s", for_good=True) in kills


def test_being_ready_again_and_again_is_no_progress() -> None:
    machine = coordinator()
    start(machine)
    kills: list[Kill] = []
    for second in range(130):
        machine.handle(Ready(1, float(second)))
        kills += killed(machine.handle(Tick(float(second))))
    assert Kill(1, "no progress for 120 s", for_good=True) in kills


def test_who_refuses_more_often_than_it_may_is_killed() -> None:
    machine = coordinator()
    start(machine)
    for _ in range(3):
        assert not killed(machine.handle(Refused(1, 1.0, 10, "diverged")))
    assert killed(machine.handle(Refused(1, 1.0, 10, "diverged"))) == [
        Kill(1, "it refused its samples 4 times in a row", for_good=True)
    ]
    machine.validate()


def test_a_submission_in_between_makes_refusals_begin_anew() -> None:
    machine = coordinator()
    start(machine)
    for sequence in (1, 2):
        for _ in range(3):
            assert not killed(machine.handle(Refused(1, 1.0, 10, "diverged")))
        assert not killed(machine.handle(submitted(1, sequence, 10 * sequence, 1, 10)))


@pytest.mark.parametrize("update", ["agwu", "sgwu"])
@pytest.mark.parametrize(
    "change",
    [
        {"sequence": 1},
        {"sequence": -5},
        {"samples_committed": 10**6},
        {"samples_committed": 5},
        {"epoch": 2},
        {"samples": 11},
        {"correct": 11},
        {"correct": -1},
    ],
    ids=str,
)
def test_a_submission_that_cannot_be_changes_nothing(update: Update, change: dict[str, int]) -> None:
    """The node is lost then; its samples are trained by the other one, each once."""
    machine = coordinator(update=update)
    start(machine)
    machine.handle(submitted(1, 1, 10, 1, 10))
    if update == "sgwu":
        machine.handle(submitted(0, 1, 20, 1, 20))
    before = machine.counters(), machine.trained_in_epoch, machine.statuses()[1].totals.submissions
    with pytest.raises(ValueError, match=r"n1|node 1"):
        machine.handle(replace(submitted(1, 2, 20, 1, 10), **change))  # type: ignore[arg-type]
    machine.validate()
    assert (machine.counters(), machine.trained_in_epoch, machine.statuses()[1].totals.submissions) == before
    machine.handle(lost(1, 1, 10, 10))
    machine.validate()
    assert machine.trained_in_epoch == before[1]


NUMBERS = st.one_of(
    st.sampled_from([0.0, 5e-324, 1e-300, 1e-12, 1e-9, 1.0, 1e9]), st.floats(0.0, 1e9, allow_subnormal=True)
)


@given(st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS), min_size=1, max_size=6), st.sampled_from(["agwu", "sgwu"]))
def test_whatever_times_are_said_the_run_is_planned_to_its_end(
    times: list[tuple[float, float, float]], update: Update
) -> None:
    """Node 1 says what it likes of its times; every sample of the first epoch is trained."""
    nodes = (NodeProfile("a", 1.0), NodeProfile("evil", 1.0))
    machine = Coordinator(RunSettings(nodes, 2000, 2, 8, 2, (0.1, 0.1), update, rounds=4))
    waiting: list[list[Work]] = [[], []]
    sequence, committed, said, now = [0, 0], [0, 0], 0, 0.0

    def take(actions: list[Action]) -> None:
        for action in actions:
            assert not isinstance(action, Kill), action
            if isinstance(action, Send) and isinstance(action.message, Work):
                waiting[action.node].append(action.message)

    for node in (0, 1):
        take(machine.handle(Ready(node, now)))
    for _ in range(400):
        if machine.trained_in_epoch == 2000 or not any(waiting):
            break
        for node in (0, 1):
            if not waiting[node]:
                continue
            now += 0.01
            message = waiting[node].pop(0)
            samples = len(message.indices)
            sequence[node] += 1
            committed[node] += samples
            event = replace(submitted(node, sequence[node], committed[node], message.epoch, samples, 0), time=now)
            if node:
                timed, transfer, communication = times[said % len(times)]
                said += 1
                event = replace(
                    event, timed_seconds=timed, transfer_seconds=transfer, communication_seconds=communication
                )
            take(machine.handle(event))
            take(machine.handle(Tick(now)))
        machine.validate()
        machine.statuses()
    assert sequence[1] > 0
    assert machine.trained_in_epoch == 2000


def test_the_patience_with_a_node_has_an_end_whatever_it_says() -> None:
    machine = coordinator(samples=400)
    start(machine)
    machine.handle(Tick(0.0))
    machine.handle(replace(submitted(1, 1, 20, 1, 20), time=1.0, timed_seconds=1e9))
    machine.handle(replace(submitted(1, 2, 40, 1, 20), time=1.0, timed_seconds=1e9))
    kills: list[Kill] = []
    for second in range(2, 1900):
        machine.handle(Heartbeat(0, float(second), 0))
        machine.handle(Heartbeat(1, float(second), 40))
        kills += [kill for kill in killed(machine.handle(Tick(float(second)))) if kill.node == 1]
    assert kills == [Kill(1, "no progress for 1800 s", for_good=True)]


def test_failed_counts_once() -> None:
    machine = coordinator()
    start(machine)
    assert killed(machine.handle(Failed(1, 1.0, "over"))) == [Kill(1, "over")]
    assert not killed(machine.handle(Failed(1, 1.0, "over")))
