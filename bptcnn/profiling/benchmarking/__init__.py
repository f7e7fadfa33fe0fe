"""Benchmarks of networks: training steps, each side measured in processes of its own, and PyTorch as a peer.

    running.py ──request, JSON──> own_side.py     this Python: speed, memory, layers, tasks, scaling
               ──request, JSON──> torch_peer.py   any Python with PyTorch: speed, memory

`torch_peer.py` is a script that imports nothing of ours. The asking side computes nothing, so that nothing but the
process being measured is at work.
"""

from bptcnn.profiling.benchmarking.cases import Case, default_case
from bptcnn.profiling.benchmarking.processes import TorchPeer
from bptcnn.profiling.benchmarking.records import Benchmark, Memory, NetworkBenchmark, Scaling, Side, SimulatedStep
from bptcnn.profiling.benchmarking.running import Plan, run_benchmark

__all__ = [
    "Benchmark",
    "Case",
    "Memory",
    "NetworkBenchmark",
    "Plan",
    "Scaling",
    "Side",
    "SimulatedStep",
    "TorchPeer",
    "default_case",
    "run_benchmark",
]
