"""IDX folders: what was written is read; whatever is damaged is refused in one line."""

from __future__ import annotations

import gzip
import os
import struct
from pathlib import Path

import numpy as np
import psutil
import pytest
from data_files import fresh, grey, idx_bytes, only_user_errors, refusal, write_idx
from hypothesis import given, settings
from hypothesis import strategies as st

from bptcnn.data import files, load

IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_idx(tmp_path, grey(12), grey(10, seed=1))
    return tmp_path


@settings(deadline=None, max_examples=40)
@given(
    sizes=st.tuples(*[st.integers(2, 12)] * 2, *[st.integers(1, 7)] * 2),
    dot=st.sampled_from("-."),
    gz=st.booleans(),
    seed=st.integers(0, 99),
)
def test_round_trip(sizes: tuple[int, int, int, int], dot: str, gz: bool, seed: int) -> None:
    n_train, n_test, height, width = sizes
    train, test = grey(n_train, height, width, seed), grey(n_test, height, width, seed + 1)
    with fresh() as folder:
        write_idx(folder, train, test, dot, gz)
        dataset = load(folder)
    for part, (images, labels) in ((dataset.train, train), (dataset.test, test)):
        assert part.images.dtype == np.uint8
        assert part.images.flags.writeable
        assert part.input_shape == (height, width, 1)
        np.testing.assert_array_equal(part.images[..., 0], images)
        np.testing.assert_array_equal(part.labels, labels)
    assert dataset.classes == min(10, max(n_train, n_test))
    assert dataset.source == str(folder)
    assert dataset.name == folder.name


@pytest.mark.parametrize("name", [IMAGES, LABELS, "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
@pytest.mark.parametrize("gz", [False, True])
def test_truncation_at_every_byte_is_refused(folder: Path, name: str, gz: bool) -> None:
    whole = (folder / name).read_bytes()
    if gz:
        (folder / name).unlink()
        name, whole = name + ".gz", gzip.compress(whole)
    for length in range(len(whole)):
        (folder / name).write_bytes(whole[:length])
        message = refusal(folder)
        assert message.startswith(f"cannot read {folder / name}: ")
        assert gz or "truncated" in message or "empty" in message


@settings(deadline=None, max_examples=150)
@given(
    name=st.sampled_from([IMAGES, LABELS, IMAGES + ".gz", LABELS + ".gz"]),
    changes=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=4),
)
def test_changed_bytes_never_escape(name: str, changes: list[tuple[int, int]]) -> None:
    with fresh() as folder:
        write_idx(folder, grey(12), grey(10), gz=name.endswith(".gz"))
        content = bytearray((folder / name).read_bytes())
        for position, value in changes:
            content[position % min(len(content), 40)] = value  # the headers, mostly
        (folder / name).write_bytes(content)
        only_user_errors(folder)


@settings(deadline=None, max_examples=100)
@given(name=st.sampled_from([IMAGES, IMAGES + ".gz", LABELS]), noise=st.binary(max_size=200), magic=st.booleans())
def test_random_bytes_never_escape(name: str, noise: bytes, magic: bool) -> None:
    head = b"\x1f\x8b\x08\x00" if name.endswith(".gz") else b"\x00\x00\x08\x03"
    with fresh() as folder:
        write_idx(folder, grey(12), grey(10), gz=name.endswith(".gz"))
        (folder / name).write_bytes(head * magic + noise)
        only_user_errors(folder)


def test_the_message_says_what_is_missing_from_a_truncated_file(folder: Path) -> None:
    (folder / IMAGES).unlink()
    path = folder / f"{IMAGES}.gz"
    path.write_bytes(gzip.compress(struct.pack(">4I", 0x803, 60000, 28, 28) + bytes(107)))
    assert refusal(folder) == (
        f"cannot read {path}: truncated: header promises 60000 images of 28x28, file holds 123 bytes"
    )


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("shape", [(2**32 - 1,) * 3, (2**31, 2**31, 1), (10**6, 1000, 100)])
def test_an_absurd_header_allocates_nothing(folder: Path, suffix: str, shape: tuple[int, int, int]) -> None:
    content = struct.pack(">4I", 0x803, *shape) + bytes(1000)
    (folder / IMAGES).unlink()
    (folder / (IMAGES + suffix)).write_bytes(gzip.compress(content) if suffix else content)
    assert "truncated: header promises" in refusal(folder)


def test_too_little_memory_is_said_before_reading(folder: Path) -> None:
    available = psutil.virtual_memory().available
    with (folder / IMAGES).open("wb") as file:  # sparse: the promise is kept, the memory is not there
        file.write(struct.pack(">4I", 0x803, 2 * available >> 20, 1 << 10, 1 << 10))
        file.truncate(16 + (2 * available >> 20 << 20))
    message = refusal(folder)
    assert message.startswith(f"cannot read {folder / IMAGES}: needs ")
    assert "GB of memory" in message


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        (IMAGES, b"", "the file is empty"),
        (IMAGES, b"\x1f\x8b\x08\x00" + bytes(20), "wrong magic number 0x1f8b0800"),
        (
            IMAGES,
            struct.pack(">4I", 0xD03, 1, 1, 1) + b"1",
            "wrong magic number 0x00000d03, expected 0x00000803 (images)",
        ),
        (LABELS, idx_bytes(grey(12)[0]), "wrong magic number 0x00000803, expected 0x00000801 (labels)"),
        (IMAGES, idx_bytes(grey(12)[0]) + b"x", "trailing bytes"),
        (IMAGES, struct.pack(">4I", 0x803, 0, 4, 3), "nothing in it"),
        (IMAGES, struct.pack(">4I", 0x803, 12, 0, 3), "nothing in it"),
        (LABELS, idx_bytes(grey(11)[1]), f"11 labels for the 12 images in {IMAGES}"),
        (LABELS, idx_bytes(np.full(12, 255, np.uint8)), "label 255 is out of range"),
        (IMAGES, idx_bytes(grey(12, 5, 3)[0]), "training images are (5, 3, 1), test images (4, 3, 1)"),
    ],
)
def test_malformed_files(folder: Path, name: str, content: bytes, expected: str) -> None:
    (folder / name).write_bytes(content)
    message = refusal(folder)
    assert message.startswith(f"cannot read {folder}")
    assert expected in message


