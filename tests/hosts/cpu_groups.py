"""Control groups with a CPU quota, of version 1 or 2."""

import os
import time
from collections.abc import Sequence
from pathlib import Path

MOUNTS = Path("/sys/fs/cgroup")
PERIOD_MICROSECONDS = 100_000  # the usual one; with shorter ones more of a quota is stranded on idle cores
WEIGHT_V2 = 10_000  # the most: machines are alike, what runs outside of them has what they leave
WEIGHT_V1 = 262_144
EMPTYING_SECONDS = 20.0
JOIN = 'echo $$ > "$0" && exec "$@"'


def mounted(mounts: Path = MOUNTS) -> Path | None:
    """Return where groups with a quota can be made, or None."""
    if (mounts / "cpu").is_dir():
        return mounts / "cpu"
    controllers = mounts / "cgroup.controllers"
    return mounts if controllers.exists() and "cpu" in controllers.read_text().split() else None


def group_names() -> list[str]:
    """Return the names of all groups directly below the mount."""
    root = mounted()
    return [] if root is None else [entry.name for entry in root.iterdir() if entry.is_dir()]


class CpuGroup:
    """A control group; `quota` is in cores, None for no limit."""

    def __init__(self, name: str, mounts: Path = MOUNTS) -> None:
        root = mounted(mounts)
        if root is None:
            raise RuntimeError(f"no control groups with a CPU quota at {mounts}")
        self._root = root
        self.path = root / name

    @property
    def procs(self) -> Path:
        """The file into which a process writes itself."""
        return self.path / "cgroup.procs"

    def create(self, quota: float | None) -> None:
        """Make the group."""
        second = (self._root / "cgroup.controllers").exists()
        if second:
            (self._root / "cgroup.subtree_control").write_text("+cpu")
        self.path.mkdir()
        if quota is None:
            return
        share = round(quota * PERIOD_MICROSECONDS)
        if second:
            (self.path / "cpu.weight").write_text(str(WEIGHT_V2))
            (self.path / "cpu.max").write_text(f"{share} {PERIOD_MICROSECONDS}")
        else:
            (self.path / "cpu.shares").write_text(str(WEIGHT_V1))
            (self.path / "cpu.cfs_period_us").write_text(str(PERIOD_MICROSECONDS))
            (self.path / "cpu.cfs_quota_us").write_text(str(share))

    def joined(self, argv: Sequence[str]) -> list[str]:
        """Return what runs a program in the group."""
        return ["sh", "-c", JOIN, str(self.procs), *argv]

    def pids(self) -> list[int]:
        """Return the processes in the group."""
        try:
            return [int(line) for line in self.procs.read_text().split()]
        except OSError:  # removed, also while it was read
            return []

    def remove(self) -> None:
        """Remove the group, whose processes have been killed; it may be gone already."""
        deadline = time.monotonic() + EMPTYING_SECONDS
        while self.path.exists():
            try:
                os.rmdir(self.path)
            except FileNotFoundError:
                return
            except OSError:  # the last process is still leaving
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.002)
