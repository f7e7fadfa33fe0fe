"""The user's variables, meant for other programs, do not reach the libraries that we import."""

import os
import subprocess
import sys

import pytest
from control_groups import control_group, run_in

from bptcnn.own_settings import variables


def test_within_there_are_our_variables_and_afterwards_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BPT_TEST_ONE", "1")
    monkeypatch.setenv("BPT_TEST_TWO", "2")
    monkeypatch.delenv("BPT_OTHER", raising=False)
    before = dict(os.environ)
    with variables(("BPT_TEST_",), BPT_TEST_TWO="3", BPT_OTHER="4"):
        inside = {name: value for name, value in os.environ.items() if name.startswith("BPT_")}
        os.environ["BPT_TEST_MORE"] = "a library's own"
    assert inside == {"BPT_TEST_TWO": "3", "BPT_OTHER": "4"}
    assert dict(os.environ) == before


@pytest.mark.parametrize("value", ["4,2", "abc", "0", "-1", "99999999999999999999", "1000", "", "2"])
@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "NUMEXPR_NUM_THREADS", "NUMEXPR_MAX_THREADS"])
def test_numexpr_is_imported_whatever_the_variables_say(name: str, value: str) -> None:
    program = "from bptcnn.outer.sgwu import numexpr; import os; print(numexpr.evaluate('1 + 1'), os.environ.get(%r))"
    run = subprocess.run(
        [sys.executable, "-c", program % name], env={**os.environ, name: value}, capture_output=True, text=True
    )
    assert (run.returncode, run.stdout.strip()) == (0, f"2 {value}".strip()), run.stderr


def test_numexpr_starts_no_thread_and_says_nothing_where_none_can_be_had() -> None:
    program = "from bptcnn.own_settings import import_numexpr; print(import_numexpr().evaluate('1 + 1'))"
    with control_group("pids", 1, "bptcnn-numexpr") as words:
        run = run_in(words, [sys.executable, "-c", program], env={**os.environ, "OPENBLAS_NUM_THREADS": "1"})
    assert (run.returncode, run.stdout, run.stderr) == (0, "2\n", "")
