"""The host as measured here, what it reads on made-up systems, and the measuring tools."""

import dataclasses
import math
import threading
from pathlib import Path

import numpy as np
import pytest

from bptcnn.kernels.unit import UNIT
from bptcnn.profiling import Host, measure_host, usable_cores
from bptcnn.profiling.bandwidth import triad
from bptcnn.profiling.host import cache_sizes, clock_ghz, cpu_name, last_level_bytes
from bptcnn.profiling.peak import SUMS, measure_peak, multiply_adds
from bptcnn.profiling.rounds import count_for, together


@pytest.fixture(scope="module")
def host() -> Host:
    return measure_host("here")


def test_what_is_measured_is_plausible(host: Host) -> None:
    assert (host.name, host.vector_unit, host.cores) == ("here", UNIT.name, usable_cores())
    for field in dataclasses.fields(host):
        value = getattr(host, field.name)
        if isinstance(value, str):
            assert value, field.name
        else:
            assert math.isfinite(value), field.name
            assert value >= 0, field.name
    assert host.peak_gflops_per_core > 0
    assert 0 < host.peak_gflops <= host.peak_gflops_per_core * host.cores * 1.0001
    assert 0 < host.bandwidth_gbs_per_core <= host.bandwidth_gbs
    assert 0 < host.memory_available_gb <= host.memory_gb
    assert host.affinity_cores >= host.cores


def test_the_peak_of_some_threads() -> None:
    values = dict.fromkeys((field.name for field in dataclasses.fields(Host)), 1)
    values.update(peak_gflops_per_core=100, peak_gflops=350, cores=4)
    host = Host(**values)  # type: ignore[arg-type]
    assert [host.peak(threads) for threads in (1, 3, 4, 8)] == [100, 300, 350, 350]


def test_the_peak_loop_computes() -> None:
    """Sums start at b + n; fused: each iteration adds a * b to each; else each sum s becomes s * a + b."""
    iterations, a, b = 3, 0.5, 2.0
    sums = np.arange(SUMS) + b
    for _ in range(iterations):
        sums = sums + a * b if UNIT.fused else sums * a + b
    assert multiply_adds(iterations, a, b) == pytest.approx(sums.sum())


def test_several_threads_have_a_peak() -> None:
    assert 0 < measure_peak(2) < math.inf


def test_the_triad_computes() -> None:
    a, b, c = np.zeros(37, np.float32), np.arange(37, dtype=np.float32), np.full(37, 2, np.float32)
    triad(a, b, c, np.float32(3))
    assert np.array_equal(a, b + 6)


def test_rounds_run_everything_at_once() -> None:
    barrier = threading.Barrier(3)
    rounds = together([lambda: barrier.wait(timeout=60)] * 3, 4)  # would time out one after the other
    assert len(rounds) == 4
    assert all(turn.wall > 0 and len(turn.cpu) == 3 and min(turn.cpu) > 0 for turn in rounds)


def test_a_failure_in_a_round_is_raised() -> None:
    def fail() -> None:
        raise MemoryError("arrays")

    with pytest.raises(MemoryError, match="arrays"):
        together([lambda: None, fail], 3)


def test_the_count_grows_until_it_takes_long_enough() -> None:
    counts = []

    def run(count: int) -> None:
        counts.append(count)
        sum(range(count))

    assert count_for(run, 10, 2_000_000) >= counts[-1] // 20
    assert counts == [10 * 4**n for n in range(len(counts))]


def cache(folder: Path, cpu: int, index: int, **values: str) -> None:
    place = folder / f"cpu{cpu}" / "cache" / f"index{index}"
    place.mkdir(parents=True)
    for name, value in values.items():
        (place / name).write_text(value + "\n")


def test_caches(tmp_path: Path) -> None:
    cache(tmp_path, 0, 0, level="1", type="Data", size="48K", shared_cpu_list="0")
    cache(tmp_path, 0, 1, level="1", type="Instruction", size="32K", shared_cpu_list="0")
    cache(tmp_path, 0, 2, level="2", type="Unified", size="1M", shared_cpu_list="0")
    cache(tmp_path, 0, 3, level="3", type="Unified", size="many")
    assert cache_sizes(tmp_path) == {1: 48 << 10, 2: 1 << 20}


def test_shared_last_level_caches_count_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2, 3})
    for cpu in range(4):
        cache(tmp_path, cpu, 0, level="2", type="Unified", size="1M", shared_cpu_list=str(cpu))
        cache(
            tmp_path, cpu, 1, level="3", type="Unified", size="8M", shared_cpu_list=f"{cpu // 2 * 2}-{cpu // 2 * 2 + 1}"
        )
    assert last_level_bytes(tmp_path) == 16 << 20


def test_no_caches(tmp_path: Path) -> None:
    assert cache_sizes(tmp_path) == {}
    assert last_level_bytes(tmp_path) == 0


def test_the_clock(tmp_path: Path) -> None:
    info = tmp_path / "cpuinfo"
    assert clock_ghz(tmp_path, info) == 0.0
    info.write_text("processor\t: 0\nmodel name\t: A CPU: fast\ncpu MHz\t\t: 2400.5\n")
    assert clock_ghz(tmp_path, info) == pytest.approx(2.4005)
    (tmp_path / "cpu0/cpufreq").mkdir(parents=True)
    (tmp_path / "cpu0/cpufreq/base_frequency").write_text("2100000\n")
    assert clock_ghz(tmp_path, info) == 2.1
    (tmp_path / "cpu0/cpufreq/cpuinfo_max_freq").write_text("3900000\n")
    assert clock_ghz(tmp_path, info) == 3.9


def test_the_name(tmp_path: Path) -> None:
    info = tmp_path / "cpuinfo"
    assert cpu_name(info)
    info.write_text("processor\t: 0\nmodel name\t: A CPU: fast\n")
    assert cpu_name(info) == "A CPU: fast"
