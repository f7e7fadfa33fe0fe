"""The digest of samples and their cache: what is stored is found, and nothing else is stored."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_files import fresh
from hypothesis import given
from hypothesis import strategies as st
from stored import described, left, same, some, store

from bptcnn.data import SampleCache, Samples, content, digest, split_validation
from bptcnn.errors import UserError

# ---- digest ----------------------------------------------------------------------------------------------------------


def test_the_digest_is_of_header_images_labels() -> None:
    for floats, kind in ((False, "|u1"), (True, "<f4")):
        samples = some(5, floats=floats)
        wanted = hashlib.sha256(f"bptcnn samples {kind} 5x4x3x2 <i4 5\n".encode())
        wanted.update(samples.images.tobytes() + samples.labels.tobytes())
        assert digest(samples) == wanted.hexdigest()


def test_the_digest_depends_on_everything_but_the_layout(tmp_path: Path) -> None:
    samples = some()
    name = digest(samples)
    assert digest(Samples(samples.images.copy(), np.repeat(samples.labels, 2)[::2])) == name
    np.save(tmp_path / "images.npy", samples.images)
    assert digest(Samples(np.load(tmp_path / "images.npy", mmap_mode="r"), samples.labels)) == name
    pixel, label = samples.images.copy(), samples.labels.copy()
    pixel[4, 3, 2, 1] ^= 1
    label[4] += 1
    others = [
        Samples(pixel, samples.labels),
        Samples(samples.images, label),
        Samples(samples.images.reshape(5, 3, 4, 2), samples.labels),
        samples.take(range(4)),
        samples.take([1, 0, 2, 3, 4]),
        some(floats=True),
        some(0),
    ]
    assert len({name, *map(digest, others)}) == 1 + len(others)


# ---- storing and finding ---------------------------------------------------------------------------------------------


@given(st.integers(0, 9), st.booleans(), st.lists(st.integers(0, 300), max_size=8), st.integers(0, 99))
def test_what_is_stored_in_any_pieces_is_found(n: int, floats: bool, cuts: list[int], seed: int) -> None:
    samples = some(n, seed, floats)
    whole = samples.images.tobytes() + samples.labels.tobytes()
    with fresh() as folder:
        cache = SampleCache(folder / "deep" / "samples")
        name = digest(samples)
        assert cache.get(name) is None
        with cache.writer(name, *described(samples)) as writer:
            begin = 0
            for end in [*sorted(min(cut, len(whole)) for cut in cuts), len(whole)]:
                writer.append(whole[begin:end])
                begin = end
            assert SampleCache(cache.folder).get(name) is None  # not before it is whole
        assert same(SampleCache(cache.folder).get(name), samples)
        assert left(cache) == [name]


def test_found_samples_are_maps_that_work_as_samples_do(tmp_path: Path) -> None:
    cache, samples = SampleCache(tmp_path), some(20)
    found = cache.get(store(cache, samples))
    assert found is not None
    for array in (found.images, found.labels):
        assert isinstance(array.base, np.memmap)
        assert not array.flags.writeable
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0
    assert len(found) == 20
    assert found.input_shape == (4, 3, 2)
    taken = found.take([3, 3, 1])
    assert same(taken, samples.take([3, 3, 1]))
    assert taken.images.flags.writeable
    assert [len(part) for part in split_validation(found, 0.25, 0)] == [15, 5]
    assert Samples.of(found.images, found.labels).images.base is not None


def test_samples_in_use_stay_when_their_entry_goes(tmp_path: Path) -> None:
    cache, samples = SampleCache(tmp_path), some()
    name = store(cache, samples)
    found = cache.get(name)
    shutil.rmtree(tmp_path / name)
    assert same(found, samples)


def test_storing_again_changes_nothing(tmp_path: Path) -> None:
    cache, samples = SampleCache(tmp_path), some()
    name = store(cache, samples)
    inode = (tmp_path / name).stat().st_ino
    store(cache, samples)
    assert (tmp_path / name).stat().st_ino == inode
    assert left(cache) == [name]


def test_where_the_cache_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BPTCNN_CACHE_DIR", str(tmp_path / "mine"))
    assert SampleCache().folder == tmp_path / "mine" / "samples"
    monkeypatch.delenv("BPTCNN_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    assert SampleCache().folder == tmp_path / "user" / "bptcnn" / "samples"


@pytest.mark.parametrize("name", ["", "..", "../" + "a" * 61, "A" * 64, "a" * 63, "a" * 65, "a" * 64 + "\n"])
def test_what_is_no_digest_names_no_entry(tmp_path: Path, name: str) -> None:
    cache = SampleCache(tmp_path)
    with pytest.raises(ValueError, match="no SHA-256"):
        cache.get(name)
    with pytest.raises(ValueError, match="no SHA-256"), cache.writer(name, *described(some())):
        pass
    assert left(cache) == []


# ---- bytes that are not the samples ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda whole: whole[:-1], "1 bytes early"),
        (lambda whole: b"", "140 bytes early"),
        (lambda whole: whole + b"x", "141 bytes, 140 are missing"),
        (lambda whole: b"x" + whole[1:], "other samples"),
        (lambda whole: whole[:-1] + b"x", "other samples"),
    ],
)
def test_other_bytes_are_not_stored(tmp_path: Path, change: Callable[[bytes], bytes], expected: str) -> None:
    cache, samples = SampleCache(tmp_path), some()
    whole = change(samples.images.tobytes() + samples.labels.tobytes())
    with pytest.raises(ValueError, match=expected), cache.writer(digest(samples), *described(samples)) as writer:
        writer.append(whole)
    assert left(cache) == []


@pytest.mark.parametrize(
    "arrays",
    [
        (np.float64, (5, 4, 3, 2), np.int32, (5,)),
        (np.uint8, (5, 4, 3), np.int32, (5,)),
        (np.uint8, (-5, 4, -3, 2), np.int32, (-5,)),
        (np.uint8, (5, 4, 3, 2), np.int64, (5,)),
        (np.uint8, (5, 4, 3, 2), np.int32, (6,)),
        (np.uint8, (5, 4, 3, 2), np.int32, (5, 1)),
    ],
)
def test_what_cannot_be_samples_is_not_stored(tmp_path: Path, arrays: Any) -> None:
    cache = SampleCache(tmp_path)
    with pytest.raises(ValueError, match="cannot be"), cache.writer("a" * 64, *arrays):
        pass
    assert left(cache) == []


@pytest.mark.parametrize("error", [ConnectionResetError(104, "reset"), KeyboardInterrupt(), UserError("mine")])
def test_an_error_while_writing_passes_and_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    cache, samples = SampleCache(tmp_path), some()

    def write() -> None:
        with cache.writer(digest(samples), *described(samples)) as writer:
            writer.append(samples.images)
            raise error

    with pytest.raises(type(error)) as caught:
        write()
    assert caught.value is error
    assert left(cache) == []


# ---- size ------------------------------------------------------------------------------------------------------------


def test_what_was_not_used_for_longest_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = SampleCache(tmp_path)
    names = [store(cache, some(seed=seed)) for seed in range(4)]
    size = sum(file.stat().st_size for file in (tmp_path / names[0]).iterdir())
    for age, name in enumerate(reversed(names)):
        os.utime(tmp_path / name, (1e9 - age, 1e9 - age))  # the first is the oldest
    assert cache.get(names[0]) is not None  # and now the newest
    monkeypatch.setattr(content, "LARGEST", 3 * size)
    newest = store(cache, some(seed=9))
    assert left(cache) == sorted([names[0], names[3], newest])
    monkeypatch.setattr(content, "LARGEST", size - 1)
    last = store(cache, some(seed=10))
    assert left(cache) == [last]
    assert cache.get(last) is not None


def test_other_files_are_not_the_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "notes.txt").write_bytes(b"x" * 1000)
    (tmp_path / ".writing-odd").mkdir()
    monkeypatch.setattr(content, "LARGEST", 1)
    cache = SampleCache(tmp_path)
    name = store(cache, some())
    assert left(cache) == sorted([name, "notes.txt", ".writing-odd"])
