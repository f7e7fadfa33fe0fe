"""Measuring hosts and networks: what a CPU can do, what a network reaches on it, profile files and timelines.

Imports inner, networks, kernels and errors. Never knows policies: it says how fast something is, not what to do about
it. Names load when they are asked for, so that reading a profile file compiles nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bptcnn.profiling.compiled import CompileCache, compile_cache, vector_units
    from bptcnn.profiling.cores import Cores, count_cores, own_cores, usable_cores
    from bptcnn.profiling.files import read_profile, write_profile
    from bptcnn.profiling.host import measure_host
    from bptcnn.profiling.locate import find_profile, packaged_folder, user_profile_path
    from bptcnn.profiling.network import TracedStep, profile_host, profile_network, trace_step
    from bptcnn.profiling.records import Host, LayerProfile, NetworkProfile, Profile, Trial, TuningRecord
    from bptcnn.profiling.speed import NodeSpeed, comparable_speeds, estimated_speed, node_speed, profiled_speed
    from bptcnn.profiling.trace import write_trace

_HOMES = {
    "compiled": ("CompileCache", "compile_cache", "vector_units"),
    "cores": ("Cores", "count_cores", "own_cores", "usable_cores"),
    "files": ("read_profile", "write_profile"),
    "host": ("measure_host",),
    "locate": ("find_profile", "packaged_folder", "user_profile_path"),
    "network": ("TracedStep", "profile_host", "profile_network", "trace_step"),
    "records": ("Host", "LayerProfile", "NetworkProfile", "Profile", "Trial", "TuningRecord"),
    "speed": ("NodeSpeed", "comparable_speeds", "estimated_speed", "node_speed", "profiled_speed"),
    "trace": ("write_trace",),
}

__all__ = [
    "CompileCache",
    "Cores",
    "Host",
    "LayerProfile",
    "NetworkProfile",
    "NodeSpeed",
    "Profile",
    "TracedStep",
    "Trial",
    "TuningRecord",
    "comparable_speeds",
    "compile_cache",
    "count_cores",
    "estimated_speed",
    "find_profile",
    "measure_host",
    "node_speed",
    "own_cores",
    "packaged_folder",
    "profile_host",
    "profile_network",
    "profiled_speed",
    "read_profile",
    "trace_step",
    "usable_cores",
    "user_profile_path",
    "vector_units",
    "write_profile",
    "write_trace",
]


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
