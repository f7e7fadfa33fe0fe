"""Whole runs in virtual time: balance, efficiency, drift, resuming."""

import json
from dataclasses import replace

import numpy as np
import pytest

from bptcnn.errors import UserError
from bptcnn.outer.settings import NodeProfile, RunSettings, Update
from bptcnn.outer.simulated_node import SimulatedNode
from bptcnn.outer.simulator import Conditions, SimulatedRun, simulate
from bptcnn.outer.state import CoordinatorState

SPEEDS = (1000.0, 500.0, 250.0, 250.0)
UPDATES: tuple[Update, ...] = ("agwu", "sgwu")


def settings(profiled: tuple[float, ...] = SPEEDS, **changes: object) -> RunSettings:
    base = RunSettings(
        nodes=tuple(NodeProfile(f"n{i}", speed) for i, speed in enumerate(profiled)),
        samples=20000,
        epochs=3,
        batch_size=64,
        local_steps=4,
        learning_rates=(0.1,) * 3,
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def run(told: RunSettings, state: CoordinatorState | None = None, **conditions: object) -> SimulatedRun:
    nodes = tuple(SimulatedNode(speed) for speed in SPEEDS)[: len(told.nodes)]
    return simulate(told, nodes, Conditions(**conditions), state, validate=False)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(12))
def test_shares_fit_after_idpa_when_profiles_are_off_by_up_to_4_relative_to_each_other(seed: int) -> None:
    rng = np.random.default_rng(seed)
    profiled = tuple(speed * float(factor) for speed, factor in zip(SPEEDS, 2.0 ** rng.uniform(-1, 1, 4), strict=True))
    result = run(settings(profiled))
    assert np.allclose(result.shares[0], np.array(SPEEDS) / sum(SPEEDS), rtol=0.1)


def test_a_node_whose_profile_is_far_too_good_is_held_back_before_it_reports() -> None:
    result = run(settings((250.0, 500.0, 1000.0, 1000.0)))
    assert np.allclose(result.shares[0], np.array(SPEEDS) / sum(SPEEDS), rtol=0.1)


@pytest.mark.parametrize("update", UPDATES)
@pytest.mark.parametrize("seed", range(6))
def test_shares_fit_from_the_second_epoch_when_each_profile_is_off_by_up_to_4(update: Update, seed: int) -> None:
    rng = np.random.default_rng(seed)
    profiled = tuple(speed * float(factor) for speed, factor in zip(SPEEDS, 4.0 ** rng.uniform(-1, 1, 4), strict=True))
    result = run(settings(profiled, update=update))
    assert np.allclose(result.shares[1], np.array(SPEEDS) / sum(SPEEDS), rtol=0.1)


@pytest.mark.parametrize("update", UPDATES)
def test_idpa_is_efficient_where_uniform_waits_for_the_slowest(update: Update) -> None:
    idpa = run(settings(update=update, epochs=8, learning_rates=(0.1,) * 8))
    uniform = run(settings(update=update, epochs=8, learning_rates=(0.1,) * 8, partition="uniform"))
    assert idpa.efficiency > 0.95
    assert uniform.efficiency < 0.52
    if update == "sgwu":
        assert idpa.counters.waiting_seconds < 0.1 * uniform.counters.waiting_seconds


@pytest.mark.parametrize("update", UPDATES)
def test_shards_follow_a_node_that_slows_down(update: Update) -> None:
    nodes = (SimulatedNode(1000.0, drift=0.25, drift_at=12.0), *(SimulatedNode(speed) for speed in SPEEDS[1:]))
    told = settings(update=update, epochs=6, learning_rates=(0.1,) * 6)
    result = simulate(told, nodes, validate=False)
    assert result.shares[0][0] == pytest.approx(0.5, rel=0.1)
    assert result.shares[4][0] == pytest.approx(0.2, rel=0.15)
    static = simulate(replace(told, partition="static"), nodes, validate=False)
    assert result.seconds < 0.7 * static.seconds


def test_a_node_that_slows_down_in_the_last_epoch_is_relieved() -> None:
    nodes = (SimulatedNode(1000.0, drift=0.25, drift_at=23.0), *(SimulatedNode(speed) for speed in SPEEDS[1:]))
    result = simulate(settings(), nodes, validate=False)
    # 23 s at 2000 images/s, the other 14000 at 1250
    assert result.seconds < 1.15 * (23.0 + 14000 / 1250)


