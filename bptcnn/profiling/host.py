"""This machine: what the system tells about it, and what its cores and its memory reach when measured."""

import os
import platform
from pathlib import Path

import llvmlite.binding as llvm
import psutil

from bptcnn.files import kernel_text
from bptcnn.kernels.unit import UNIT
from bptcnn.profiling.bandwidth import measure_bandwidth
from bptcnn.profiling.cores import count_cores
from bptcnn.profiling.peak import measure_peak
from bptcnn.profiling.records import Host

_SYSTEM = Path("/sys/devices/system/cpu")
_LEAST_ARRAYS = 96 << 20  # bytes; more than the caches of a CPU that does not tell their sizes
_MOST_ARRAYS = 1 << 30  # bytes; touching them first takes under a second
_CACHES_OVER = 4  # arrays are so many times the last-level caches, as STREAM asks


def measure_host(name: str | None = None) -> Host:
    """Measure this machine in less than 3 s, best when nothing else runs. `name`: its host name unless given."""
    cores = count_cores()
    caches = cache_sizes()
    memory = psutil.virtual_memory()
    arrays = min(max(_LEAST_ARRAYS, _CACHES_OVER * last_level_bytes()), _MOST_ARRAYS, memory.available // 4)
    peak_of_one = measure_peak(1)
    peak_of_all = measure_peak(cores.usable)
    bandwidth_of_one = measure_bandwidth(1, arrays)
    # short rounds fit into a quota's period and would not feel it
    allowed = cores.usable if cores.quota is None else min(cores.quota, cores.usable)
    return Host(
        name=name or platform.node() or "unknown",
        cpu=cpu_name(),
        microarchitecture=microarchitecture(),
        architecture=platform.machine(),
        vector_unit=UNIT.name,
        cores=cores.usable,
        affinity_cores=cores.affinity,
        quota_cores=cores.quota or 0.0,
        logical_cores=cores.logical,
        frequency_ghz=clock_ghz(),
        peak_gflops_per_core=max(peak_of_one, peak_of_all / cores.usable),
        peak_gflops=min(peak_of_all, peak_of_one * allowed) if cores.quota else peak_of_all,
        bandwidth_gbs_per_core=bandwidth_of_one,
        bandwidth_gbs=max(bandwidth_of_one, measure_bandwidth(cores.usable, arrays)),
        memory_gb=memory.total / 1e9,
        memory_available_gb=memory.available / 1e9,
        l1_kb=caches.get(1, 0) / 1024,
        l2_kb=caches.get(2, 0) / 1024,
        l3_kb=caches.get(3, 0) / 1024,
    )


def cpu_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return the name that the CPU gives itself, or LLVM's where it gives none, as many of ARM's do."""
    return _from_cpuinfo(cpuinfo, "model name") or microarchitecture()


def microarchitecture() -> str:
    """Return LLVM's name for this CPU, such as "znver4"."""
    return str(llvm.get_host_cpu_name()) or "unknown"


def clock_ghz(system: Path = _SYSTEM, cpuinfo: Path = Path("/proc/cpuinfo")) -> float:
    """Return the first CPU's highest clock, else its base clock, else what it says to run at; 0 where it says nothing.

    Virtual machines tell no highest clock: theirs is the nominal one.
    """
    for name in ("cpuinfo_max_freq", "base_frequency"):
        try:
            kilohertz = float(kernel_text(system / "cpu0/cpufreq" / name))
        except (OSError, ValueError):
            continue
        if kilohertz > 0:
            return kilohertz / 1e6
    try:
        return max(0.0, float(_from_cpuinfo(cpuinfo, "cpu MHz") or 0) / 1000)
    except ValueError:
        return 0.0


def _from_cpuinfo(cpuinfo: Path, key: str) -> str:
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() == key and value.strip():
            return value.strip()
    return ""


def cache_sizes(system: Path = _SYSTEM, cpu: int = 0) -> dict[int, int]:
    """Return bytes of a CPU's data caches by level; levels that the system does not tell are left out."""
    return {level: size for level, (size, _) in _caches(system, cpu).items()}


def last_level_bytes(system: Path = _SYSTEM) -> int:
    """Return the bytes of all last-level caches of the cores that this process may use together."""
    found = {}
    for cpu in sorted(os.sched_getaffinity(0)):
        caches = _caches(system, cpu)
        if caches:
            level = max(caches)
            size, shared_by = caches[level]
            found[level, shared_by or str(cpu)] = size
    return sum(found.values())


def _caches(system: Path, cpu: int) -> dict[int, tuple[int, str]]:
    """Return {level: (bytes, CPUs that share it)} of a CPU's data and unified caches."""
    found = {}
    for folder in sorted((system / f"cpu{cpu}" / "cache").glob("index*")):
        try:
            kind = kernel_text(folder / "type").strip()
            level = int(kernel_text(folder / "level"))
            size = _bytes(kernel_text(folder / "size").strip())
        except (OSError, ValueError):
            continue
        if kind in ("Data", "Unified"):
            shared = folder / "shared_cpu_list"
            found[level] = size, kernel_text(shared).strip() if shared.exists() else ""
    return found


def _bytes(text: str) -> int:
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    return int(text[:-1]) * units[text[-1]] if text[-1:] in units else int(text)
