"""Benchmarks: what is asked of the sides, what becomes of their answers, and what of their failures."""

import json
import math
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from profile_examples import host
from stand_in_peer import StandIn, python_without_torch

from bptcnn import networks
from bptcnn.errors import UserError
from bptcnn.inner.tuning import BY_RULE
from bptcnn.networks import Conv2D, Dense, Flatten, Network
from bptcnn.profiling.benchmarking import Case, Plan, TorchPeer, default_case, run_benchmark, torch_peer
from bptcnn.profiling.benchmarking.flattening import flattened
from bptcnn.profiling.benchmarking.processes import ask_own_side

SMALL = Case(Network((8, 8, 1), [Conv2D(4, 3, activation="relu"), Flatten(), Dense(10)], "small"), 8)
QUICK = Plan(threads=1, rounds=3, seconds=0.01)
RULES = asdict(BY_RULE)
HOST = host(peak_gflops_per_core=1e3, peak_gflops=4e3)


def test_the_usual_images() -> None:
    for name, shape, batch, classes in (
        ("lenet5", (28, 28, 1), 64, 10),
        ("cnn2", (28, 28, 1), 64, 10),
        ("vgg11", (32, 32, 3), 64, 10),
        ("mobilenet", (32, 32, 3), 64, 10),
        ("alexnet", (224, 224, 3), 16, 1000),
        ("resnet50", (224, 224, 3), 16, 1000),
    ):
        case = default_case(name)
        assert (case.network.input_shape, case.batch_size, case.network.classes) == (shape, batch, classes)
    assert default_case("resnet50", (32, 32, 3)).network.input_shape == (32, 32, 3)
    assert default_case("resnet50", batch_size=2).batch_size == 2


def test_our_side_alone() -> None:
    said: list[str] = []
    found = run_benchmark([SMALL], replace(QUICK, simulate=(1, 4)), HOST, said.append)
    assert said == [
        f"small: {what}" for what in ("layers and tasks", *(f"round {n} of 3" for n in (1, 2, 3)), "memory")
    ]
    assert (found.peer, found.notes, found.rounds, found.seconds) == ("", (), 3, 0.01)
    (network,) = found.network
    assert (network.name, network.input_shape, network.batch_size, network.threads) == ("small", (8, 8, 1), 8, 1)
    assert network.parameters == SMALL.network.size
    flops = 2 * 8 * 8 * 9 * 4 * 2 + 2 * 8 * 8 * 4 * 10 * 3
    assert network.gflop_per_image == pytest.approx(flops / 1e9)
    own = network.own
    assert len(own.rounds) == 3
    assert own.images_per_second == sorted(own.rounds)[1]
    assert own.gflops == pytest.approx(own.images_per_second * flops / 1e9)
    assert own.peak_share == pytest.approx(own.gflops / 1e3)
    assert 10 < own.memory.libraries_mb < own.memory.peak_mb < 2000
    assert 0 <= network.idle_share < 1
    assert (network.steals_per_step, network.scaling) == (0, None)
    assert [layer.name for layer in network.layer] == ["conv1", "dense1"]
    assert network.tasks > 10
    assert 0 < network.task_overhead_ns < 1e6
    one, four = network.simulated
    assert (one.threads, one.speed_up, one.steals, four.threads) == (1, 1, 0, 4)
    assert 1 < four.speed_up <= min(4, network.most_speed_up) * 1.01
    assert four.milliseconds < one.milliseconds
    assert (network.peer, network.peer_variants, network.ratio) == (None, {}, None)


def test_all_threads_beside_one_and_beside_copies() -> None:
    said: list[str] = []
    found = run_benchmark([SMALL], replace(QUICK, threads=2, rounds=1, scaling=True), HOST, said.append)
    assert said == [f"small: {what}" for what in ("layers and tasks", "2 threads and one", "round 1 of 1", "memory")]
    scaling = found.network[0].scaling
    assert scaling is not None
    assert scaling.threads == 2
    assert scaling.speed_up == pytest.approx(scaling.all_images_per_second / scaling.one_images_per_second)
    assert scaling.ceiling == pytest.approx(scaling.copies_images_per_second / scaling.one_images_per_second)
    assert 0.01 < scaling.speed_up < 100


def test_the_tuning_serves_all_measurements() -> None:
    said: list[str] = []
    found = run_benchmark([SMALL], replace(QUICK, rounds=1, autotune=True), HOST, said.append)
    assert said[0] == "small: tuning, where that was not done before"
    assert found.network[0].own.images_per_second > 0
    answer = ask_own_side(SMALL, 1, "tuning")
    assert set(answer["tuning"]) == {"ranges", "choices"}
    ranges = {**answer["tuning"], "ranges": 1}
    few, many = (
        ask_own_side(SMALL, 1, "detail", tuning=tuning, peak=1e3, seconds=0.01, simulate=[])["tasks"]
        for tuning in (ranges, RULES)
    )
    assert few < many