@pytest.mark.parametrize("slow", [0.25, 0.5])
def test_a_node_that_slows_down_early_in_an_epoch_is_relieved_before_the_others_run_out(slow: float) -> None:
    """The others train their share of the next epoch, then the slow node's: nobody waits for it."""
    nodes = (SimulatedNode(1000.0, drift=slow, drift_at=11.0), *(SimulatedNode(speed) for speed in SPEEDS[1:]))
    told = settings(epochs=5, learning_rates=(0.1,) * 5)
    result = simulate(told, nodes, validate=False)
    left = 5 * 20000 - 11.0 * 2000
    assert result.seconds < 1.03 * (11.0 + left / (1000 + 1000 * slow))


def through_json(state: CoordinatorState) -> CoordinatorState:
    return CoordinatorState.build(json.loads(json.dumps(state.scalars())), state.arrays())


@pytest.mark.parametrize("resumed", UPDATES)
@pytest.mark.parametrize("first", UPDATES)
def test_a_resumed_run_trains_each_epoch_once_and_keeps_what_was_ahead(first: Update, resumed: Update) -> None:
    told = settings(update=first, local_steps=1, partition="uniform")
    before = run(told)
    state = through_json(before.states[0])
    assert np.count_nonzero(state.ahead) == state.counters.images_trained - 20000
    assert state.ahead.any() == (first == "agwu")
    after = run(replace(told, update=resumed), state)
    assert after.outcome == "completed"
    assert after.counters.images_trained == 3 * 20000
    assert sum(status.totals.images for status in after.statuses) == 3 * 20000


@pytest.mark.parametrize("names", [("n0", "n2"), ("n3", "n1", "n0", "n2"), ("x", "y"), ("n0", "n1", "new")])
def test_a_run_resumes_on_other_nodes(names: tuple[str, ...]) -> None:
    told = settings(local_steps=1, epochs=5, learning_rates=(0.1,) * 5)
    state = through_json(run(told).states[0])
    other = replace(told, nodes=tuple(NodeProfile(name, speed) for name, speed in zip(names, SPEEDS, strict=False)))
    nodes = tuple(SimulatedNode(speed) for speed in SPEEDS[: len(names)])
    result = simulate(other, nodes, state=state)
    assert result.outcome == "completed"
    speeds = np.array(SPEEDS[: len(names)])
    assert result.counters.images_trained == 5 * 20000
    # not the last epoch's: in it, samples move so that all end together
    assert np.allclose(result.shares[2], speeds / speeds.sum(), rtol=0.1)


def test_a_run_resumes_though_a_node_never_becomes_ready() -> None:
    state = run(settings()).states[0]
    nodes = (SimulatedNode(1000.0, fate_at=0.0), *(SimulatedNode(speed) for speed in SPEEDS[1:]))
    result = simulate(settings(), nodes, state=state)
    assert result.outcome == "completed"
    assert result.shares[-1][0] == 0.0


def test_resuming_a_complete_run_ends_at_once_and_more_epochs_go_on() -> None:
    state = run(settings()).states[-1]
    assert run(settings(), state).counters.images_trained == 3 * 20000
    assert run(settings(epochs=4, learning_rates=(0.1,) * 4), state).counters.images_trained == 4 * 20000


def test_other_data_is_refused() -> None:
    state = run(settings()).states[0]
    with pytest.raises(UserError, match="20000 samples"):
        run(settings(samples=19999), state)


def test_the_same_arguments_give_the_same_run() -> None:
    one, other = run(settings(), seed=4), run(settings(), seed=4)
    assert (one.seconds, one.shares, one.counters) == (other.seconds, other.shares, other.counters)


def test_the_survivor_of_all_others_finishes_the_run() -> None:
    nodes = (SimulatedNode(1000.0), *(SimulatedNode(speed, fate_at=2.1 + speed / 100) for speed in SPEEDS[1:]))
    result = simulate(settings(), nodes)
    assert result.outcome == "completed"
    assert result.counters.images_trained == 60000
    assert result.counters.images_redone > 0
    assert result.shares[-1] == (1.0, 0.0, 0.0, 0.0)


