"""What memory can still be had: the tightest of the machine, control groups and the process's own limits."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from bptcnn import available
from bptcnn.available import OutOfMemory, available_bytes, limits, oom_kills, require_available, tightest
from bptcnn.errors import UserError

MB = 1_000_000


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is taken for the mount of control groups; `own` below it for /proc/self/cgroup."""
    monkeypatch.setattr(available, "_CGROUPS", tmp_path)
    monkeypatch.setattr(available, "_OWN_GROUPS", tmp_path / "own")
    return tmp_path


def write(folder: Path, **values: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in values.items():
        (folder / name.replace("_", ".", 1)).write_text(f"{value}\n")


def second(groups: Path, path: str = "/user/job") -> Path:
    (groups / "cgroup.controllers").write_text("memory\n")
    (groups / "own").write_text(f"0::{path}\n")
    return groups / path.lstrip("/")


def test_the_tightest_group_above_counts(groups: Path) -> None:
    job = second(groups)
    write(job, memory_max="max", memory_high="max", memory_current=30 * MB, memory_stat="inactive_file 0")
    stat = f"anon 1\ninactive_file {3 * MB}\nactive_file {2 * MB}\nslab_reclaimable {MB}"
    write(job.parent, memory_max=100 * MB, memory_high="max", memory_current=60 * MB, memory_stat=stat)
    found = tightest()
    assert (found.free, found.limit) == (46 * MB, 100 * MB)
    assert str(job.parent) in found.what
    assert available_bytes() == 46 * MB


def test_where_a_group_is_slowed_down_is_a_limit_as_well(groups: Path) -> None:
    write(second(groups), memory_max=100 * MB, memory_high=50 * MB, memory_current=20 * MB, memory_stat="anon 5")
    assert available_bytes() == 30 * MB


def test_a_limit_of_version_1_may_be_a_hidden_ancestors(groups: Path) -> None:
    (groups / "own").write_text("3:cpuset:/\n5:memory:/docker/abc\n0::/\n")
    stat = f"hierarchical_memory_limit {80 * MB}\ntotal_inactive_file {5 * MB}\ninactive_file {50 * MB}"
    write(groups / "memory", memory_limit_in_bytes=1 << 62, memory_usage_in_bytes=20 * MB, memory_stat=stat)
    assert available_bytes() == 65 * MB


def test_a_group_outside_of_what_can_be_seen_is_the_mount(groups: Path) -> None:
    second(groups, "/../../elsewhere")
    write(groups, memory_max=70 * MB, memory_current=20 * MB, memory_stat="anon 5")
    assert available_bytes() == 50 * MB


def test_no_limit_is_no_limit(groups: Path) -> None:
    write(second(groups), memory_max="max", memory_current=20 * MB, memory_stat="anon 5")
    assert tightest().what == ""
    (groups / "own").unlink()
    assert tightest().what == ""


def test_what_was_killed_for_want_of_memory_is_counted(groups: Path) -> None:
    write(second(groups), memory_events="oom 3\noom_kill 2")
    assert oom_kills() == 2
    (groups / "own").write_text("5:memory:/job\n")
    write(groups / "memory/job", memory_oom_control="oom_kill_disable 0\noom_kill 7")
    write(groups / "memory", memory_oom_control="oom_kill_disable 0\noom_kill 1")
    assert oom_kills() == 7


def test_the_line_names_the_limit(groups: Path) -> None:
    write(second(groups), memory_max=100 * MB, memory_current=60 * MB, memory_stat="anon 5")
    require_available(40 * MB, "it needs 40 MB", "do")
    with pytest.raises(UserError, match=r"it needs 41 MB, 40 MB are free in the control group /.*100 MB; buy some$"):
        require_available(41 * MB, "it needs 41 MB", "buy some")


@pytest.mark.parametrize(("kind", "name"), [(resource.RLIMIT_AS, "-v"), (resource.RLIMIT_DATA, "-d")])
def test_a_processs_own_limits_count_for_it_and_not_for_all_together(kind: int, name: str) -> None:
    program = (
        "import resource, sys\n"
        "from bptcnn.available import tightest, require_for_each\n"
        "from bptcnn.errors import UserError\n"
        f"resource.setrlimit({kind}, (3_000_000_000, 3_000_000_000))\n"
        "assert 1_000_000_000 < tightest().free < 3_000_000_000, tightest()\n"
        f"assert 'ulimit {name}' in tightest().what\n"
        "assert not tightest(shared=True).what.startswith(' under')\n"
        "require_for_each(1_000_000, 'x', 'y')\n"
        "try:\n    require_for_each(3_000_000_000, 'x', 'y')\nexcept UserError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"under ulimit {name} 2929687" in done.stdout


def test_the_group_whose_limit_was_met_is_named(groups: Path) -> None:
    """By hits of its own limit: that of the job has room."""
    job = second(groups)
    write(job, memory_max=90 * MB, memory_current=10 * MB, memory_stat="anon 5", memory_events="oom 0\noom_kill 1")
    write(job.parent, memory_max=100 * MB, memory_current=99 * MB, memory_stat="anon 5", memory_events="oom 4")
    watch = OutOfMemory()
    assert watch.cause() is None
    write(job, memory_events="oom 0\noom_kill 2")
    write(job.parent, memory_events="oom 5\noom_kill 9")
    assert watch.cause() == f"limit 100 MB of the control group {job.parent}"


def test_where_no_group_met_its_limit_the_machine_did(groups: Path) -> None:
    job = second(groups)
    write(job, memory_max="max", memory_current=10 * MB, memory_stat="anon 5", memory_events="oom 0\noom_kill 1")
    watch = OutOfMemory()
    write(job, memory_events="oom 0\noom_kill 2")
    assert str(watch.cause()).startswith("the machine has ")


def test_all_limits_are_told_the_tightest_first(groups: Path) -> None:
    job = second(groups)
    write(job, memory_max=90 * MB, memory_current=10 * MB, memory_stat="anon 5")
    write(job.parent, memory_max=100 * MB, memory_current=60 * MB, memory_stat="anon 5")
    found = limits()
    assert [headroom.free for headroom in found[:2]] == [40 * MB, 80 * MB]
    assert "" in [headroom.what for headroom in found]
