"""Profiles for the tests, and strategies that draw any valid one."""

from hypothesis import strategies as st

from bptcnn.profiling.records import Host, LayerProfile, NetworkProfile, Profile

positive = st.floats(1e-6, 1e12).map(lambda value: float(f"{value:.6g}"))
at_least_zero = st.just(0.0) | positive
shares = st.floats(0, 1).map(lambda value: float(f"{value:.6g}"))
texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
counts = st.integers(1, 2**53)

layers = st.builds(LayerProfile, texts, *[at_least_zero] * 6)
networks = st.builds(
    NetworkProfile, texts, st.tuples(counts, counts, counts), counts, counts, positive, positive, shares, at_least_zero,
    st.lists(layers, max_size=3).map(tuple),
)  # fmt: skip
hosts = st.builds(
    Host, *[texts] * 5, counts, counts, at_least_zero, counts, at_least_zero, *[positive] * 6, *[at_least_zero] * 3
)
profiles = st.builds(Profile, hosts, st.lists(networks, max_size=3).map(tuple))


def host(**changes: object) -> Host:
    values: dict[str, object] = {
        "name": "tower", "cpu": "Some CPU", "microarchitecture": "znver2", "architecture": "x86_64",
        "vector_unit": "avx2", "cores": 4, "affinity_cores": 8, "quota_cores": 3.5, "logical_cores": 16,
        "frequency_ghz": 3.6, "peak_gflops_per_core": 100.0, "peak_gflops": 350.0, "bandwidth_gbs_per_core": 12.5,
        "bandwidth_gbs": 30.0, "memory_gb": 64.0, "memory_available_gb": 40.0, "l1_kb": 32.0, "l2_kb": 512.0,
        "l3_kb": 0.0,
    }  # fmt: skip
    return Host(**{**values, **changes})  # type: ignore[arg-type]


def network(**changes: object) -> NetworkProfile:
    values: dict[str, object] = {
        "name": "cnn2", "input_shape": (28, 28, 1), "batch_size": 64, "threads": 2, "images_per_second": 8000.0,
        "peak_share": 0.5, "idle_share": 0.1, "other_ms": 0.2,
        "layer": (LayerProfile("conv1", 1.0, 2.0, 30.0, 30.0, 0.3, 0.3), LayerProfile("pool1", 1.0, *[0.0] * 5)),
    }  # fmt: skip
    return NetworkProfile(**{**values, **changes})  # type: ignore[arg-type]


def profile() -> Profile:
    return Profile(host(), (network(), network(name="lenet5", threads=1)))
