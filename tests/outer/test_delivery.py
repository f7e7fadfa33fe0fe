"""A node that is not trusted has to deliver what it says it trains: its heartbeats alone do not keep a run waiting."""

import pytest

from bptcnn.outer.coordinator import Coordinator
from bptcnn.outer.messages import Action, Heartbeat, Kill, Ready, Send, Submitted, Tick, Work
from bptcnn.outer.settings import NodeProfile, RunSettings

BATCH, STEPS, PATIENCE = 64, 32, 120.0
SECONDS = 0.001  # a sample, of node 0, by which node 1 is judged: their profiles are the same
SAMPLES = 20_000
LONG = 1000  # seconds


class Run:
    """Node 0 trains what it gets at once; node 1 is what a test makes of it."""

    def __init__(self, trusted: bool) -> None:
        nodes = (NodeProfile("honest", 1.0), NodeProfile("other", 1.0, trusted))
        about = {"samples": SAMPLES, "epochs": 1, "batch_size": BATCH, "local_steps": STEPS, "learning_rates": (0.1,)}
        self.machine = Coordinator(RunSettings(nodes=nodes, progress_seconds=PATIENCE, **about))  # type: ignore[arg-type]
        self.in_hand, self.done, self.sequence = [0, 0], [0, 0], [0, 0]
        self.now, self.killed = 0.0, ""
        for node in range(2):
            self.handle(Ready(node, 0.0))

    def handle(self, event: Ready | Tick | Heartbeat | Submitted) -> None:
        actions: list[Action] = self.machine.handle(event)
        self.machine.validate()
        for action in actions:
            if isinstance(action, Send) and isinstance(action.message, Work):
                self.in_hand[action.node] += action.message.indices.size
            elif isinstance(action, Kill):
                assert action.for_good
                self.killed = action.reason

    def submit(self, node: int, samples: int) -> None:
        self.in_hand[node] -= samples
        self.done[node] += samples
        self.sequence[node] += 1
        seconds = samples * SECONDS
        head = (node, self.now, self.sequence[node], self.done[node], 1, samples, 1.0, 0, 0)
        self.handle(Submitted(*head, seconds, 0.0, 0.0, samples, seconds))

    def second(self, trained: int) -> None:
        """A second passes, in which node 1 says how much it has trained so far."""
        self.now += 1.0
        self.handle(Heartbeat(0, self.now, self.done[0]))
        self.handle(Heartbeat(1, self.now, trained))
        if self.in_hand[0]:
            self.submit(0, min(self.in_hand[0], BATCH * STEPS))
        self.handle(Tick(self.now))


@pytest.mark.parametrize("trusted", [False, True])
def test_heartbeats_that_rise_for_ever_are_no_delivery(trusted: bool) -> None:
    run = Run(trusted)
    while not run.killed and run.now < LONG:
        run.second(trained=int(run.now))  # a batch a minute
    if trusted:
        assert run.killed == "", "who cannot lie may be slow"
    else:
        assert "did not come back within" in run.killed
        assert run.now <= PATIENCE + 20 * run.in_hand[1] * SECONDS + 5


def test_a_sample_now_and_then_is_no_delivery() -> None:
    run = Run(trusted=False)
    while not run.killed and run.now < LONG:
        run.second(trained=run.done[1] + 1)
        if run.now % 60 == 0:
            run.submit(1, 1)
    assert "did not come back within" in run.killed
    assert run.now <= 2 * PATIENCE + 20 * (run.in_hand[1] + run.done[1]) * SECONDS


def test_who_is_ten_times_slower_than_expected_delivers() -> None:
    run = Run(trusted=False)
    trained = 0.0
    while sum(run.done) < SAMPLES and run.now < LONG:
        trained = min(trained + 0.1 / SECONDS, run.done[1] + run.in_hand[1])
        run.second(trained=int(trained))
        iteration = min(BATCH * STEPS, run.in_hand[1])
        if iteration and trained - run.done[1] >= iteration:
            run.submit(1, iteration)
    assert run.killed == ""
    assert sum(run.done) == SAMPLES


def test_a_driver_that_slept_judges_nobody_by_that() -> None:
    run = Run(trusted=False)
    for _ in range(100):
        run.second(trained=0)
    run.now += 10_000.0  # a laptop that was closed
    for _ in range(100):
        run.second(trained=0)
    assert run.killed == ""
