"""An emulated slow node: its process gets the CPU time that its speed allows."""

import time
from pathlib import Path

import psutil
from nodes.agents import agent, kind, ready, wait_for

from bptcnn.networks import lenet5
from bptcnn.outer import Submitted

MEASURED_SECONDS = 2.0


def test_a_node_of_half_speed_uses_half_a_core(tmp_path: Path) -> None:
    """CPU seconds by the kernel's count, training and merging; the share is what emulation means."""
    with agent(tmp_path, network=lenet5(), samples=256, batch_size=64, speed=0.5) as bench:
        ready(bench.node)
        process = psutil.Process(bench.node.pid)
        bench.node.send(bench.work(count=2_000_000, steps=4))
        wait_for(bench.node, kind(Submitted))

        def used() -> tuple[float, float]:
            times = process.cpu_times()
            return time.monotonic(), times.user + times.system

        began, cpu_began = used()
        while (now := used())[0] - began < MEASURED_SECONDS:
            wait_for(bench.node, kind(Submitted))
        share = (now[1] - cpu_began) / (now[0] - began)
        assert 0.35 <= share <= 0.65
