"""Learning-rate expressions: what numexpr computes is computed alike, and nothing else is."""

import json
import subprocess
import sys
from pathlib import Path

import numexpr
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import bptcnn
from bptcnn.errors import UserError
from bptcnn.training.expressions import computed, parsed
from bptcnn.training.schedules import learning_rates
from bptcnn.training.settings import TrainSettings

NAMES = {"epoch": np.arange(1.0, 301.0), "epochs": np.float64(300.0)}


@pytest.mark.parametrize(
    "text",
    [
        *("epoch // 2", "epoch % 3", "-epoch % 3", "7 % -3 * epoch", "-7 // 2 * epoch", "1 / 2 * epoch"),
        *("2**-epoch", "epoch**2", "epoch**3.5", "epoch**-3", "0.1 * 0.8**epoch", "3**40 * epoch", "10**20 * epoch"),
        *("0.1 * (epoch > 2)", "(epoch > 2) & (epoch < 5)", "where(~(epoch > 2), 1, 2)", "where(epoch > 2, 1, 2) / 3"),
        *("where(epoch == epochs, 0.01, 0.1)", "where(1 > 2, 0.1, 0.2)", "maximum(epoch, 3)", "round(epoch / 2)"),
        *("sqrt(2)", "0.1", "epoch > 2", "log1p(epoch) / arctan2(epoch, epochs)", "+epoch"),
        "0.05 * (1 + cos(3.14159265358979 * (epoch - 1) / epochs))",
    ],
)
def test_it_is_what_numexpr_says_bit_for_bit(text: str) -> None:
    expected = np.asarray(numexpr.evaluate(text, local_dict=NAMES, global_dict={})).astype(np.float64)
    assert computed(parsed(text), NAMES).astype(np.float64).tobytes() == expected.tobytes()


CODE = [
    """sin(*(exec('import os; os.system("touch {mark}")') for i in (1,)))""",
    """sin(*(open(chr(47)+'{mark}'[1:], 'w') for i in (1,)))""",
    "where(epoch > 0, (lambda: open('{mark}', 'w'))(), 1)",
    "[open('{mark}', 'w') for x in (1,)][0]",
    "(x := open('{mark}', 'w')) and 0.1",
    "warmup(sin(*(open('{mark}', 'w') for i in (1,))), 1)",
    "step(open('{mark}', 'w'), every=1)",
    "cosine(0.1, floor=open('{mark}', 'w'))",
    'f\'{{open("{mark}", "w")}}\'',
    "epoch.__class__.__base__.__subclasses__()",
    "epoch @ epoch",
    "await epoch",
    "sum(epoch)",
    "ones_like(epoch)",
]


@pytest.mark.parametrize("text", CODE)
def test_code_is_refused_and_not_run(text: str, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    with pytest.raises(UserError, match="learning rate") as caught:
        learning_rates(text.format(mark=mark), 4)
    assert str(caught.value).isprintable()
    assert not mark.exists()


ENDLESS = [
    "9**9**9**9",
    "9**9**9**9 * epoch",
    "step(1, every=1, factor=9)",
    "1 << 9**9",
    "9**(9**(epoch))",
    "where(epoch > 0, -2147483648, 1) % where(epoch > 0, -1, 1)",
    "(" * 500 + "epoch" + ")" * 400,
    "-" * 900 + "1",
    "1" * 5000,
    "epoch" + " + epoch" * 100_000,
]


def test_what_would_take_for_ever_is_refused() -> None:
    """In a process of its own: a hang would hold up all other tests."""
    code = """
import json, sys
from bptcnn.errors import UserError
from bptcnn.training.schedules import learning_rates
for text in json.load(sys.stdin):
    try:
        learning_rates(text, 1_000_000)
    except UserError as error:
        assert len(str(error)) < 1000
        print("refused")
"""
    ended = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps(ENDLESS),
        cwd=Path(bptcnn.__file__).parent.parent,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (ended.stdout.split(), ended.stderr) == (["refused"] * len(ENDLESS), "")


@pytest.mark.parametrize("text", ["0.1 / epoch", "cosine(0.1)", "warmup(cosine(0.1), 3)", "step(0.1, every=10000)"])
def test_a_million_epochs(text: str) -> None:
    assert len(learning_rates(text, 1_000_000)) == 1_000_000


NODES = st.recursive(
    st.sampled_from(["epoch", "epochs", "0.5", "3", "1e200", "0", "x", "'a'", "True", "1j"]),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["+", "-", "*", "/", "//", "%", "**", "<", "&", "<<", ".", "if"]), inner).map(
            " ".join
        ),
        st.tuples(st.sampled_from(["", "sin", "where", "step", "warmup", "open", "-", "~"]), inner, inner).map(
            lambda parts: f"{parts[0]}({parts[1]}, {parts[2]})"
        ),
        inner.map(lambda text: f"({text})"),
    ),
    max_leaves=12,
)


@given(NODES)
def test_whatever_is_written_ends_in_rates_or_one_line(text: str) -> None:
    said = ""
    try:
        assert all(rate > 0 for rate in TrainSettings(lr=text, epochs=3).learning_rates())
    except UserError as error:
        said = str(error)
    assert not said or said.isprintable()
