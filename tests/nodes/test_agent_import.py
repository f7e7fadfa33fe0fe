"""Importing the agent has no side effects that the network or other processes could see."""

import subprocess
import sys

PROGRAM = """
import os, sys
seen = []
sys.addaudithook(lambda event, args: seen.append(event) if event.startswith(("socket.", "subprocess.")) else None)
before = set(os.listdir("/proc/self/fd"))
import bptcnn.nodes.agent
sockets = [os.readlink(f"/proc/self/fd/{d}") for d in set(os.listdir("/proc/self/fd")) - before
           if os.path.exists(f"/proc/self/fd/{d}")]
# llvmlite or numba may ask for the host name or the CPU; no socket is made
assert not [event for event in seen if event in ("socket.__new__", "socket.bind", "socket.connect")], seen
assert not [target for target in sockets if target.startswith("socket:")], sockets
import threading
assert threading.active_count() == 1, threading.enumerate()
"""


def test_importing_the_agent_opens_no_sockets_and_starts_no_threads() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