def linked(seed: int) -> SimulatedRun:
    """Nodes behind a link on which a submission takes three to eight times as long as a planned local iteration."""
    speeds = (9000.0, 4500.0, 2250.0)
    told = settings(speeds, samples=60000, epochs=4, learning_rates=(0.1,) * 4, local_steps=8)
    nodes = tuple(SimulatedNode(speed, travel=0.18) for speed in speeds)
    return simulate(told, nodes, Conditions(delay=0.04, least_delay=0.02, seed=seed), validate=False)


@pytest.mark.parametrize("seed", range(6))
def test_nodes_whose_submissions_travel_do_not_run_dry(seed: int) -> None:
    result = linked(seed)
    assert result.outcome == "completed"
    assert result.efficiency >= 0.95


@pytest.mark.parametrize("seed", range(6))
def test_long_local_iterations_leave_enough_to_move_at_the_end(seed: int) -> None:
    """The slowest node's local iteration takes a third of an epoch: what is in its hands is little more."""
    speeds = (9000.0, 4500.0, 2250.0)
    told = settings((1.0,) * 3, samples=60000, epochs=3, learning_rates=(0.1,) * 3, local_steps=48)
    nodes = tuple(SimulatedNode(speed, travel=0.03) for speed in speeds)
    conditions = Conditions(delay=0.04, least_delay=0.005, seed=seed)
    assert simulate(told, nodes, conditions, validate=False).efficiency >= 0.93


@pytest.mark.parametrize("seed", range(3))
def test_long_local_iterations_get_shorter_where_the_run_ends(seed: int) -> None:
    """Else the slowest node would train for a second when the others have nothing left."""
    speeds = (8000.0, 4000.0, 2000.0, 2000.0)
    told = settings(speeds, samples=60000, epochs=1, learning_rates=(0.1,), local_steps=32)
    result = simulate(told, tuple(SimulatedNode(speed) for speed in speeds), Conditions(seed=seed), validate=False)
    assert result.efficiency >= 0.97


def test_batches_that_take_seconds_are_divided_where_the_run_ends() -> None:
    """Else a slow node would train its last one for up to 3 seconds when the others have nothing left: 0.959."""
    speeds = (88.0, 40.0, 21.0, 21.0)
    told = settings(speeds, samples=5000, epochs=2, learning_rates=(0.1,) * 2, local_steps=8, fewest_local_steps=2)
    result = simulate(told, tuple(SimulatedNode(speed) for speed in speeds), validate=False)
    assert result.efficiency >= 0.963


@pytest.mark.parametrize(
    ("cost", "steps"),
    [(0.0, (2, 2, 2, 2)), (0.002, (4, 2, 2, 2)), (0.005, (8, 4, 2, 2)), (0.1, (8, 8, 8, 8))],
)
def test_local_iterations_are_as_short_as_their_cost_allows(cost: float, steps: tuple[int, ...]) -> None:
    """A submission takes 1 % of a node's time; here one costs all nodes as much, whose steps take 64 to 256 ms."""
    told = settings(samples=100_000, local_steps=8, fewest_local_steps=2)
    result = run(told, merge_seconds=cost)
    for status, count in zip(result.statuses, steps, strict=True):
        assert status.totals.images / status.totals.submissions == pytest.approx(64 * count, rel=0.15)


def test_a_submission_costs_the_time_on_its_way_too() -> None:
    """Else a node behind a link would submit without a break."""
    told = settings((1.0, 1.0), samples=60000, local_steps=8, fewest_local_steps=2)
    result = simulate(told, (SimulatedNode(1000.0, travel=0.02),) * 2, Conditions(merge_seconds=0.0), validate=False)
    assert result.counters.images_trained / result.submissions == pytest.approx(64 * 8, rel=0.1)


@pytest.mark.parametrize(("update", "nodes"), [("agwu", 1), ("sgwu", 4)])
def test_local_steps_are_as_told_of_one_node_and_where_nodes_wait(update: Update, nodes: int) -> None:
    told = settings((1.0,) * nodes, samples=60000, local_steps=16, fewest_local_steps=2, update=update)
    result = simulate(told, (SimulatedNode(1000.0),) * nodes, Conditions(), validate=False)
    assert result.counters.images_trained / result.submissions == pytest.approx(64 * 16, rel=0.1)


