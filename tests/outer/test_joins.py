"""Nodes that join a running run: the coordinator's protocol, event by event."""

from dataclasses import replace

import numpy as np
import pytest
from test_returns import away, coordinator, final, sent, started, submitted, work

from bptcnn.outer.coordinator import Coordinator
from bptcnn.outer.messages import (
    Action,
    EpochEnd,
    EpochRecorded,
    Event,
    Finish,
    MergeRound,
    NodeAbandoned,
    NodeJoined,
    NodeReturned,
    Pause,
    Paused,
    Ready,
    Release,
    Resume,
    Send,
    Submitted,
    Tick,
    Work,
)
from bptcnn.outer.phase import Phase
from bptcnn.outer.settings import NodeProfile, Partition, RunSettings, Update
from bptcnn.outer.simulated_node import SimulatedNode
from bptcnn.outer.simulator import Conditions, simulate


def joins(node: int, name: str = "new", speed: float = 1.0) -> NodeJoined:
    return NodeJoined(node, 5.0, name, speed)


def joined(machine: Coordinator, node: int, name: str = "new", speed: float = 1.0) -> list[Action]:
    """Let a node join that is ready at once; return what follows."""
    assert machine.handle(joins(node, name, speed)) == []
    machine.validate()
    actions = machine.handle(NodeReturned(node, 6.0))
    machine.validate()
    return actions


def epoch_ends(machine: Coordinator, nodes: int) -> list[Action]:
    """All nodes pause and the epoch is recorded."""
    for node in range(nodes):
        actions = machine.handle(Paused(node, 7.0))
    assert [type(action) for action in actions] == [EpochEnd]
    return machine.handle(EpochRecorded(8.0, stop=False))


def test_a_node_that_joins_takes_its_part_of_what_is_unsent() -> None:
    machine = started(samples=600)
    assert machine.handle(joins(2)) == []
    status = machine.statuses()[2]
    assert (status.name, status.live, status.away, status.share) == ("new", False, True, 0.0)
    actions = machine.handle(NodeReturned(2, 6.0))
    machine.validate()
    assert work(actions) == [(2, 1, 80)]
    assert [round(status.share * 600) for status in machine.statuses()] == [200, 200, 200]
    machine.handle(submitted(2, 1, 20, 1, 20))
    assert machine.statuses()[2].totals.images == 20
    assert machine.counters().images_trained == 20


def test_only_what_balance_needs_moves_and_the_history_says_so() -> None:
    machine = started(samples=600)
    assert [entry.cause for entry in machine.reallocations()] == ["round"]
    owners = machine._ledger.owners()
    joined(machine, 2, speed=0.5)
    after = machine._ledger.owners()
    assert np.count_nonzero(owners != after) == 120
    assert set(after[owners != after]) == {2}
    (entry,) = machine.reallocations()
    assert (entry.cause, entry.node, entry.moved) == ("join", "new", 120)
    assert [(shard.name, shard.samples) for shard in entry.shards] == [("n0", 240), ("n1", 240), ("new", 120)]
    assert machine.reallocations() == []
    machine.handle(final(2))
    machine.handle(away(1))
    machine.handle(NodeReturned(1, 10.0))
    causes = [(entry.cause, entry.node, entry.moved > 0) for entry in machine.reallocations()]
    assert causes == [("loss", "new", True), ("loss", "n1", True), ("return", "n1", True)]


def test_a_node_that_joins_one_that_was_alone_need_not_wait_for_the_next_epoch() -> None:
    machine = coordinator(nodes=1, samples=800)
    assert work(machine.handle(Ready(0, 0.0))) == [(0, 1, 160)]
    assert work(joined(machine, 1)) == [(1, 1, 80)]
    assert [round(status.share * 800) for status in machine.statuses()] == [400, 400]


