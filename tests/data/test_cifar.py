"""CIFAR-10's binary files: planes become channels; damage is refused in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from data_files import Bytes, cifar_bytes, fresh, only_user_errors, refusal, write_cifar
from hypothesis import given, settings
from hypothesis import strategies as st

from bptcnn.data import load


def colour(n: int, seed: int = 0) -> tuple[Bytes, Bytes]:
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (n, 32, 32, 3), np.uint8), random.integers(0, 10, n, np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_cifar(tmp_path, *colour(10), colour(3, 1))
    return tmp_path


@settings(deadline=None, max_examples=15)
@given(each=st.integers(1, 3), n_test=st.integers(1, 3), seed=st.integers(0, 99))
def test_round_trip(each: int, n_test: int, seed: int) -> None:
    train, test = colour(5 * each, seed), colour(n_test, seed + 1)
    with fresh() as folder:
        write_cifar(folder, *train, test)
        dataset = load(str(folder))
    for part, (images, labels) in ((dataset.train, train), (dataset.test, test)):
        assert part.images.dtype == np.uint8
        np.testing.assert_array_equal(part.images, images)
        np.testing.assert_array_equal(part.labels, labels)
    assert dataset.classes == 10
    assert dataset.train.input_shape == (32, 32, 3)


@settings(deadline=None, max_examples=60)
@given(length=st.integers(0, 2 * 3073))
def test_truncation_is_refused_or_drops_whole_records(length: int) -> None:
    with fresh() as folder:
        write_cifar(folder, *colour(10), colour(3))
        path = folder / "data_batch_3.bin"
        path.write_bytes(path.read_bytes()[:length])
        if length and length % 3073 == 0:
            assert len(load(folder).train) == 8 + length // 3073
        else:
            assert refusal(folder).startswith(f"cannot read {path}: ")


@settings(deadline=None, max_examples=60)
@given(noise=st.binary(max_size=200), repeat=st.sampled_from([1, 3073]))
def test_random_bytes_never_escape(noise: bytes, repeat: int) -> None:
    with fresh() as folder:
        write_cifar(folder, *colour(5), colour(1))
        (folder / "test_batch.bin").write_bytes(noise * repeat)
        only_user_errors(folder)


def test_malformed(folder: Path) -> None:
    path = folder / "data_batch_2.bin"
    images, labels = colour(4)
    path.write_bytes(cifar_bytes(images, np.array([1, 2, 10, 3], np.uint8)))
    assert refusal(folder) == f"cannot read {path}: label 10 of record 2 is out of range: CIFAR-10 has 0 to 9"
    path.write_bytes(cifar_bytes(images, labels) + b"x")
    assert refusal(folder) == f"cannot read {path}: 12293 bytes are not a whole number of 3073-byte records"
    path.write_bytes(b"")
    assert refusal(folder) == f"cannot read {path}: the file is empty"
    path.unlink()
    assert refusal(folder) == f"cannot read {folder}: data_batch_2.bin is missing"
    path.mkdir()
    assert refusal(folder) == f"cannot read {path}: it is a folder, not a file"