@pytest.mark.parametrize("update", UPDATES)
@pytest.mark.parametrize("travel", [0.0, 0.2])
def test_a_node_that_returns_gets_its_share_again(update: Update, travel: float) -> None:
    nodes = (
        SimulatedNode(1000.0, fate_at=12.0, return_after=3.0, travel=travel),
        *(SimulatedNode(speed) for speed in SPEEDS[1:]),
    )
    told = settings(update=update, epochs=6, learning_rates=(0.1,) * 6)
    result = simulate(told, nodes)
    assert (result.outcome, result.returns) == ("completed", 1)
    assert result.counters.images_trained == 6 * 20000
    assert np.allclose(result.shares[4], np.array(SPEEDS) / sum(SPEEDS), rtol=0.15)
    without = simulate(told, (replace(nodes[0], return_after=None), *nodes[1:]))
    assert result.seconds < 0.85 * without.seconds


@pytest.mark.parametrize("partition", ["static", "uniform"])
def test_a_node_that_returns_gets_its_part_of_a_baseline_at_the_next_epoch(partition: str) -> None:
    nodes = (SimulatedNode(1000.0, fate_at=2.0, return_after=1.0), *(SimulatedNode(speed) for speed in SPEEDS[1:]))
    result = simulate(settings(update="sgwu", partition=partition), nodes)
    assert result.shares[0][0] == 0.0
    assert result.shares[1][0] == pytest.approx(0.5 if partition == "static" else 0.25, rel=0.01)


def test_a_run_goes_on_with_whoever_returns_first_after_all_were_lost() -> None:
    nodes = tuple(
        SimulatedNode(speed, fate_at=14.0, return_after=5.0 + 3.0 * place) for place, speed in enumerate(SPEEDS)
    )
    result = simulate(settings(), nodes)
    assert (result.outcome, result.returns) == ("completed", 4)
    assert result.counters.images_trained == 60000


def test_a_run_waits_for_its_first_node() -> None:
    nodes = tuple(SimulatedNode(speed, fate_at=0.0, late=1.0, return_after=60.0) for speed in SPEEDS)
    result = simulate(settings(), nodes)
    assert (result.outcome, result.returns) == ("completed", 4)


@pytest.mark.parametrize("travel", [0.0, 0.2])
def test_a_run_on_one_node_survives_its_absences(travel: float) -> None:
    node = SimulatedNode(1000.0, fate_after_commit=7, return_after=2.0, deaths=5, travel=travel)
    result = simulate(settings((1000.0,)), (node,))
    assert (result.outcome, result.returns) == ("completed", 5)
    assert result.counters.images_trained == 60000


def test_a_state_taken_while_a_node_is_away_restores() -> None:
    nodes = (SimulatedNode(1000.0, fate_at=3.0, return_after=1e5), *(SimulatedNode(speed) for speed in SPEEDS[1:]))
    before = simulate(settings(), nodes)
    state = through_json(before.states[1])
    assert before.statuses[0].away
    after = run(settings(), state)
    assert (after.outcome, after.counters.images_trained) == ("completed", 60000)


def test_a_checkpoint_without_the_totals_of_transfer_loads() -> None:
    state = run(settings()).states[0]
    scalars = json.loads(json.dumps(state.scalars()))
    for node in scalars["nodes"]:
        for name in ("transfer_seconds", "bytes_sent", "bytes_received"):
            del node["totals"][name]
    assert CoordinatorState.build(scalars, state.arrays()).nodes == state.nodes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"local_steps": 0}, "local steps must be at least 1"),
        ({"update": "hogwild"}, "choose one of agwu"),
        ({"partition": "random"}, "choose one of idpa"),
        ({"rounds": 0}, "rounds"),
        ({"nodes": ()}, "at least one node"),
        ({"nodes": (NodeProfile("a", 0.0),)}, "speed of node a"),
        ({"nodes": (NodeProfile("a", 1.0), NodeProfile("a", 1.0))}, "same name"),
    ],
)
def test_settings_a_user_can_get_wrong(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        settings(**changes)