def test_while_rounds_are_given_out_a_node_that_joins_is_an_heir_of_the_next() -> None:
    settings = RunSettings(
        nodes=(NodeProfile("n0", 1.0), NodeProfile("n1", 1.0)),
        samples=600,
        epochs=2,
        batch_size=10,
        local_steps=1,
        learning_rates=(0.1, 0.1),
        rounds=3,
    )
    machine = Coordinator(settings)
    machine.handle(Ready(0, 0.0))
    machine.handle(Ready(1, 0.0))
    assert joined(machine, 2) == []
    for sequence in range(1, 10):
        machine.handle(submitted(0, sequence, 10 * sequence, 1, 10))
    machine.validate()
    shares = [round(status.share * 600) for status in machine.statuses()]
    assert shares == [134, 133, 133]  # the others have had 100 each of the first round


@pytest.mark.parametrize("partition", ["static", "uniform"])
def test_under_a_baseline_a_node_that_joins_gets_its_share_at_the_next_epoch(partition: Partition) -> None:
    machine = started(update="sgwu", partition=partition, samples=60)
    assert joined(machine, 2) == []
    machine.handle(submitted(0, 1, 20, 1, 20))
    machine.handle(submitted(1, 1, 20, 1, 20))
    machine.handle(submitted(0, 2, 30, 1, 10))
    assert sent(machine.handle(submitted(1, 2, 30, 1, 10)), Pause) == [0, 1, 2]
    assert work(epoch_ends(machine, 3)) == [(0, 2, 20), (1, 2, 20), (2, 2, 20)]
    machine.validate()


def test_a_node_that_joins_while_the_epoch_is_recorded_gets_the_resume_of_all() -> None:
    machine = started(epochs=3, samples=60, update="sgwu")
    for node in range(2):
        machine.handle(submitted(node, 1, 20, 1, 20))
    for node in range(2):
        machine.handle(submitted(node, 2, 30, 1, 10))
    for node in range(2):
        actions = machine.handle(Paused(node, 7.0))
    assert [type(action) for action in actions] == [EpochEnd]
    machine.handle(joins(2))
    assert machine.handle(NodeReturned(2, 7.5)) == []
    assert machine.statuses()[2].paused
    actions = machine.handle(EpochRecorded(8.0, stop=False))
    assert sent(actions, Resume) == [0, 1, 2]
    assert work(actions) == [(0, 2, 20), (1, 2, 20), (2, 2, 20)]
    machine.validate()


def test_a_synchronous_round_does_not_wait_for_a_node_that_joins() -> None:
    machine = started(update="sgwu", samples=400)
    machine.handle(submitted(0, 1, 20, 1, 20))
    machine.handle(joins(2))
    actions = machine.handle(submitted(1, 1, 20, 1, 20))
    assert isinstance(actions[0], MergeRound)
    assert sent(actions, Release) == [0, 1]
    assert [node for node, _, _ in work(machine.handle(NodeReturned(2, 6.0)))] == [2]
    machine.handle(submitted(0, 2, 40, 1, 20))
    assert sent(machine.handle(submitted(1, 2, 40, 1, 20)), Release) == []
    assert sent(machine.handle(submitted(2, 1, 20, 1, 20)), Release) == [0, 1, 2]
    machine.validate()


def test_a_run_that_has_not_started_does_not_wait_for_a_node_that_joins() -> None:
    machine = coordinator(samples=600)
    machine.handle(Ready(0, 0.0))
    machine.handle(joins(2))
    assert {node for node, _, _ in work(machine.handle(Ready(1, 1.0)))} == {0, 1}


def test_who_cannot_join() -> None:
    machine = started()
    for wrong in (joins(1), joins(3), joins(2, "n0"), joins(0, "n0")):
        with pytest.raises(ValueError, match="cannot join"):
            machine.handle(wrong)
    machine.handle(joins(2))
    with pytest.raises(ValueError, match="cannot join"):
        machine.handle(joins(2))
    machine.handle(away(1))
    with pytest.raises(ValueError, match="cannot join"):  # it may return by itself
        machine.handle(joins(1, "n1"))


def test_a_node_that_was_lost_for_good_joins_again_and_goes_on_from_its_counts() -> None:
    machine = started(samples=400)
    machine.handle(final(1, sequence=1, committed=20))
    joined(machine, 1, "n1")
    machine.handle(submitted(1, 2, 40, 1, 20))
    machine.validate()
    assert machine.statuses()[1].totals.images == 40
    assert machine.statuses()[1].reason_lost is None


