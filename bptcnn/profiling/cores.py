"""How many cores this process may use: the smaller of its affinity and its control groups' CPU quota.

The quota is looked up for control groups of version 1 and 2, in the process's own group and in all above it.
"""

import math
import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from bptcnn.files import kernel_text


@dataclass(frozen=True)
class Cores:
    """What the system says: cores of the affinity mask, CPU-seconds per second of the quota, cores of the machine."""

    affinity: int
    quota: float | None
    logical: int

    @property
    def usable(self) -> int:
        """At least 1. A fraction of a core in the quota counts as one: stealing threads use up what is there."""
        return self.affinity if self.quota is None else max(1, min(self.affinity, math.ceil(self.quota)))


def count_cores() -> Cores:
    """Return the cores of this process; takes less than a millisecond."""
    affinity = len(os.sched_getaffinity(0))
    return Cores(affinity, cpu_quota(), os.cpu_count() or affinity)


def usable_cores() -> int:
    """Return how many threads this process can keep running: at least 1."""
    return count_cores().usable


def own_cores(topology: Path = Path("/sys/devices/system/cpu")) -> tuple[int, ...]:
    """Return the numbers of the cores in this process's affinity, hyperthreads of one core next to each other.

    Empty where a quota allows less than these: then it is not known which ones others leave free.
    """
    found = count_cores()
    if found.usable < found.affinity:
        return ()
    return tuple(sorted(os.sched_getaffinity(0), key=lambda core: (*_location(topology / f"cpu{core}/topology"), core)))


def _location(folder: Path) -> tuple[int, int]:
    """Return the package and the core of a hyperthread; 0 where the system does not say."""
    try:
        return int(kernel_text(folder / "physical_package_id")), int(kernel_text(folder / "core_id"))
    except (OSError, ValueError):
        return 0, 0


def cpu_quota(root: Path = Path("/")) -> float | None:
    """Return the CPU quota in cores, or None where there is no limit or no readable control group.

    `root` is where `proc` and the mounted control groups are found.
    """
    try:
        groups = kernel_text(root / "proc/self/cgroup").splitlines()
        mounts = kernel_text(root / "proc/self/mountinfo").splitlines()
    except OSError:
        return None
    paths = dict(_controllers(groups))
    quotas = []
    for line in mounts:
        left, _, right = line.partition(" - ")
        fields, kind = left.split(), right.split()
        if len(fields) < 5 or len(kind) < 3:
            continue
        controllers = {""} if kind[0] == "cgroup2" else set(kind[2].split(",")) if kind[0] == "cgroup" else set()
        for controller in controllers & {"", "cpu"} & paths.keys():
            mount = root / _unescaped(fields[4]).lstrip("/")
            quotas += _quotas(mount, _below(paths[controller], _unescaped(fields[3])))
    return min(quotas, default=None)


def _controllers(groups: list[str]) -> list[tuple[str, str]]:
    """Return (controller, path) of each control group of the process; version 2 has the controller ''."""
    found = []
    for line in groups:
        parts = line.split(":", 2)
        if len(parts) == 3:
            found += [(controller, parts[2]) for controller in parts[1].split(",")]
    return found


def _below(path: str, mounted: str) -> PurePosixPath:
    """Return a group's path below a mount that shows the hierarchy from `mounted` on."""
    try:
        return PurePosixPath(path).relative_to(mounted)
    except ValueError:  # a container that sees its own group as the root
        return PurePosixPath()


def _quotas(mount: Path, group: PurePosixPath) -> list[float]:
    found = [_quota(mount / place) for place in (group, *group.parents)]
    return [quota for quota in found if quota is not None]


def _quota(folder: Path) -> float | None:
    """Return the quota that one group sets itself."""
    try:
        if (folder / "cpu.max").exists():
            allowed, period = kernel_text(folder / "cpu.max").split()
        else:
            allowed = kernel_text(folder / "cpu.cfs_quota_us")
            period = kernel_text(folder / "cpu.cfs_period_us")
        quota = int(allowed) / int(period)
    except (OSError, ValueError, ZeroDivisionError):  # no file, "max", or something else
        return None
    return quota if quota > 0 else None  # -1: no limit


def _unescaped(text: str) -> str:
    """mountinfo writes blanks in octal."""
    return text.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")
