"""What a run takes of memory: as much as is asked for before it starts, and what is said where it was not enough."""

import os
import re
import sys
from pathlib import Path

import pytest
from control_groups import control_group, run_in
from nodes.agents import agent, gone, ready, submissions
from training.runs import data, lenet, run

from bptcnn import available
from bptcnn.available import Headroom
from bptcnn.errors import UserError
from bptcnn.inner.subnetwork import memory_needed
from bptcnn.networks.zoo import resnet18
from bptcnn.training.evaluation import Evaluator
from bptcnn.training.requirements import AGENT_BYTES

MB = 1_000_000
TESTS = Path(__file__).parent.parent


def anonymous(pid: int) -> int:
    """Bytes that a process has for itself."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))


def leaving(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    """Have a control group that leaves so many bytes."""
    monkeypatch.setattr(available, "_control_groups", lambda: [Headroom(free, 500 * MB, " in a group")])


def test_an_agent_takes_what_is_counted_for_it(tmp_path: Path) -> None:
    with agent(tmp_path) as bench:
        ready(bench.node)
        bench.node.send(bench.work(count=64))
        submissions(bench.node, 64)
        assert 0.5 * AGENT_BYTES < anonymous(bench.node.pid or 0) < AGENT_BYTES


def test_interpreters_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leaving(monkeypatch, 400 * MB)
    with pytest.raises(
        UserError, match=r"too little memory: 4 nodes need \d{3} MB here at batch size 16, 400 MB are free"
    ):
        run(tmp_path / "run", data(64, 16), nodes=4, epochs=1)
    assert not (tmp_path / "run").exists()
    assert run(tmp_path / "run", data(64, 16), nodes=1, epochs=1).summary.outcome == "completed"


def test_the_evaluator_leaves_what_others_will_need(monkeypatch: pytest.MonkeyPatch) -> None:
    network = resnet18()
    large, small = (memory_needed(network, batch, 2, training=False) for batch in (256, 8))
    for free, reserved, batch in ((300 * MB + large, 300 * MB, 256), (300 * MB + small, 300 * MB, 8), (10, 10, 1)):
        leaving(monkeypatch, free)
        if batch == 1:
            with pytest.raises(UserError, match="too little memory"):
                Evaluator(network, 2, reserved)
            continue
        evaluator = Evaluator(network, 2, reserved)
        assert evaluator._batch == batch
        evaluator.close()
    assert lenet().size < network.size


def test_a_node_killed_for_want_of_memory_is_said_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kills = 3
    monkeypatch.setattr(available, "oom_kills", lambda: kills)
    with agent(tmp_path) as bench:
        ready(bench.node)
        kills = 4
        os.kill(bench.node.pid or 0, 9)
        assert re.fullmatch(
            r"its process was killed by the system: out of memory \(the machine has [0-9,]+ MB\); "
            "use fewer nodes or a smaller batch",
            gone(bench.node),
        )


FULL = """
import subprocess, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from nodes.agents import agent, gone, ready

def killed_sooner(pid, score):
    Path(f"/proc/{pid}/oom_score_adj").write_text(str(score))

with agent(Path(sys.argv[2])) as bench:
    ready(bench.node)
    killed_sooner(bench.node.pid, 1000)
    hog = subprocess.Popen([sys.executable, "-c", "held = []\\nwhile True: held.append(b'x' * 5_000_000)"])
    killed_sooner(hog.pid, 500)
    print(gone(bench.node))
    hog.kill()
    hog.wait()
"""


def test_in_a_control_group_that_is_full_the_system_kills_and_the_reason_says_so(tmp_path: Path) -> None:
    with control_group("memory", 700 * MB, "bptcnn-test-full") as words:
        environment = {**os.environ, "PYTHONPATH": str(TESTS.parent)}
        done = run_in(words, [sys.executable, "-c", FULL, str(TESTS), str(tmp_path)], env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(
        "its process was killed by the system: out of memory (limit 700 MB of the control group"
    )
    assert "/bptcnn-test-full-" in done.stdout
