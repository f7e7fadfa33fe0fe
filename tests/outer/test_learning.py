"""A learner in virtual time: it is asked for exactly what nodes do, and its word is what they report."""

from collections import Counter

import pytest

from bptcnn.outer import Conditions, NodeProfile, RunSettings, SimulatedNode, Update, simulate

SPEEDS = (1000.0, 500.0, 250.0)
SAMPLES, EPOCHS, BATCH, LOCAL_STEPS = 3000, 3, 20, 4


class Recorder:
    """Checks the order of calls: refresh, steps, submission (SGWU: merge), of each node."""

    def __init__(self) -> None:
        self.trained: Counter[tuple[int, int]] = Counter()
        self.open: dict[int, list[int]] = {}
        self.staged: set[int] = set()
        self.merges = 0
        self.lengths: list[int] = []
        self.time = 0.0

    def refresh(self, node: int) -> None:
        assert node not in self.open
        assert node not in self.staged, "a node goes on before its round was merged"
        self.open[node] = []

    def step(self, node: int, epoch: int, samples: list[int]) -> None:
        self.trained.update((epoch, sample) for sample in samples)
        self.open[node].append(len(samples))

    def submit(self, node: int, time: float) -> tuple[float, int]:
        assert time >= self.time
        self.time = time
        batches = self.open.pop(node)
        self.lengths.append(len(batches))
        self.staged.add(node)
        return 0.5 * sum(batches), sum(batches) // 2

    def merge(self, scales: tuple[tuple[int, float], ...], time: float) -> None:
        assert {node for node, _ in scales} == self.staged
        self.staged.clear()
        self.merges += 1


class Asynchronous(Recorder):
    def submit(self, node: int, time: float) -> tuple[float, int]:
        found = super().submit(node, time)
        self.staged.clear()
        return found


def settings(update: Update) -> RunSettings:
    profiles = tuple(NodeProfile(f"n{node}", speed) for node, speed in enumerate(SPEEDS))
    return RunSettings(profiles, SAMPLES, EPOCHS, BATCH, LOCAL_STEPS, (0.1,) * EPOCHS, update)


NODES = tuple(SimulatedNode(speed) for speed in SPEEDS)


@pytest.mark.parametrize("update", ["agwu", "sgwu"])
def test_a_learner_trains_every_sample_of_every_epoch_once(update: Update) -> None:
    learner = Recorder() if update == "sgwu" else Asynchronous()
    run = simulate(settings(update), NODES, learner=learner)
    assert learner.trained == Counter((epoch, i) for epoch in range(1, EPOCHS + 1) for i in range(SAMPLES))
    assert not learner.open
    assert not learner.staged
    assert len(learner.lengths) == run.submissions
    assert bool(learner.merges) == (update == "sgwu")
    assert all(state.epoch == number for number, state in enumerate(run.states, 1))


def test_a_learner_changes_nothing_about_when_things_happen() -> None:
    with_learner = simulate(settings("agwu"), NODES, learner=Asynchronous())
    without = simulate(settings("agwu"), NODES)
    assert with_learner.submissions == without.submissions
    assert with_learner.counters.updates == without.counters.updates


def test_a_staleness_bound_ends_local_iterations_early() -> None:
    free, bound = Asynchronous(), Asynchronous()
    simulate(settings("agwu"), NODES, learner=free)
    simulate(settings("agwu"), NODES, Conditions(staleness=1), learner=bound)
    assert max(free.lengths) == LOCAL_STEPS
    assert len(bound.lengths) > 1.5 * len(free.lengths)


@pytest.mark.parametrize("node", [SimulatedNode(1.0, travel=0.1), SimulatedNode(1.0, fate_at=1.0)])
def test_a_learner_refuses_nodes_that_it_cannot_play(node: SimulatedNode) -> None:
    with pytest.raises(ValueError, match="learner"):
        simulate(settings("agwu"), (node, *NODES[1:]), learner=Asynchronous())
