"""Every vector unit that this CPU can run passes the tests of the kernels; unknown units are refused."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bptcnn.errors import UserError
from bptcnn.kernels.unit import (
    MATRIX_UNIT,
    UNIT,
    UNITS,
    available_matrix_units,
    available_units,
    select_matrix_unit,
    select_unit,
)

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
CHECKS = (
    "test_tile.py", "test_convolution.py", "test_winograd.py", "test_winograd_gradients.py", "test_pooling.py",
    "test_dense.py", "test_loss.py", "test_update.py", "test_depthwise.py", "test_grouped.py", "test_elementwise.py",
    "test_few_filters.py",
)  # fmt: skip
MATRIX_CHECKS = ("test_bfloat16_blocks.py", "test_bfloat16_convolution.py")
OTHERS = [name for name in available_units() if name != UNIT.name]  # the one in use is what the other tests run on


@pytest.mark.parametrize("name", OTHERS)
def test_another_unit_computes_the_same(name: str) -> None:
    check_on("BPTCNN_VECTOR_UNIT", name, CHECKS)


@pytest.mark.parametrize("name", [name for name in available_matrix_units() if name != MATRIX_UNIT])
def test_another_matrix_unit_computes_the_same(name: str) -> None:
    check_on("BPTCNN_MATRIX_UNIT", name, MATRIX_CHECKS)


def check_on(variable: str, name: str, checks: tuple[str, ...]) -> None:
    """Run tests in a process that the environment gives another unit."""
    files = [str(HERE / check) for check in checks]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--hypothesis-profile=brief", *files],
        cwd=ROOT,
        env={**os.environ, variable: name},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-3000:]
    assert " passed" in run.stdout


def test_the_unit_in_use_is_the_one_asked_for_or_the_best() -> None:
    asked = os.environ.get("BPTCNN_VECTOR_UNIT")
    assert UNIT.name == (asked or available_units()[0])
    assert UNIT is UNITS[UNIT.name]
    assert select_unit(None).name == available_units()[0]


def test_generic_runs_everywhere_and_units_are_listed_once() -> None:
    names = available_units()
    assert names[-1] == "generic"
    assert len(set(names)) == len(names)
    assert set(names) <= set(UNITS)
    for name in names:
        assert select_unit(name).name == name


@pytest.mark.parametrize("name", ["", "avx1024", "AVX2", "generic "])
def test_an_unknown_unit_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(UserError) as caught:
        select_unit(name)
    assert str(caught.value) == f"BPTCNN_VECTOR_UNIT={name}: this CPU runs {', '.join(available_units())}"


def test_a_unit_that_this_cpu_lacks_is_refused() -> None:
    for name in set(UNITS) - set(available_units()):
        with pytest.raises(UserError, match="this CPU runs"):
            select_unit(name)


def test_an_unknown_unit_in_the_environment_is_the_users_error() -> None:
    run = subprocess.run(
        [sys.executable, "-c", "import bptcnn.kernels.tile"],
        cwd=ROOT,
        env={**os.environ, "BPTCNN_VECTOR_UNIT": "quantum"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode != 0
    assert (
        run.stderr.strip()
        .splitlines()[-1]
        .startswith(
            f"bptcnn.errors.UserError: BPTCNN_VECTOR_UNIT=quantum: this CPU runs {', '.join(available_units())}"
        )
    )


def test_matrix_units_need_this_vector_unit_and_are_refused_in_one_line() -> None:
    names = available_matrix_units()
    assert UNIT.name == "avx512" or names == []
    assert select_matrix_unit(None) == (names[0] if names else "")
    for name in names:
        assert select_matrix_unit(name) == name
    with pytest.raises(UserError) as caught:
        select_matrix_unit("quantum")
    has = ", ".join(names) or "none"
    assert str(caught.value) == f"BPTCNN_MATRIX_UNIT=quantum: this CPU, on {UNIT.name}, has {has}"
