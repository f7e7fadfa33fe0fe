"""Libraries are imported with settings of our own, whatever the user's variables say.

A notebook sets MPLBACKEND for itself, a batch system OMP_NUM_THREADS=4,2: meant for other programs, read by libraries
as they are imported, and an exception there.
"""

import contextlib
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

from bptcnn.cache_layers import CacheLayers


@contextlib.contextmanager
def variables(hidden: tuple[str, ...] = (), **own: str) -> Iterator[None]:
    """Within, the environment has `own` and nothing that begins with one of `hidden`; afterwards it is as before."""
    before = {name: value for name, value in os.environ.items() if name.startswith(hidden) or name in own}
    for name in before:
        del os.environ[name]
    os.environ.update(own)
    try:
        yield
    finally:
        for name in [name for name in os.environ if name.startswith(hidden) or name in own]:
            del os.environ[name]
        os.environ.update(before)


def without_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables for a program of ours: those without what libraries read that many modules import.

    Numpy does not start with some values, and typer answers a shell instead of running the command.
    """
    width = environment.get("TERMINAL_WIDTH", "")
    return {
        name: value
        for name, value in environment.items()
        if not name.startswith(_LIBRARIES) and (name != "TERMINAL_WIDTH" or width.isdecimal())
    }


def import_numexpr() -> Any:
    """Return the module, with one thread: it is used for small things only, and others may not be had."""
    with variables(("NUMEXPR_", "OMP_NUM_THREADS"), NUMEXPR_NUM_THREADS="1"):
        return import_module("numexpr")


def import_numba() -> Any:
    """Return the module, imported with its defaults, whatever a .numba_config.yaml in the current folder says, too."""
    if "numba" not in sys.modules:
        with variables(("NUMBA_",)), _away_from(".numba_config.yaml"):
            import_module("numba")
    return sys.modules["numba"]


def import_matplotlib() -> None:
    """Import the module with its defaults, whatever variables and a matplotlibrc in the current folder or home say.

    It keeps its list of fonts in our cache, and prints no notices. Where the user has imported it already, it stays as
    it is. Raises UserError where there is no folder for it.
    """
    if "matplotlib" in sys.modules:
        return
    folder = CacheLayers("matplotlib").reserve(_FONT_LIST)
    with variables(("MPL", "MATPLOTLIB"), MPLCONFIGDIR=str(folder)), _away_from("matplotlibrc"):
        logging.getLogger("matplotlib").setLevel(logging.ERROR)
        import_module("matplotlib.figure")


@contextlib.contextmanager
def _away_from(file: str) -> Iterator[None]:
    """Be in another current folder, where this one has such a file: other threads would notice, so only then."""
    if not os.path.lexists(file):
        yield
        return
    here = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.chdir(os.path.dirname(__file__))
        yield
    finally:
        os.fchdir(here)
        os.close(here)


_LIBRARIES = ("NPY_", "NUMPY_", "TYPER_", "_TYPER_", "_BPTCNN_COMPLETE")
_FONT_LIST = 1 << 20  # bytes: a description of some hundred fonts
