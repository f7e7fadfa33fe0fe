"""Data files: IDX, CIFAR-10's binary files and .npz, plain and compressed."""

import random
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from data.data_files import grey, write_cifar, write_idx
from fuzz.harness import Kind, Target, line
from fuzz.mutation import scrambled

from bptcnn.data import load
from bptcnn.errors import UserError


class DataSets(Target):
    """A good data set in which one file is damaged."""

    def __init__(self, folder: Path) -> None:
        self._seeds, self._place = folder / "seeds", folder / "data"
        for name, gz in (("idx", False), ("gz", True)):
            (self._seeds / name).mkdir(parents=True)
            write_idx(self._seeds / name, grey(20), grey(10), gz=gz)
        (self._seeds / "cifar").mkdir()
        images = np.arange(10 * 32 * 32 * 3, dtype=np.uint32).astype(np.uint8).reshape(10, 32, 32, 3)
        labels = np.arange(10, dtype=np.uint8)
        write_cifar(self._seeds / "cifar", images, labels, (images, labels))
        for name, save in (("npz", np.savez), ("npz2", np.savez_compressed)):
            (self._seeds / name).mkdir()
            (x, y), (tx, ty) = grey(20), grey(10)
            save(self._seeds / name / "set.npz", x_train=x, y_train=y, x_test=tx, y_test=ty)  # type: ignore[operator]

    def valid(self) -> Sequence[tuple[str, str, bytes | None]]:
        return [(folder.name, "", None) for folder in sorted(self._seeds.iterdir())]

    def draw(self, draw: random.Random) -> tuple[str, str, bytes | None]:
        folder = draw.choice(sorted(self._seeds.iterdir()))
        file = draw.choice(sorted(folder.iterdir()))
        content = file.read_bytes()
        head = draw.randint(1, 64)  # most of what can go wrong stands at the beginning, in .npz also at the end
        match draw.randrange(3):
            case 0:
                return folder.name, file.name, scrambled(content[:head], draw) + content[head:]
            case 1:
                return folder.name, file.name, content[:-300] + scrambled(content[-300:], draw)
            case _:
                return folder.name, file.name, scrambled(content, draw)

    def take(self, given: tuple[str, str, bytes | None]) -> str | None:
        name, file, content = given
        shutil.rmtree(self._place, ignore_errors=True)
        shutil.copytree(self._seeds / name, self._place)
        if content is not None:
            (self._place / file).write_bytes(content)
        try:
            dataset = load(self._place / "set.npz" if name.startswith("npz") else self._place)
        except UserError as error:
            return line(error)
        for part in (dataset.train, dataset.test):
            assert len(part.images) == len(part.labels)
            assert part.images.ndim == 4
            assert 0 <= part.labels.min() <= part.labels.max() < dataset.classes
        return None

    def describe(self, given: tuple[str, str, bytes | None]) -> str:
        return f"{given[0]}/{given[1]}: {given[2]!r}"


@contextmanager
def _open(folder: Path) -> Iterator[Target]:
    yield DataSets(folder)


KINDS = (Kind("data-set", 50, _open),)
