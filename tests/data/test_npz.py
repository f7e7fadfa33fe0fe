"""Archives of NumPy arrays: kinds, shapes and orders that are read, and damage of every sort."""

from __future__ import annotations

import io
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from data_files import fresh, grey, only_user_errors, refusal
from hypothesis import given, settings
from hypothesis import strategies as st

from bptcnn.data import load

Arrays = dict[str, npt.NDArray[Any]]


def arrays(**changed: npt.NDArray[Any]) -> Arrays:
    (x_train, y_train), (x_test, y_test) = grey(12), grey(10)
    return {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test, **changed}


def write(path: Path, content: Arrays) -> Path:
    np.savez(path, allow_pickle=True, **content)
    return path


def npy_bytes(array: npt.NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


@settings(deadline=None, max_examples=60)
@given(
    kind=st.sampled_from(["uint8", "float16", "<f4", ">f4", "float64"]),
    label_kind=st.sampled_from(["uint8", "int8", "int64", ">u2", "uint64"]),
    channels=st.sampled_from([None, 1, 3]),
    column_major=st.booleans(),
    label_column=st.booleans(),
    compressed=st.booleans(),
    seed=st.integers(0, 99),
)
def test_round_trip(
    kind: str,
    label_kind: str,
    channels: int | None,
    column_major: bool,
    label_column: bool,
    compressed: bool,
    seed: int,
) -> None:
    random = np.random.default_rng(seed)
    shape = (5, 4, 3) if channels is None else (5, 4, 3, channels)
    images = random.integers(0, 256, shape).astype(kind) if kind == "uint8" else random.random(shape).astype(kind)
    labels = np.array([0, 1, 2, 1, 0], label_kind)
    content: Arrays = {
        "x_train": np.asfortranarray(images) if column_major else images,
        "y_train": labels[:, np.newaxis] if label_column else labels,
        "x_test": images[:2],
        "y_test": labels[:2],
    }
    with fresh() as folder:
        path = folder / "mine.npz"
        if compressed:
            np.savez_compressed(path, allow_pickle=False, **content)
        else:
            np.savez(path, allow_pickle=False, **content)
        dataset = load(path)
    assert dataset.train.images.dtype == (np.uint8 if kind == "uint8" else np.float32)
    assert dataset.train.images.flags.c_contiguous
    assert dataset.train.images.flags.writeable
    np.testing.assert_array_equal(dataset.train.images.reshape(shape), images.astype(dataset.train.images.dtype))
    np.testing.assert_array_equal(dataset.train.labels, [0, 1, 2, 1, 0])
    np.testing.assert_array_equal(dataset.test.labels, [0, 1])
    assert (dataset.name, dataset.source, dataset.classes) == ("mine", str(path), 3)


@pytest.mark.parametrize("compressed", [False, True])
def test_truncation_at_every_byte_is_refused(tmp_path: Path, compressed: bool) -> None:
    path = tmp_path / "a.npz"
    (np.savez_compressed if compressed else np.savez)(path, allow_pickle=False, **arrays())
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert refusal(path).startswith(f"cannot read {path}: ")


@settings(deadline=None, max_examples=300)
@given(
    compressed=st.booleans(),
    changes=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=3),
)
def test_changed_bytes_never_escape(compressed: bool, changes: list[tuple[int, int]]) -> None:
    with fresh() as folder:
        path = folder / "a.npz"
        (np.savez_compressed if compressed else np.savez)(path, allow_pickle=False, **arrays())
        content = bytearray(path.read_bytes())
        for position, value in changes:
            content[position % len(content)] = value
        path.write_bytes(content)
        only_user_errors(path)


@settings(deadline=None, max_examples=150)
@given(noise=st.binary(max_size=120), head=st.sampled_from([b"\x93NUMPY\x01\x00", b"\x93NUMPY\x02\x00", b""]))
def test_random_members_never_escape(noise: bytes, head: bytes) -> None:
    with fresh() as folder:
        path = folder / "a.npz"
        with zipfile.ZipFile(path, "w") as archive:
            for name, array in arrays().items():
                archive.writestr(f"{name}.npy", head + noise if name == "x_train" else npy_bytes(array))
        assert refusal(path).startswith(f"cannot read {path}: ")


