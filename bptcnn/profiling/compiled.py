"""What is compiled for this host: the vector unit in use, and the cache of compiled kernels."""

import os
from dataclasses import dataclass
from pathlib import Path

from bptcnn.kernels.compilation import cache_folder, is_warm
from bptcnn.kernels.unit import UNIT, available_units


@dataclass(frozen=True)
class CompileCache:
    """Where compiled kernels are kept, whether all are there, and whether new ones can be added."""

    folder: Path
    warm: bool
    writable: bool


def compile_cache() -> CompileCache:
    """Return the state of this version's cache; its folder is made if need be."""
    folder = cache_folder()
    return CompileCache(folder, is_warm(), os.access(folder, os.W_OK))


def vector_units() -> tuple[str, list[str]]:
    """Return the vector unit in use, and all that this CPU has, the best first."""
    return UNIT.name, available_units()
