"""Variables and files that are meant for other programs, or make no sense, neither end a run nor print a word."""

import subprocess
import sys
from pathlib import Path

import pytest
from programs import bptcnn, environment, write_npz

TRAIN = ("train", "data.npz", "--epochs", "1", "--nodes", "1", "--no-autotune", "--run-dir", "a")
ENDED_OR_CHANGED = (  # what a run of an earlier version printed a traceback or a warning for
    {"MPLBACKEND": "module://matplotlib_inline.backend_inline"},
    {"NUMBA_DISABLE_JIT": "1"},
    {"NUMBA_NUM_THREADS": "0"},
    {"NUMBA_OPT": "9"},
    {"NUMBA_DEBUG": "1"},
    {"NUMBA_COLOR_SCHEME": "nonsense"},
    {"NUMBA_CACHE_LOCATOR_CLASSES": "no.such.Class"},
    {"NUMEXPR_SANITIZE": "nonsense"},
    {"NUMPY_MADVISE_HUGEPAGE": "x"},
    {"_BPTCNN_COMPLETE": "complete_bash"},
)
HARMLESS = {
    "MATPLOTLIBRC": "/no/such/file",
    "MPLCONFIGDIR": "/no/such/folder",
    "NUMBA_CACHE_DIR": "/no/such/folder",
    "NUMBA_CPU_NAME": "nonsense",
    "NUMBA_THREADING_LAYER": "nonsense",
    "NUMEXPR_MAX_THREADS": "0",
    "OMP_NUM_THREADS": "4,2",
    "OPENBLAS_NUM_THREADS": "4,2",
    "MKL_NUM_THREADS": "x",
    "NPY_DISABLE_CPU_FEATURES": "nonsense",
    "NPY_PROMOTION_STATE": "nonsense",
    "NUMPY_EXPERIMENTAL_ARRAY_FUNCTION": "x",
    "COLUMNS": "abc",
    "LINES": "0",
    "TERM": "dumb",
    "NO_COLOR": "1",
    "FORCE_COLOR": "1",
    "TYPER_USE_RICH": "nonsense",
    "TERMINAL_WIDTH": "abc",
    "PYTHONOPTIMIZE": "2",
    "PYTHONWARNINGS": "error",
    "PYTHONIOENCODING": "ascii:strict",
    "PYTHONHASHSEED": "7",
}


def assert_trains(folder: Path, variables: dict[str, str]) -> None:
    write_npz(folder / "data.npz")
    ended = bptcnn(*TRAIN, folder=folder, variables=variables)
    assert (ended.code, ended.err) == (0, ""), ended
    assert "note:" not in ended.out
    assert "\x1b" not in ended.out
    assert "<svg" in (folder / "a" / "report.html").read_text()
    assert (folder / "a" / "logs" / "node0.log").read_text() == ""


@pytest.mark.parametrize("variables", ENDED_OR_CHANGED, ids=lambda variables: next(iter(variables)))
def test_a_variable_for_others_changes_nothing(tmp_path: Path, variables: dict[str, str]) -> None:
    assert_trains(tmp_path, variables)


def test_neither_do_all_of_them_nor_files_in_the_current_folder(tmp_path: Path) -> None:
    (tmp_path / "matplotlibrc").write_text("backend: nonsense\nfigure.dpi: many\nno such line\n")
    (tmp_path / ".numba_config.yaml").write_text("disable_jit: 1\nnum_threads: 0\n")
    every = {name: value for variables in ENDED_OR_CHANGED for name, value in variables.items()}
    assert_trains(tmp_path, {**HARMLESS, **every})


def test_the_date_that_sources_are_of_is_not_read(tmp_path: Path) -> None:
    """Reproducible builds set it; what draws would end."""
    assert_trains(tmp_path, {"SOURCE_DATE_EPOCH": "abc"})


def test_help_is_shown_whatever_the_width_is_said_to_be(tmp_path: Path) -> None:
    ended = bptcnn("train", "--help", folder=tmp_path, variables={"TERMINAL_WIDTH": "abc", "COLUMNS": "abc"})
    assert (ended.code, ended.err) == (0, ""), ended
    assert "--epochs" in ended.out


def test_a_report_that_fails_is_a_note(tmp_path: Path) -> None:
    broken = tmp_path / "broken" / "matplotlib"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise RuntimeError('drawn\\nno more')")
    write_npz(tmp_path / "data.npz")
    path = f"{broken.parent}:{environment()['PYTHONPATH']}"
    ended = bptcnn(*TRAIN, folder=tmp_path, variables={"PYTHONPATH": path})
    assert (ended.code, ended.err) == (0, ""), ended
    assert "note: the report could not be written: drawn no more\n" in ended.out
    quiet = bptcnn(*TRAIN, "--run-dir", "quiet", "--quiet", folder=tmp_path, variables={"PYTHONPATH": path})
    assert (quiet.code, quiet.err) == (0, "bptcnn: note: the report could not be written: drawn no more\n")
    for name in ("summary.json", "best.safetensors", "last.safetensors"):
        assert (tmp_path / "a" / name).is_file()


def program(text: str, folder: Path, **variables: str) -> str:
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", text],
        cwd=folder,
        env={**environment(), **variables},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (run.returncode, run.stderr) == (0, ""), run
    return run.stdout.strip()


def test_what_a_notebook_has_imported_keeps_the_users_settings(tmp_path: Path) -> None:
    text = """
import os, matplotlib
matplotlib.rcParams["font.size"] = 33
before = dict(os.environ)
from bptcnn.training.progress import EpochRow
from bptcnn.training.report import _curves
svg = _curves([EpochRow(1, 1.0, 1.0, 0.5, 0.5, 10.0)], "test set")
print(svg[:4], matplotlib.rcParams["font.size"], matplotlib.get_configdir(), dict(os.environ) == before)
"""
    (tmp_path / "mine").mkdir()
    assert program(text, tmp_path, MPLCONFIGDIR=str(tmp_path / "mine")) == f"<svg 33.0 {tmp_path / 'mine'} True"


def test_kernels_are_compiled_with_our_settings_where_numba_has_the_users(tmp_path: Path) -> None:
    text = """
import numba
from numba.core import config
from bptcnn.kernels.compilation import compiled

@compiled("float64(float64)")
def double(x):
    return 2 * x

print(double(4.0), len(double.overloads), config.DISABLE_JIT, config.OPT + 0, numba.njit(abs) is abs)
"""
    variables = {"NUMBA_DISABLE_JIT": "1", "NUMBA_OPT": "0", "BPTCNN_CACHE_DIR": str(tmp_path / "cache")}
    text = text.replace("numba.njit(abs) is abs", "numba.njit(program) is program").replace(
        "print(", "def program():\n    pass\n\nprint("
    )
    for _ in range(2):  # compiled, then from the cache
        assert program(text, tmp_path, **variables) == "8.0 1 1 0 True"
    assert len(list((tmp_path / "cache").rglob("*double-*"))) == 1
