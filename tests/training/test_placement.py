"""Which cores the nodes get: nobody's thread has to share one, unless emulated nodes leave room."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from training.runs import check_counts, listed, run

from bptcnn.profiling import own_cores
from bptcnn.training import Observer
from bptcnn.training.placement import fitting_threads, free_cores, place

SPEEDS = st.lists(st.sampled_from([1.0, 0.75, 0.5, 0.25, 0.1]), min_size=1, max_size=6)


@pytest.mark.parametrize(
    ("cores", "threads", "speeds", "expected"),
    [
        (2, 1, [1.0, 1.0], ((0,), (1,))),
        (2, 1, [1.0, 0.5, 0.25, 0.25], ((0,), (1,), (1,), (1,))),
        (4, 1, [1.0, 0.5, 0.25, 0.25], ((0,), (1,), (2,), (3,))),
        (8, 4, [1.0, 0.5, 0.25, 0.25], ((0, 1, 2, 3), (4, 5, 6, 7), (4, 5, 6, 7), (4, 5, 6, 7))),
        (4, 1, [1.0, 1.0], ((0, 2), (1, 3))),
        (6, 2, [0.5, 1.0], ((2, 3), (0, 1, 4, 5))),
        (3, 1, [0.75, 0.75, 0.25, 0.25, 1.0], ((1,), (2,), (1,), (2,), (0,))),
        (2, 1, [1.0, 1.0, 1.0], None),
        (2, 2, [1.0, 0.5], None),
        (1, 1, [0.5, 0.5], ((0,), (0,))),
    ],
)
def test_placements(
    cores: int, threads: int, speeds: list[float], expected: tuple[tuple[int, ...], ...] | None
) -> None:
    assert place(range(cores), threads, speeds) == expected


@pytest.mark.parametrize(
    ("cores", "nodes", "speed", "expected"),
    [
        (4, [], 1.0, (0, 1, 2, 3)),
        (4, [((), 1, 1.0)], 1.0, (1, 2, 3)),
        (4, [((0, 2), 1, 1.0), ((1, 3), 1, 1.0)], 1.0, (2, 3)),
        (2, [((), 2, 1.0)], 1.0, ()),
        (2, [((0,), 1, 1.0), ((1,), 1, 0.5)], 0.5, (1,)),
        (2, [((0,), 1, 1.0), ((1,), 1, 0.5)], 0.75, ()),
        (3, [((), 1, 1.0), ((0, 1), 1, 0.5), ((0, 1), 1, 0.5)], 1.0, (2,)),
        (1, [((7,), 1, 1.0)], 1.0, (0,)),
        (2, [((), 5, 1.0)], 0.1, ()),
    ],
)
def test_what_is_free_beside_nodes_that_run(
    cores: int, nodes: list[tuple[tuple[int, ...], int, float]], speed: float, expected: tuple[int, ...]
) -> None:
    assert free_cores(range(cores), nodes, speed) == expected


@given(cores=st.lists(st.integers(0, 999), min_size=1, max_size=12, unique=True), speeds=SPEEDS, data=st.data())
def test_no_core_is_busy_twice(cores: list[int], speeds: list[float], data: st.DataObject) -> None:
    threads = data.draw(st.integers(1, len(cores)))
    found = place(cores, threads, speeds)
    if found is None:
        assert sum(speeds) * threads > len(cores) or len(speeds) > 1, "one node always fits"
        return
    assert {core for own in found for core in own} == set(cores), "a core lies idle"
    load = dict.fromkeys(cores, 0.0)
    for own, speed in zip(found, speeds, strict=True):
        assert len(own) == len(set(own)) >= threads
        if len(own) == threads:
            for core in own:
                load[core] += speed
    assert max(load.values()) <= 1.0 + 1e-6


@given(cores=st.integers(1, 16), speeds=SPEEDS)
def test_threads_are_as_many_as_fit(cores: int, speeds: list[float]) -> None:
    threads = fitting_threads(cores, speeds)
    assert 1 <= threads <= cores
    if threads > 1:
        assert place(range(cores), threads, speeds) is not None
    for more in range(threads + 1, cores + 1):
        assert place(range(cores), more, speeds) is None


def test_hyperthreads_of_a_core_lie_next_to_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3, 9})
    monkeypatch.setattr("bptcnn.profiling.cores.cpu_quota", lambda: None)
    for core, name in enumerate(("0", "1", "0", "1")):  # 0 and 2 are one core, 1 and 3 the other
        folder = tmp_path / f"cpu{core}/topology"
        folder.mkdir(parents=True)
        (folder / "core_id").write_text(f"{name}\n")
        (folder / "physical_package_id").write_text("0\n")
    assert own_cores(tmp_path) == (0, 2, 9, 1, 3), "what the system says nothing of counts as core 0"


def test_under_a_quota_cores_are_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3})
    monkeypatch.setattr("bptcnn.profiling.cores.cpu_quota", lambda: 2.0)
    assert own_cores() == ()


@pytest.mark.skipif(len(own_cores()) < 2, reason="needs two cores")
def test_agents_keep_to_their_cores(tmp_path: Path) -> None:
    class Looks(Observer):
        def __init__(self) -> None:
            self.found: dict[str, tuple[object, list[set[int]]]] = {}

        def started(self, names: tuple[str, ...], samples: int, epochs: int) -> None:
            for node in listed(tmp_path / "run"):
                tasks = Path(f"/proc/{node['pid']}/task")
                threads = [os.sched_getaffinity(int(task.name)) for task in tasks.iterdir()]
                self.found[node["name"]] = node["cores"], threads

    looks = Looks()
    run(tmp_path / "run", nodes=[1.0, 0.5], epochs=1, observer=looks)
    check_counts(tmp_path / "run", 1000, 1)
    assert set(looks.found) == {"node0", "node1"}
    for cores, threads in looks.found.values():
        assert len(threads) >= 3
        assert all(sorted(own) == cores for own in threads)
    (first, _), (second, _) = looks.found.values()
    assert isinstance(first, list)
    assert isinstance(second, list)
    assert not set(first) & set(second)