@pytest.mark.parametrize("content", [b"not gzip at all", gzip.compress(idx_bytes(grey(12)[0])) + b"garbage"])
def test_bad_gzip(folder: Path, content: bytes) -> None:
    (folder / IMAGES).unlink()
    (folder / f"{IMAGES}.gz").write_bytes(content)
    assert "not a gzipped file" in refusal(folder).lower()


def test_wrong_checksum_of_gzip(folder: Path) -> None:
    packed = bytearray(gzip.compress(idx_bytes(grey(12)[0])))
    packed[-6] ^= 1
    (folder / IMAGES).unlink()
    (folder / f"{IMAGES}.gz").write_bytes(packed)
    assert "damaged: CRC check failed" in refusal(folder)


@pytest.mark.parametrize("name", [IMAGES, LABELS])
def test_missing_file(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert refusal(folder) == f"cannot read {folder}: {name} (or .gz) is missing"


def test_what_is_no_file(folder: Path) -> None:
    path = folder / IMAGES
    path.unlink()
    path.mkdir()
    assert refusal(folder) == f"cannot read {path}: it is a folder, not a file"
    path.rmdir()
    os.mkfifo(path)
    assert refusal(folder) == f"cannot read {path}: it is not a regular file"
    path.unlink()
    path.symlink_to(path)
    assert refusal(folder).startswith(f"cannot read {path}: ")
    path.unlink()
    path.symlink_to("nowhere")
    assert refusal(folder) == f"cannot read {path}: no such file or directory"


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable_file(folder: Path) -> None:
    (folder / IMAGES).chmod(0)
    assert refusal(folder) == f"cannot read {folder / IMAGES}: permission denied"


def test_denied_by_the_system(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(files, "open", denied, raising=False)
    assert refusal(folder) == f"cannot read {folder / IMAGES}: permission denied"