@settings(deadline=None, max_examples=100)
@given(
    header=st.one_of(
        st.text(max_size=60),
        st.builds(
            "{{'descr': {}, 'fortran_order': {}, 'shape': {}}}".format,
            st.sampled_from(["'|u1'", "'<f8'", "'|O'", "'<U3'", "[('a', '<i4')]", "'V0'", "'<f'", "3", "'<m8[s]'"]),
            st.sampled_from(["True", "False", "1"]),
            st.sampled_from(["(12, 4, 3)", "(-1, 4, 3)", "(1" + "0" * 30 + ", 4, 3)", "()", "3", "(True, 2)", "(0,)"]),
        ),
    )
)
def test_odd_array_headers_never_escape(header: str) -> None:
    encoded = header.encode("latin1", "replace")
    member = b"\x93NUMPY\x01\x00" + len(encoded).to_bytes(2, "little") + encoded + bytes(144)
    with fresh() as folder:
        path = folder / "a.npz"
        with zipfile.ZipFile(path, "w") as archive:
            for name, array in arrays().items():
                archive.writestr(f"{name}.npy", member if name == "x_train" else npy_bytes(array))
        only_user_errors(path)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"x_train": np.array([None, "a"] * 6)}, "x_train holds objects, not numbers"),
        ({"x_train": np.array(["a"] * 12)}, "x_train holds <U1, not numbers"),
        ({"x_train": np.zeros((12, 4, 3), np.int64)}, "images are int64"),
        ({"x_train": np.zeros((12, 4, 3), np.complex64)}, "x_train holds complex64"),
        ({"x_train": np.zeros((12, 4), np.uint8)}, "images of shape (12, 4) are flat"),
        ({"x_train": np.zeros((12, 1, 1, 4, 3), np.uint8)}, "x_train has shape (12, 1, 1, 4, 3)"),
        ({"x_train": np.zeros((0, 4, 3), np.uint8)}, "x_train has shape (0, 4, 3)"),
        ({"x_train": np.zeros((11, 4, 3), np.uint8)}, "11 images but 12 labels"),
        ({"x_train": np.full((12, 4, 3), np.nan)}, "NaN"),
        ({"x_train": np.full((12, 4, 3), -np.inf)}, "infinite"),
        ({"x_train": np.full((12, 4, 3), 255.0)}, "scale them"),
        ({"x_train": np.full((12, 4, 3), 1e300)}, "scale them"),
        ({"x_train": np.zeros((12, 4, 3), np.float32)}, "training images are float32, test images uint8"),
        ({"x_test": np.zeros((10, 3, 4), np.uint8)}, "training images are (4, 3, 1), test images (3, 4, 1)"),
        ({"y_train": np.zeros(12)}, "labels are float64, not integers"),
        ({"y_train": np.zeros(12, np.bool_)}, "labels are bool, not integers: give labels.astype(int)"),
        ({"y_train": np.zeros((12, 10), np.int64)}, "labels of shape (12, 10) look one-hot"),
        ({"y_train": np.full(12, -1)}, "out of range"),
        ({"y_train": np.full(12, 2**63, np.uint64)}, "out of range"),
        ({"y_train": np.full(12, 2**31 - 2)}, "out of range"),
        ({"y_test": np.full(10, 99)}, "label 99 is out of range"),
        ({"y_train": np.zeros(12, np.int8), "y_test": np.zeros(10, np.int8)}, "at least two"),
    ],
)
def test_unfit_arrays(tmp_path: Path, changed: Arrays, expected: str) -> None:
    path = write(tmp_path / "a.npz", arrays(**changed))
    message = refusal(path)
    assert message.startswith(f"cannot read {path}: ")
    assert expected in message


def test_missing_arrays(tmp_path: Path) -> None:
    content = arrays()
    del content["y_train"], content["x_test"]
    assert "y_train, x_test missing" in refusal(write(tmp_path / "a.npz", content))


def test_what_is_no_archive(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(b"")
    assert refusal(path) == f"cannot read {path}: the file is empty"
    path.write_bytes(npy_bytes(np.zeros(3)))
    assert refusal(path) == f"cannot read {path}: damaged: File is not a zip file"
    path.unlink()
    path.mkdir()
    assert refusal(path) == f"cannot read {path}: it is a folder, not a file"


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_an_absurd_header_allocates_nothing(tmp_path: Path, method: int) -> None:
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000, 1000, 1000)}\n"
    member = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(500)
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, array in arrays().items():
            archive.writestr(f"{name}.npy", member if name == "x_train" else npy_bytes(array))
    assert "truncated: header promises x_train of shape (1000000000, 1000, 1000), uint8" in refusal(path)


def test_a_method_that_numpy_does_not_use(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        for name, array in arrays().items():
            archive.writestr(f"{name}.npy", npy_bytes(array))
    assert "x_train is compressed by a method" in refusal(path)


def test_a_header_that_unpacks_to_hundreds_of_megabytes_allocates_nothing(tmp_path: Path) -> None:
    length = 200_000_000
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        with archive.open("x_train.npy", "w") as member:
            member.write(b"\x93NUMPY\x02\x00" + length.to_bytes(4, "little") + b"{")
            for _ in range(length // 1_000_000):
                member.write(b" " * 1_000_000)
        for name, array in arrays().items():
            if name != "x_train":
                archive.writestr(f"{name}.npy", npy_bytes(array))
    tracemalloc.start()
    try:
        assert "its header is damaged" in refusal(path)
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()
