"""Processes that SIGKILL does not end, since the kernel waits in their name: nobody waits for them."""

import os
import sys
import time
from pathlib import Path

from control_groups import freezer
from nodes.agents import agent, await_end, has_ended, ready, submissions

from bptcnn.nodes.conversation import Conversation

FAR_TOO_LONG = 60.0  # seconds: two, and what a busy machine takes


def test_a_killed_node_that_cannot_end_is_not_waited_for(tmp_path: Path) -> None:
    with freezer("bptcnn-test-node") as group, agent(tmp_path) as bench:
        ready(bench.node)
        bench.node.send(bench.work(count=64))
        submissions(bench.node, 64)
        pid = bench.node.pid or 0
        group.freeze(pid)
        began = time.monotonic()
        said = bench.node.kill()
        assert time.monotonic() - began < FAR_TOO_LONG
        assert said == f"its process {pid} cannot be ended now: it waits for a disk, or its control group is frozen"
        assert bench.node.kill() == said
        assert not has_ended(pid)
        bench.buffer.finish(0)
        bench.buffer.validate()
        before = bench.buffer.submission(0)
        group.thaw()
        assert not await_end([pid])
        assert bench.buffer.submission(0) == before
        deadline = time.monotonic() + FAR_TOO_LONG
        while os.path.exists(f"/proc/{pid}"):
            assert time.monotonic() < deadline, "nobody has reaped it"
            time.sleep(0.01)


def test_neither_is_a_program_that_looks_at_a_host() -> None:
    reading, writing = os.pipe()
    with freezer("bptcnn-test-look") as group:
        talk = Conversation([sys.executable, "-c", "input()"], reading)
        group.freeze(talk._process.pid)
        began = time.monotonic()
        talk.close()
        assert time.monotonic() - began < FAR_TOO_LONG
        assert not has_ended(talk._process.pid)
        group.thaw()
        assert not await_end([talk._process.pid])
    os.close(reading)
    os.close(writing)
