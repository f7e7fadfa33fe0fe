"""Targets whose inputs are files or packets of text: mutated as values before they are written, or as bytes after."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fuzz.harness import Target, line
from fuzz.mutation import mutated, scrambled

Writer = Callable[[Any, random.Random | None], str]


@dataclass
class Texts(Target):
    """`seeds` are plain values or bytes; `takes` raises one of `refusals` for what is not to be taken."""

    seeds: Sequence[Any]
    write: Writer
    takes: Callable[[bytes], object]
    refusals: tuple[type[Exception], ...]

    def valid(self) -> Sequence[Any]:
        return [seed if isinstance(seed, bytes) else encoded(self.write(seed, None)) for seed in self.seeds]

    def draw(self, draw: random.Random) -> bytes:
        seed = draw.choice(self.seeds)
        if isinstance(seed, bytes):
            return scrambled(seed, draw)
        structural = draw.random() < 0.8
        text = encoded(self.write(mutated(seed, draw) if structural else seed, draw))
        return text if structural and draw.random() < 0.9 else scrambled(text, draw)

    def take(self, given: bytes) -> str | None:
        try:
            self.takes(given)
        except self.refusals as error:
            return line(error)
        return None


def encoded(text: str) -> bytes:
    """Lone surrogates included: then it is no UTF-8."""
    return text.encode("utf-8", "surrogatepass")


def in_file(path: Path, read: Callable[[Path], object]) -> Callable[[bytes], object]:
    """Return what writes bytes to a file and has that read."""

    def takes(content: bytes) -> object:
        path.write_bytes(content)
        return read(path)

    return takes
