"""A coordinator to be killed: starts an agent, prints its pid once it is in this state, and waits for its end.

python orphaning.py FOLDER starting|idle|busy [ADDRESS]      with an address: the agent is started through ssh
"""

import signal
import sys
import time
from pathlib import Path

from agents import agent, kind, ready, wait_for

from bptcnn.networks import lenet5
from bptcnn.outer import Submitted

address = sys.argv[3] if len(sys.argv) > 3 else None
with agent(Path(sys.argv[1]), network=lenet5(), samples=256, batch_size=64, address=address) as bench:
    if sys.argv[2] == "starting":
        while "bptcnn.nodes.agent" not in Path(f"/proc/{bench.node.pid}/cmdline").read_text().split("\0")[:4]:
            time.sleep(0.0001)  # it is tied when it runs the agent's command
    else:
        ready(bench.node)
    if sys.argv[2] == "busy":
        bench.node.send(bench.work(count=40_000, steps=2))
        wait_for(bench.node, kind(Submitted))
    print(bench.node.pid, flush=True)
    while True:
        signal.pause()
