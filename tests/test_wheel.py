"""The wheel: installed from nowhere near the checkout, run in an empty folder, it does what a checkout does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def run(arguments: list[str], folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, **environment}
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=env, capture_output=True, text=True, timeout=240, check=False
    )


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    wheels, target = tmp_path_factory.mktemp("wheels"), tmp_path_factory.mktemp("site")
    built = run(["-m", "build", "--wheel", "--no-isolation", "--outdir", str(wheels), str(ROOT)], wheels)
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = wheels.glob("*.whl")
    placed = run(["-m", "pip", "install", "--no-deps", "--quiet", "--target", str(target), str(wheel)], wheels)
    assert placed.returncode == 0, placed.stderr
    return target


def test_trains_and_evaluates_in_an_empty_folder(
    installed: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    train = ["-m", "bptcnn_cli", "train", "--network", "lenet5", "--nodes", "1.0,0.5", "--epochs", "1"]
    there = {"PYTHONPATH": str(installed), "BPTCNN_CACHE_DIR": str(tmp_path_factory.mktemp("cache"))}
    done = run([*train, "--run-dir", "run"], tmp_path, **there)
    assert done.returncode == 0, done.stderr
    assert "compiling" in done.stdout
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["images_trained"] == 10_000
    assert summary["test_accuracy"] > 0.5
    evaluated = run(["-m", "bptcnn_cli", "evaluate", "run"], tmp_path, **there)
    assert evaluated.returncode == 0, evaluated.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_everything_is_inside_the_package(installed: Path, tmp_path: Path) -> None:
    code = (
        "import bptcnn, bptcnn_cli; from bptcnn.profiling import packaged_folder;"
        "print(bptcnn.__file__, bptcnn_cli.__file__, *packaged_folder().glob('*.toml'))"
    )
    places = run(["-c", code], tmp_path, PYTHONPATH=str(installed)).stdout.split()
    assert len(places) > 2
    assert all(place.startswith(str(installed)) for place in places), places
    assert (installed / "bptcnn" / "data" / "sample" / "LICENSE-fashion-mnist").is_file()
