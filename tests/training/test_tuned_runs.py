"""Runs of a tuned network: the same tuning, the same bits, on any number of threads and when they are resumed."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from training.runs import data, run

import bptcnn as bpt
from bptcnn.errors import UserError
from bptcnn.inner.lowering import lower
from bptcnn.inner.tuning import BY_RULE, Choice, Tuning
from bptcnn.kernels.unit import MATRIX_UNIT
from bptcnn.networks import Conv2D, Dense, GlobalAveragePool2D, Network
from bptcnn.precision import Precision
from bptcnn.profiling import TuningRecord, autotuning
from bptcnn.profiling.files import read_tuning, write_tuning
from bptcnn.profiling.tunings import tuning_path

NETWORK = Network(
    (28, 28, 1), [Conv2D(32, 3, strides=2), Conv2D(32, 3, activation="relu"), GlobalAveragePool2D(), Dense(10)]
)
BATCH = 16
CHOICES = tuple(decision.choice for decision in lower(NETWORK, training=True).decisions)


def record(tuning: Tuning, precision: Precision = "float32") -> TuningRecord:
    where = autotuning.cpu_name(), autotuning.UNIT.name, autotuning.VERSION
    return TuningRecord(*where, "a", autotuning.network_digest(NETWORK), BATCH, precision, 1, 1.0, tuning, ())


TUNED = record(Tuning(3, (CHOICES[0],)))


@pytest.fixture(autouse=True)
def kept() -> Iterator[Path]:
    """This host's record of NETWORK at float32."""
    path = tuning_path(NETWORK, BATCH, "float32")
    write_tuning(path, TUNED)
    yield path
    for precision in get_args(Precision):
        tuning_path(NETWORK, BATCH, precision).unlink(missing_ok=True)


def weights(folder: Path, epochs: int = 1, **settings: object) -> bytes:
    run(folder, data(200, 50), NETWORK, **{"nodes": 1, "epochs": epochs, "autotune": True, **settings})
    return bpt.load(folder, last=True).weights.tobytes()


def test_a_tuned_run_repeats_on_any_number_of_threads(tmp_path: Path) -> None:
    found = weights(tmp_path / "a", threads=1)
    assert read_tuning(tmp_path / "a" / "tuning.toml") == TUNED
    assert weights(tmp_path / "b", threads=2) == found
    assert weights(tmp_path / "c", autotune=False) != found, "the tuning makes no difference"
    assert not (tmp_path / "c" / "tuning.toml").exists()
    assert np.isfinite(np.frombuffer(found, np.float32)).all()


def test_a_resumed_run_keeps_its_tuning(tmp_path: Path, kept: Path) -> None:
    weights(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    found = weights(tmp_path / "a", epochs=2, resume=True)
    write_tuning(kept, record(BY_RULE))
    assert weights(tmp_path / "b", epochs=2, resume=True) == found
    with pytest.raises(UserError, match="autotune cannot change when a run is resumed"):
        weights(tmp_path / "b", epochs=3, resume=True, autotune=False)
    (tmp_path / "b" / "tuning.toml").write_text("damaged")
    with pytest.raises(UserError, match=r"tuning\.toml"):
        weights(tmp_path / "b", epochs=3, resume=True)


def test_a_model_is_tuned_where_that_is_wanted() -> None:
    images, labels = data(BATCH, 1).train.images, data(BATCH, 1).train.labels
    gradients = []
    for autotune in (True, True, False):
        with bpt.Model(NETWORK, BATCH, threads=1, autotune=autotune) as model:
            gradients.append(model.loss_and_gradient(images, labels)[1].tobytes())
    assert gradients[0] == gradients[1] != gradients[2]


@pytest.mark.skipif(not MATRIX_UNIT, reason="this CPU multiplies no bfloat16 numbers")
def test_precisions_have_their_own_tunings(tmp_path: Path) -> None:
    shape = lower(NETWORK, training=True, precision="bf16").decisions[1].choice.shape
    path = tuning_path(NETWORK, BATCH, "bf16")
    found = []
    for name, tuning in (("a", BY_RULE), ("b", BY_RULE), ("c", Tuning(choices=(Choice(shape, "direct"),)))):
        write_tuning(path, record(tuning, "bf16"))
        found.append(weights(tmp_path / name, precision="bf16"))
        assert read_tuning(tmp_path / name / "tuning.toml") == record(tuning, "bf16")
    assert found[0] == found[1] != found[2]
    assert weights(tmp_path / "d") not in found
    assert read_tuning(tmp_path / "d" / "tuning.toml") == TUNED