def test_a_node_that_never_gets_ready_changes_nothing() -> None:
    machine = started(samples=400)
    machine.handle(joins(2))
    assert machine.handle(NodeAbandoned(2, 9.0, "no memory")) == []
    machine.validate()
    status = machine.statuses()[2]
    assert (status.live, status.away, status.reason_lost) == (False, False, "no memory")
    joined(machine, 2)


def test_a_run_whose_last_node_is_lost_waits_for_one_that_joins() -> None:
    machine = started(samples=400)
    machine.handle(joins(2))
    machine.handle(final(0))
    assert machine.handle(final(1)) == []
    machine.validate()
    assert machine.phase is Phase.TRAINING
    assert work(machine.handle(NodeReturned(2, 20.0))) == [(2, 1, 80)]
    assert machine.statuses()[2].share == 1.0


def test_a_run_does_not_wait_for_ever_for_one_that_joins() -> None:
    machine = started()
    machine.handle(joins(2))
    machine.handle(final(0))
    machine.handle(final(1))
    actions = [action for second in range(9, 45) for action in machine.handle(Tick(float(second)))]
    assert [action.outcome for action in actions if isinstance(action, Finish)] == ["failed"]


# ---- resuming --------------------------------------------------------------------------------------------------------


def test_a_resumed_run_knows_a_node_that_had_joined_by_its_name() -> None:
    nodes = (SimulatedNode(100.0), SimulatedNode(100.0, join_at=1.0))
    settings = RunSettings((NodeProfile("n0", 100.0),), 600, 3, 10, 2, (0.1,) * 3)
    state = simulate(settings, nodes).states[0]
    assert [node.name for node in state.nodes] == ["n0", "joined1"]
    images = state.nodes[1].totals.images
    assert images > 100

    alone = Coordinator(settings, state)
    assert [(node.name, node.totals.images) for node in alone.departed()] == [("joined1", images)]
    alone.handle(Ready(0, 0.0))
    assert alone.statuses()[0].share == 1.0
    assert alone.counters().images_trained == state.counters.images_trained
    joined(alone, 1, "joined1")
    assert alone.departed() == ()
    assert alone.statuses()[1].totals.images == images
    assert alone.counters().images_trained == state.counters.images_trained

    both = Coordinator(replace(settings, nodes=(NodeProfile("joined1", 1.0), NodeProfile("n0", 1.0))), state)
    assert both.departed() == ()
    assert both.statuses()[0].totals.images == images


# ---- a node alone ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("update", "alone", "steps"), [("agwu", None, 3), ("agwu", 5, 5), ("sgwu", 5, 3)])
def test_what_a_node_alone_trains_does_not_depend_on_time(
    update: Update, alone: int | None, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = RunSettings((NodeProfile("n0", 100.0),), 1013, 3, 10, 3, (0.1,) * 3, update=update)
    settings = replace(told, alone_local_steps=alone)
    handle, kept = Coordinator.handle, []

    def handles(self: Coordinator, event: Event) -> list[Action]:
        actions = handle(self, event)
        if isinstance(event, Submitted):
            kept.append((event.epoch, event.samples))
        works = [action.message for action in actions if isinstance(action, Send)]
        streamed.extend((work.epoch, *work.indices) for work in works if isinstance(work, Work))
        return actions

    monkeypatch.setattr(Coordinator, "handle", handles)
    seen = []
    for delay, speed in ((0.0, 100.0), (0.3, 1000.0), (2.0, 5000.0)):
        streamed: list[tuple[int, ...]] = []
        kept.clear()
        simulate(settings, (SimulatedNode(speed),), Conditions(delay=delay))
        order = [(epoch, index) for epoch, *indices in streamed for index in indices]
        seen.append((list(kept), order))
    assert seen[0] == seen[1] == seen[2]
    assert {samples for _, samples in seen[0][0]} == {10 * steps, 1013 % (10 * steps)}
