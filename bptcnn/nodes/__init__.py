"""Where a subnetwork trains: the agent (`python -m bptcnn.nodes.agent`), its loop, and how the driver reaches it.

Imports profiling, outer, data, memory, inner, networks and kernels. Never knows policies: it does what messages say.
"""

from bptcnn.nodes.configuration import AgentConfiguration, SharedArray
from bptcnn.nodes.local import LocalNode, NodeGone

__all__ = ["AgentConfiguration", "LocalNode", "NodeGone", "SharedArray"]
