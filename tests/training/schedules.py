"""Schedules of faults, drawn: what happens to whom at which report.

kill     SIGKILL                                stop   SIGSTOP: silent until it is killed for it
doze     SIGSTOP, and SIGCONT before or after it is found silent
slow     a duty cycle of SIGSTOP and SIGCONT    diverge, raise   in its own steps
"""

import random
from collections.abc import Callable
from functools import partial

import pytest
from training.faults import Spy, poisoned

SAMPLES, EPOCHS = 600, 3
REPORTS = SAMPLES * EPOCHS // 32  # about so many submissions, and more reports, in so many epochs
DEADLY = ("kill", "kill", "kill", "stop", "doze")
POISONS = ("diverge", "raise")


def strike(spy: Spy, draw: random.Random, name: str, fault: str) -> None:
    """Let a fault happen to a node, now or a little later."""
    actions: dict[str, Callable[[], None]] = {
        "kill": partial(spy.signal, name),
        "stop": partial(spy.stop, name),
        "doze": partial(spy.slow, name, draw.uniform(0.1, 5.0), 0.0, 1e-3),
        "slow": partial(
            spy.slow, name, draw.choice([0.003, 0.03, 0.3]), draw.choice([0.003, 0.03]), draw.uniform(0.2, 2.0)
        ),
    }
    delay = draw.choice([0.0, draw.uniform(0.0, 0.004), draw.uniform(0.0, 0.1)])
    if fault == "kill" and not delay:
        actions[fault]()
    else:
        spy.later(delay, actions[fault])


def schedule(spy: Spy, draw: random.Random, nodes: int) -> dict[str, str]:
    """Draw what happens to whom when; return the nodes that may be lost, all but one at most, and by what."""
    names = [f"node{node}" for node in range(nodes)]
    doomed = draw.sample(names, draw.randint(0, nodes - 1))
    faults = [(name, draw.choice(DEADLY)) for name in doomed]
    deadly = dict(faults)
    faults += [(name, "slow") for name in names if deadly.get(name) != "stop" and draw.random() < 0.3]
    for name, fault in faults:
        moment = draw.randrange(0 if fault == "kill" else nodes, REPORTS)
        spy.also(moment, partial(strike, spy, draw, name, fault))
    return deadly


def poison(monkeypatch: pytest.MonkeyPatch, draw: random.Random, doomed: dict[str, str]) -> None:
    """Perhaps have one of the nodes that may be lost go wrong by itself."""
    if doomed and draw.random() < 0.3:
        victim = draw.choice(sorted(doomed)).removeprefix("node")
        poisoned(monkeypatch, draw.choice(POISONS), victim, draw.randrange(20), draw.choice([1, 2, 10**9]))
