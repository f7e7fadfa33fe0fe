"""Counting cores, on made-up control groups of both versions."""

import os
from pathlib import Path

import pytest

from bptcnn.profiling import Cores, count_cores, usable_cores
from bptcnn.profiling.cores import cpu_quota

V1 = "31 30 0:28 {root} {place} rw,relatime - cgroup cgroup rw,cpu,cpuacct\n"
V2 = "32 30 0:29 {root} {place} rw - cgroup2 cgroup2 rw,nsdelegate\n"


def system(folder: Path, groups: str, mounts: str, files: dict[str, str]) -> Path:
    for name, content in {"proc/self/cgroup": groups, "proc/self/mountinfo": mounts, **files}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder


def v2(folder: Path, group: str, root: str = "/", **limits: str) -> float | None:
    """Limits by group below the mount, "_" for "/"."""
    files = {f"sys/fs/cgroup/{name.replace('_', '/')}/cpu.max": text for name, text in limits.items()}
    return cpu_quota(system(folder, f"0::{group}\n", V2.format(root=root, place="/sys/fs/cgroup"), files))


def test_version_2(tmp_path: Path) -> None:
    assert v2(tmp_path, "/a/b", a_b="150000 100000\n") == 1.5


def test_a_group_above_may_limit_more(tmp_path: Path) -> None:
    assert v2(tmp_path, "/a/b", a_b="max 100000\n", a="50000 100000\n") == 0.5
    assert v2(tmp_path, "/a/b", a_b="20000 100000\n") == 0.2


def test_a_group_beside_does_not(tmp_path: Path) -> None:
    assert v2(tmp_path, "/a/b", a_c="20000 100000\n") is None


def test_a_container_sees_its_group_as_the_root(tmp_path: Path) -> None:
    assert v2(tmp_path, "/docker/x", root="/docker/x", _="200000 100000\n") == 2.0
    assert v2(tmp_path, "/../..", root="/", _="300000 100000\n") == 3.0


@pytest.mark.parametrize(("quota", "found"), [("250000", 2.5), ("-1", None), ("what", None), ("0", None)])
def test_version_1(tmp_path: Path, quota: str, found: float | None) -> None:
    files = {"cg/job/cpu.cfs_quota_us": quota, "cg/job/cpu.cfs_period_us": "100000\n"}
    root = system(tmp_path, "4:memory:/other\n3:cpu,cpuacct:/job\n0::/\n", V1.format(root="/", place="/cg"), files)
    assert cpu_quota(root) == found


def test_both_versions_at_once(tmp_path: Path) -> None:
    files = {"c1/cpu.cfs_quota_us": "400000", "c1/cpu.cfs_period_us": "100000", "c 2/cpu.max": "300000 100000"}
    mounts = V1.format(root="/", place="/c1") + V2.format(root="/", place="/c\\0402")
    assert cpu_quota(system(tmp_path, "3:cpu:/\n0::/\n", mounts, files)) == 3.0


def test_no_control_groups(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path) is None
    assert cpu_quota(system(tmp_path, "odd\n\n", "odd\n - \n1 2 3 4 5 - cgroup2\n", {})) is None


@pytest.mark.parametrize(
    ("affinity", "quota", "usable"), [(8, None, 8), (8, 2.0, 2), (8, 2.1, 3), (8, 0.3, 1), (2, 16.0, 2), (1, 0.01, 1)]
)
def test_the_smaller_one_counts(affinity: int, quota: float | None, usable: int) -> None:
    assert Cores(affinity, quota, 16).usable == usable


def test_this_process() -> None:
    cores = count_cores()
    assert 1 <= cores.usable == usable_cores() <= cores.affinity == len(os.sched_getaffinity(0))
    assert cores.logical >= 1


def test_affinity_is_respected() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, before)
