"""Runs that start at once get a folder each, those that fail leave none; a run knows its data wherever they lie."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from programs import COMMAND, TIMEOUT_SECONDS, bptcnn, environment, refused, write_npz

import bptcnn as bpt
from bptcnn.errors import UserError
from bptcnn.networks import load_network

NETWORK = '[[layers]]\nlayer = "Flatten"\n[[layers]]\nlayer = "Dense"\nunits = 4\n'
BRIEF = ("--network", "dense.toml", "--epochs", "1", "--no-measure", "--no-autotune", "--nodes", "1", "--quiet")
AT_ONCE = 8


@pytest.fixture
def here(tmp_path: Path) -> Path:
    write_npz(tmp_path / "d.npz")
    (tmp_path / "dense.toml").write_text(NETWORK)
    return tmp_path


def test_runs_that_start_at_once(here: Path) -> None:
    """A script over learning rates: all draw their folder in the same second."""
    (here / "at_once.py").write_text(
        "import bptcnn.training.run_folder as run_folder\n"
        "run_folder.time.strftime = lambda format: '20260101-000000'\n"
        "from bptcnn_cli.main import main\n"
        "main()\n"
    )
    command = [COMMAND[0], "at_once.py", "train", "d.npz", *BRIEF]
    runs = [
        subprocess.Popen(
            command, cwd=here, env=environment(), stdin=subprocess.DEVNULL, stdout=-1, stderr=-1, encoding="utf-8"
        )
        for _ in range(AT_ONCE)
    ]
    ended = [(*run.communicate(timeout=TIMEOUT_SECONDS), run.returncode) for run in runs]
    assert [(err, code) for _, err, code in ended] == [("", 0)] * AT_ONCE
    stem = "20260101-000000-dense"
    wanted = {stem, *(f"{stem}-{number}" for number in range(2, AT_ONCE + 1))}
    assert {path.name for path in (here / "runs").iterdir()} == wanted
    assert all((path / "summary.json").is_file() for path in (here / "runs").iterdir())
    assert {Path(out.split()[-1]).name for out, _, _ in ended} == wanted, "each tells its own"


@pytest.mark.parametrize(
    "options",
    [
        ("--print-config",),
        ("missing.npz",),
        ("--hosts", "missing.toml"),
        ("--network", "missing.toml"),
        ("--init", "missing"),
    ],
)
def test_what_does_not_start_leaves_no_folder(here: Path, options: tuple[str, ...]) -> None:
    before = sorted(here.rglob("*"))
    ended = bptcnn("train", *(() if "missing.npz" in options else ("d.npz",)), *options, folder=here)
    assert ended.code == (0 if "--print-config" in options else 2), ended
    assert sorted(here.rglob("*")) == before


def test_a_file_where_the_runs_would_be(here: Path) -> None:
    (here / "runs").write_text("")
    assert "cannot make the run folder runs/" in refused("train", "d.npz", *BRIEF, folder=here)


def moved(here: Path) -> Path:
    """A run whose data lie elsewhere now."""
    ended = bptcnn("train", "d.npz", "--run-dir", "run", *BRIEF, folder=here)
    assert ended.code == 0, ended
    (here / "elsewhere").mkdir()
    return (here / "d.npz").rename(here / "elsewhere" / "e.npz")


def test_data_that_have_moved(here: Path) -> None:
    place = moved(here)
    again = ("train", "--resume", "--run-dir", "run", "--epochs")
    line = refused(*again, "2", folder=here)
    assert f"{here}/d.npz: no such file" in line
    assert line.endswith("if they have moved, give DATA, too")
    ended = bptcnn(*again, "2", "elsewhere/e.npz", "--quiet", folder=here)
    assert (ended.code, ended.err) == (0, ""), ended
    assert f'data = "{place}"' in (here / "run" / "config.toml").read_text()
    ended = bptcnn(*again, "3", "--quiet", folder=here)
    assert (ended.code, ended.err) == (0, ""), "the new place is kept"


def changed(place: Path, what: str) -> None:
    with np.load(place) as archive:
        arrays = dict(archive)
    if what == "fewer":
        arrays |= {"x_train": arrays["x_train"][:300], "y_train": arrays["y_train"][:300]}
    elif what == "a pixel":
        arrays["x_test"][7, 3, 3] ^= 1
    elif what == "labels":
        arrays["y_train"][:2] = arrays["y_train"][1::-1]
    else:
        arrays |= {name: (arrays[name] / 255).astype(np.float32) for name in ("x_train", "x_test")}
    np.savez(place, **arrays)


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("fewer", "they have 300 training images, not 400"),
        ("a pixel", "as many test images, but not the same"),
        ("labels", "as many training labels, but not the same"),
        ("floats", "their training images are float32 (8, 8, 1), not uint8 (8, 8, 1)"),
    ],
)
def test_other_data_are_refused_with_the_difference(here: Path, what: str, told: str) -> None:
    place = moved(here)
    changed(place, what)
    before = {path: path.read_bytes() for path in (here / "run").rglob("*") if path.is_file()}
    line = refused("train", "elsewhere/e.npz", "--resume", "--run-dir", "run", "--epochs", "2", folder=here)
    assert line.startswith(f"{place} is not what run was trained on: {told}")
    assert "--init" in line
    assert {path: path.read_bytes() for path in (here / "run").rglob("*") if path.is_file()} == before
    dataset = bpt.data.load(place)
    network = load_network(str(here / "dense.toml"), dataset.train.input_shape, 4)
    with pytest.raises(UserError, match="is not what"):
        bpt.train(network, dataset, run_dir=here / "run", resume=True, epochs=2)


def test_an_older_folder_says_that_it_cannot_tell(here: Path) -> None:
    moved(here)
    (here / "run" / "data.json").unlink()
    again = ("train", "--resume", "--run-dir", "run", "--epochs")
    ended = bptcnn(*again, "2", "elsewhere/e.npz", folder=here)
    assert ended.code == 0, ended
    assert "did not record what its data are" in " ".join((ended.out + ended.err).split())
    assert json.loads((here / "run" / "data.json").read_text())["train"]["images"] == 400
    shutil.copy(here / "elsewhere" / "e.npz", here / "d.npz")
    ended = bptcnn(*again, "3", "d.npz", folder=here)
    assert ended.code == 0, ended
    assert "did not record" not in ended.out + ended.err
