"""`bptcnn benchmark`."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from programs import COMMAND, TIMEOUT_SECONDS, Ended, bptcnn, environment, refused

from bptcnn.kernels.unit import MATRIX_UNIT

QUICK = ("--rounds", "2", "--seconds", "0.02", "--threads", "1", "--no-autotune")

PEER = f"""#!{sys.executable}
import json, sys
request = json.load(sys.stdin)
slow = {{"images_per_second": 2.0 + request.get("channels_last", False)}}
version, memory = {{"version": "9.9"}}, {{"peak_mb": 300.0, "libraries_mb": 200.0}}
failed = {{"failed": "RuntimeError: no compiler"}}
answers = {{"version": version, "memory": memory, "speed": failed if request.get("compile") else slow}}
print(json.dumps(answers[request["measure"]]))
"""


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Ended, dict[str, Any]]:
    """What the command said of lenet5 and a network of a file, and its file."""
    folder = tmp_path_factory.mktemp("measured")
    (folder / "mine.toml").write_text('layers = [{layer = "Flatten"}, {layer = "Dense", units = 4}]')
    (folder / "peer").write_text(PEER)
    (folder / "peer").chmod(0o755)
    arguments = [
        "lenet5",
        "mine.toml",
        "--batch-size",
        "8",
        *QUICK,
        "--layers",
        "--simulate",
        "--scaling",
        "--output",
        "a.json",
    ]
    peer = ["--peer", "torch", "--peer-python", "./peer"]
    ended = bptcnn("benchmark", *arguments, *peer, folder=folder)
    assert (ended.code, ended.err) == (0, "")
    return ended, json.loads((folder / "a.json").read_text())


def test_what_it_says(measured: tuple[Ended, dict[str, Any]]) -> None:
    ended, _ = measured
    assert "\x1b" not in ended.out
    assert ended.out.endswith("\nwritten to a.json\n")
    lines = [line.split() for line in ended.out.splitlines()]
    assert "mine: round 2 of 2" in ended.out
    assert [
        "network",
        "images",
        "batch",
        "images/s",
        "GFLOP/s",
        "of",
        "peak",
        "idle",
        "steals",
        "memory",
        "MB",
    ] in lines
    assert [line[:3] for line in lines if line[1:2] == ["28x28x1"]] == [["lenet5", "28x28x1", "8"]]
    assert [line[:3] for line in lines if line[1:2] == ["32x32x3"]] == [["mine", "32x32x3", "8"]]
    compared = [line for line in lines if line[-3:] == ["eager,", "channels", "last"]]
    assert [line[:3] for line in compared] == [["lenet5", "3", "300"], ["mine", "3", "300"]]
    assert ["network", "images/s", "images/s", "speed-up", "speed-up"] in lines
    rest = ["32", "threads", "64", "threads", "at", "most"]
    assert ["network", "1", "thread", "8", "threads", "16", "threads", *rest] in lines
    notes = [line for line in ended.out.splitlines() if line.startswith("note: ")]
    assert notes == [
        f"note: {network}: PyTorch, compiled, {form}, left out: RuntimeError: no compiler"
        for network in ("lenet5", "mine")
        for form in ("channels last", "contiguous")
    ]
    for layer in ("conv1", "conv2", "dense3", "other"):
        assert [line for line in lines if line[:1] == [layer]]


def test_what_it_writes(measured: tuple[Ended, dict[str, Any]]) -> None:
    _, found = measured
    assert (found["version"], found["rounds"], found["seconds"], found["peer"]) == (1, 2, 0.02, "PyTorch 9.9")
    assert found["host"]["cores"] >= 1
    lenet5, mine = found["network"]
    assert (lenet5["name"], lenet5["classes"], lenet5["batch_size"], lenet5["threads"]) == ("lenet5", 10, 8, 1)
    assert (mine["name"], mine["input_shape"], mine["parameters"]) == ("mine", [32, 32, 3], (32 * 32 * 3 + 1) * 4)
    assert lenet5["parameters"] == 61_706
    for network in (lenet5, mine):
        own, peer = network["own"], network["peer"]
        assert len(own["rounds"]) == len(peer["rounds"]) == 2
        assert min(own["rounds"]) <= own["images_per_second"] <= max(own["rounds"])
        assert own["gflops"] == pytest.approx(own["images_per_second"] * network["gflop_per_image"])
        assert 0 < own["peak_share"] <= 1.2
        assert 10 < own["memory"]["libraries_mb"] < own["memory"]["peak_mb"] < 5000
        assert network["ratio"] == pytest.approx(own["images_per_second"] / peer["images_per_second"])
        assert network["peer_variants"] == {"eager, channels last": [3, 3], "eager, contiguous": [2, 2]}
        assert 0 <= network["idle_share"] < 1
        assert network["steals_per_step"] == 0
        assert network["scaling"]["threads"] == 1
        assert [step["threads"] for step in network["simulated"]] == [1, 8, 16, 32, 64]
        assert network["simulated"][0]["speed_up"] == 1
        for step in network["simulated"]:
            assert 1 <= step["speed_up"] <= step["threads"]
            assert 0 <= step["idle_share"] < 1
        assert all(layer["forward_ms"] > 0 for layer in network["layer"])
    assert [layer["name"] for layer in lenet5["layer"]] == ["conv1", "conv2", "dense1", "dense2", "dense3"]


def test_without_a_peer_and_without_a_file(tmp_path: Path) -> None:
    ended = bptcnn("benchmark", "mine.py", "--input-shape", "6,5,2", "--batch-size", "4", *QUICK, folder=own(tmp_path))
    assert (ended.code, ended.err) == (0, "")
    assert "\nmine  " in ended.out
    assert "6x5x2" in ended.out
    for absent in ("PyTorch", "simulated", "note", "written"):
        assert absent not in ended.out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.py"]


@pytest.mark.skipif(not MATRIX_UNIT, reason="this CPU multiplies no bfloat16 numbers")
def test_both_sides_train_at_the_precision(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(
        'layers = [{layer = "Conv2D", filters = 16, kernel_size = 3}, '
        '{layer = "Conv2D", filters = 16, kernel_size = 3}, {layer = "Flatten"}, {layer = "Dense", units = 4}]'
    )
    refusing = f'{PEER.partition("version, memory")[0]}assert request.get("precision", "bf16") == "bf16"\n'
    (tmp_path / "peer").write_text(refusing + PEER[PEER.index("version, memory") :])
    (tmp_path / "peer").chmod(0o755)
    arguments = ("mine.toml", "--precision", "bf16", "--input-shape", "6,6,2", "--batch-size", "4", *QUICK)
    peer = ("--peer", "torch", "--peer-python", "./peer")
    ended = bptcnn("benchmark", *arguments, *peer, "--output", "a.json", folder=tmp_path)
    assert (ended.code, ended.err) == (0, "")
    assert ", 1 thread, bf16, peak " in ended.out
    (found,) = json.loads((tmp_path / "a.json").read_text())["network"]
    assert found["precision"] == "bf16"
    assert [layer["name"] for layer in found["layer"]] == ["conv1", "conv2", "dense1"]


def own(folder: Path) -> Path:
    """Write a network in Python."""
    code = "import bptcnn as bpt\ndef network(shape, classes):\n    "
    code += "return bpt.Network(shape, [bpt.Conv2D(3, 3), bpt.Flatten(), bpt.Dense(classes)])\n"
    (folder / "mine.py").write_text(code)
    return folder


def test_this_python_without_the_peer_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError(\"No module named 'torch'\")\n")
    paths = os.pathsep.join([str(tmp_path), environment()["PYTHONPATH"]])
    run = subprocess.run(
        [*COMMAND, "benchmark", "--peer", "torch"],
        cwd=tmp_path,
        env={**environment(), "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
    )
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr == (
        f"bptcnn: no PyTorch in {sys.executable} (ModuleNotFoundError: No module named 'torch'): "
        "give --peer-python, a Python that has it installed\n"
    )


def test_a_network_that_is_too_large_is_refused_in_one_line(tmp_path: Path) -> None:
    assert "too little memory" in refused("benchmark", "vgg11", "--batch-size", "65536", *QUICK, folder=tmp_path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL], ids=lambda number: number.name)
def test_an_interrupted_benchmark_leaves_nothing_behind(number: signal.Signals, tmp_path: Path) -> None:
    arguments = ("benchmark", "lenet5", "--batch-size", "4", "--seconds", "600", "--threads", "1", "--output", "a.json")
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        while not process.stdout.readline().startswith("lenet5: "):
            assert process.poll() is None
        sides: list[psutil.Process] = []
        while not sides:
            sides = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
        _, err = process.communicate(timeout=TIMEOUT_SECONDS)
    except BaseException:
        process.kill()
        process.communicate()
        raise
    assert process.returncode == (-signal.SIGKILL if number is signal.SIGKILL else 130)
    assert err.strip() in ("", "Aborted!", "Aborted.")
    _, alive = psutil.wait_procs(sides, timeout=10)
    assert not alive
    assert not list(tmp_path.iterdir())
