"""What is compiled for this host: the vector unit in use, and the cache of compiled kernels."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from bptcnn.cache_layers import Trouble
from bptcnn.kernels.compilation import KERNEL_BYTES, kernel_cache, warm_folder
from bptcnn.kernels.unit import UNIT, available_units


@dataclass(frozen=True)
class CompileCache:
    """Where compiled kernels are, whether all are there, whether more can be added, and how many bytes are free there.

    `trouble`: why they are not, or would not go, where they belong.
    """

    folder: Path
    warm: bool
    writable: bool
    free: int
    trouble: Trouble | None


def compile_cache() -> CompileCache:
    """Return the state of this version's cache, as the next run finds it; its folder is made if need be.

    Raises UserError where kernels can be kept nowhere, or others could write into the folder.
    """
    cache, warm = kernel_cache(), warm_folder()
    folder = warm or cache.reserve(KERNEL_BYTES)
    if warm and warm != cache.folders[0]:
        cache.reserve(KERNEL_BYTES)  # finds out why
    free = shutil.disk_usage(folder).free
    return CompileCache(folder, warm is not None, os.access(folder, os.W_OK), free, cache.trouble)


def vector_units() -> tuple[str, list[str]]:
    """Return the vector unit in use, and all that this CPU has, the best first."""
    return UNIT.name, available_units()
