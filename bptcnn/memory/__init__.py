"""Memory that processes share: its owner class, the lock-free weight buffer, and the clock of a run.

Imports kernels and errors only. Never knows who trains, what the weights mean or which rule weighs a submission.
"""

from bptcnn.memory.merging import NOWHERE
from bptcnn.memory.run_clock import RunClock, RunTime
from bptcnn.memory.shared import SharedMemory
from bptcnn.memory.weights import Submission, Table, WeightBuffer, Writer

__all__ = ["NOWHERE", "RunClock", "RunTime", "SharedMemory", "Submission", "Table", "WeightBuffer", "Writer"]
