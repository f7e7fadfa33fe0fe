"""Memory that processes share: its owner class and the lock-free weight buffer.

Imports kernels and errors only. Never knows who trains, what the weights mean or which rule weighs a submission.
"""

from bptcnn.memory.merging import NOWHERE
from bptcnn.memory.shared import SharedMemory
from bptcnn.memory.weights import Submission, Table, WeightBuffer, Writer

__all__ = ["NOWHERE", "SharedMemory", "Submission", "Table", "WeightBuffer", "Writer"]
