"""Where a subnetwork trains: the agent (`python -m bptcnn.nodes.agent`), its loop, and how the driver reaches it.

Imports profiling, outer, data, memory, inner, networks and kernels. Never knows policies: it does what messages say.
Names load when they are asked for, so that an agent can connect before it compiles.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bptcnn.nodes.bootstrap import needs_same_python
    from bptcnn.nodes.configuration import AgentConfiguration, HostConfiguration, SampleSource
    from bptcnn.nodes.findings import Question
    from bptcnn.nodes.hosts import Host, checked_name, host_from, host_keys, read_hosts
    from bptcnn.nodes.local import LocalNode
    from bptcnn.nodes.local_configuration import LocalConfiguration, SharedArray
    from bptcnn.nodes.node import Node, NodeGone
    from bptcnn.nodes.preflight import HostReport
    from bptcnn.nodes.remote import RemoteNode
    from bptcnn.nodes.wire import Wire, choose_wire

_HOMES = {
    "bootstrap": ("needs_same_python",),
    "configuration": ("AgentConfiguration", "HostConfiguration", "SampleSource"),
    "findings": ("Question",),
    "hosts": ("Host", "checked_name", "host_from", "host_keys", "read_hosts"),
    "local": ("LocalNode",),
    "local_configuration": ("LocalConfiguration", "SharedArray"),
    "node": ("Node", "NodeGone"),
    "preflight": ("HostReport",),
    "remote": ("RemoteNode",),
    "wire": ("Wire", "choose_wire"),
}

__all__ = [
    "AgentConfiguration",
    "Host",
    "HostConfiguration",
    "HostReport",
    "LocalConfiguration",
    "LocalNode",
    "Node",
    "NodeGone",
    "Question",
    "RemoteNode",
    "SampleSource",
    "SharedArray",
    "Wire",
    "checked_name",
    "choose_wire",
    "host_from",
    "host_keys",
    "needs_same_python",
    "read_hosts",
]


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