def test_sides_take_turns_and_the_fastest_form_counts(tmp_path: Path) -> None:
    peer = StandIn(tmp_path)
    found = run_benchmark([SMALL], replace(QUICK, rounds=2, peer=TorchPeer(peer.python, compile=True)), HOST)
    assert found.peer == "PyTorch 9.9"
    (network,) = found.network
    assert network.peer is not None
    assert network.peer.variant == "compiled, channels last"
    assert network.peer.images_per_second == 60
    assert network.ratio == pytest.approx(network.own.images_per_second / 60)
    assert network.peer.memory.peak_mb == 300
    assert network.peer_variants == {
        "eager, channels last": (30, 30),
        "eager, contiguous": (40, 40),
        "compiled, channels last": (60, 60),
    }
    assert found.notes == ("small: PyTorch, compiled, contiguous, left out: RuntimeError: no compiler",)
    asked = [(r["measure"], r.get("channels_last"), r.get("compile")) for r in peer.requests]
    forms = [(True, False), (False, False), (True, True), (False, True)]
    assert asked == [
        ("version", None, None),
        *(("speed", *form) for form in forms),
        *(("speed", *form) for form in forms[:3]),  # what failed is not tried again
        ("memory", False, False),  # the fastest eager form
    ]
    speed = peer.requests[1]
    assert speed["network"] == flattened(SMALL.network)
    assert (speed["batch_size"], speed["threads"], speed["seconds"]) == (8, 1, 0.01)


def test_without_compilation_it_is_not_tried(tmp_path: Path) -> None:
    peer = StandIn(tmp_path)
    found = run_benchmark([SMALL], replace(QUICK, rounds=1, peer=TorchPeer(peer.python)), HOST)
    assert list(found.network[0].peer_variants) == ["eager, channels last", "eager, contiguous"]
    assert not any(request.get("compile") for request in peer.requests)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("killed", "killed by signal 9"),
        ("silent", "last line"),
        ("no JSON", "said nothing"),
        ({"failed": "RuntimeError: no memory"}, "no memory"),
    ],
    ids=str,
)
def test_a_peer_that_cannot_train_is_refused_in_one_line(answer: object, said: str, tmp_path: Path) -> None:
    peer = StandIn(tmp_path, {"speed (False, False)": answer})
    with pytest.raises(UserError, match=r"PyTorch cannot train small \(eager, contiguous\): .*" + said) as error:
        run_benchmark([SMALL], replace(QUICK, rounds=1, peer=TorchPeer(peer.python)), HOST)
    assert "\n" not in str(error.value)


def test_a_python_without_the_peer_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        UserError, match=r"no PyTorch in /missing/python \(No such file or directory\): .*--peer-python"
    ):
        TorchPeer("/missing/python").version()
    with pytest.raises(UserError, match=r"no PyTorch in .*\(Permission denied\)"):
        TorchPeer(str(tmp_path)).version()
    for name, value in python_without_torch(tmp_path).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=r"no PyTorch in .*\(ModuleNotFoundError: No module named 'torch'\)"):
        TorchPeer(sys.executable).version()


def test_the_peers_script_answers_whatever_it_gets(tmp_path: Path) -> None:
    def ask(text: str) -> dict[str, str]:
        run = subprocess.run(
            [sys.executable, torch_peer.__file__],
            input=text,
            env={**os.environ, **python_without_torch(tmp_path)},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (run.returncode, run.stderr) == (0, "")
        found: dict[str, str] = json.loads(run.stdout)
        return found

    assert ask("nonsense")["failed"].startswith("JSONDecodeError: ")
    request = {"measure": "speed", "network": flattened(SMALL.network), "parent": os.getpid()}
    assert ask(json.dumps(request)) == {"failed": "ModuleNotFoundError: No module named 'torch'"}


def test_a_measurement_that_takes_too_long_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bptcnn.profiling.benchmarking import processes

    monkeypatch.setattr(processes, "_LONGEST_SECONDS", 0.2)
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o755)
    with pytest.raises(UserError, match="no answer within 0 s"):
        TorchPeer(str(program)).version()


def test_what_our_side_refuses_is_the_users_to_mend() -> None:
    huge = Case(networks.vgg11(), 65_536)
    with pytest.raises(UserError, match="too little memory"):
        ask_own_side(huge, 1, "memory", tuning=RULES)


def test_our_side_says_what_broke() -> None:
    with pytest.raises(RuntimeError, match=r"measuring small failed: .*KeyError"):
        ask_own_side(SMALL, 1, "speed", tuning=RULES)  # without seconds


def test_memory_grows_with_the_batch() -> None:
    case = Case(networks.cnn2(), 8)
    small, large = (
        ask_own_side(replace(case, batch_size=n), 1, "memory", tuning=RULES)["peak_mb"] for n in (256, 1024)
    )
    gradient = 768 * (28 * 28 * 32) * 4 / 1e6  # of the first convolution
    assert large - small > 0.9 * gradient  # a peak scatters by a megabyte
    assert math.isfinite(large)
