"""Where the cache lies: the user's folder first, then a spare one among temporary files.

    $BPTCNN_CACHE_DIR, or $XDG_CACHE_HOME/bptcnn, or ~/.cache/bptcnn
    $TMPDIR/bptcnn-cache-UID, then the same in /var/tmp and /dev/shm: for what the first one cannot take

All of them are read, and what is new goes to the first that takes it. So a cache that is full, or that an administrator
has filled for everybody, serves with all that it has; and every process of a run, agents too, finds what another one
has stored, without being told where.

A spare folder is this user's alone, in a folder where nobody else can put another one in its place.
"""

import contextlib
import errno
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from bptcnn.caches import private_folder, require_lasting, require_own_files, require_private
from bptcnn.errors import UserError
from bptcnn.files import user_folder

T = TypeVar("T")
_SET = "set BPTCNN_CACHE_DIR to a folder of your own"
_FULL = " is full"
_MEMORY = Path("/dev/shm")


def wanted_root() -> Path | None:
    """Return the folder that caches belong in, whether it is there or not; None where no home folder is known."""
    chosen = os.environ.get("BPTCNN_CACHE_DIR")
    if chosen:
        return Path(os.path.abspath(os.path.expanduser(chosen)))
    base = user_folder("XDG_CACHE_HOME", ".cache")
    return None if base is None else base / "bptcnn"


def spare_roots() -> list[Path]:
    """Return where spare folders may be, whether they are there or not."""
    parents = (Path(temporary_folder()), Path("/var/tmp"), _MEMORY)
    return [parent / f"bptcnn-cache-{os.geteuid()}" for parent in dict.fromkeys(parents)]


def temporary_folder() -> str:
    """Return the folder that temporary files are for, whether it is there or not."""
    return os.path.abspath(os.environ.get("TMPDIR") or "/tmp")


@dataclass(frozen=True)
class Trouble:
    """Why a cache is not where it belongs, and what to do about that; as a text both in a line."""

    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.what}; {self.remedy}"


class CacheLayers:
    """The folders `parts` of the cache, the user's first: read in that order, written where there is room."""

    def __init__(self, *parts: str, in_memory: bool = True) -> None:
        """Raise UserError where somebody else could put something into the user's folder.

        `in_memory`: they are so small that the machine's memory may hold them.
        """
        self._parts = parts
        self._made: dict[Path, Path] = {}  # of a root: its folder, looked at
        self._reasons: dict[Path | None, str] = {}  # of a root: why it takes nothing
        wanted = wanted_root()
        self._wanted = wanted
        self._spare = [root for root in spare_roots() if in_memory or root.parent != _MEMORY]
        if wanted is None:
            self._reasons[None] = _no_home()
        else:
            try:
                self._folder(wanted)
            except OSError as error:
                self._reasons[wanted] = _why(wanted, error)
        for root in self._spare:
            if os.path.isdir(root.joinpath(*parts)):
                with contextlib.suppress(OSError, UserError):  # said when something is to be stored there
                    self._folder(root)

    @property
    def folders(self) -> tuple[Path, ...]:
        """The folders that are there, in the order in which they are read."""
        return tuple(self._made.values())

    @property
    def trouble(self) -> Trouble | None:
        """Why what is new does not go to the user's folder; None where it does, as far as was tried."""
        if self._wanted not in self._reasons:
            return None
        left = [root for root in self._spare if root not in self._reasons]
        left.sort(key=lambda root: root not in self._made)  # one that is there is used before another one is made
        kept = f"kept in {left[0]}, and made anew at each start where that is gone" if left else "not kept"
        return Trouble(f"{self._reasons[self._wanted]}: {self._parts[0]} are {kept}", self._remedy())

    def find(self, name: str) -> Path | None:
        """Return the first file of that name, or None."""
        return next((folder / name for folder in self.folders if (folder / name).is_file()), None)

    def store(self, put: Callable[[Path], T]) -> T:
        """Call `put` with the first folder where it raises no OSError, and return what it does.

        A folder where it did is not asked again. Raises UserError where none is left.
        """
        for root in (self._wanted, *self._spare):
            if root is None or root in self._reasons:
                continue
            try:
                return put(self._folder(root))
            except OSError as error:
                self._reasons[root] = _why(root, error)
            except UserError as error:  # a spare folder that is not ours
                self._reasons[root] = str(error)
        why = "; ".join(self._reasons.values())
        raise UserError(f"{self._parts[0]} can be stored nowhere: {why}; {self._remedy()}")

    def reserve(self, size: int) -> Path:
        """Return the first folder that has room for `size` bytes; raise UserError where none has."""

        def tried(folder: Path) -> Path:
            with tempfile.TemporaryFile(dir=folder) as file:
                os.posix_fallocate(file.fileno(), 0, size)  # a quota shows in this way only
            return folder

        return self.store(tried)

    def _folder(self, root: Path) -> Path:
        if root not in self._made:
            if root in self._spare:
                _make_spare(root)
            folder = private_folder(root, *self._parts)
            require_own_files(folder)
            self._made[root] = folder
        return self._made[root]

    def _remedy(self) -> str:
        if self._wanted is None:
            return f"set HOME, or {_SET}"
        if self._reasons[self._wanted].endswith(_FULL):
            return f"free some space, or {_SET}"
        return _SET


def _make_spare(root: Path) -> None:
    """Make a spare root; raise UserError where it is another user's, or can be replaced by another one."""
    require_lasting(root.parent)
    with contextlib.suppress(FileExistsError):
        root.mkdir(mode=0o700)
    require_private(root)  # the folder itself, and not what a link leads to


def _why(root: Path, error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the cache folder {root}{' (by its quota)' if error.errno == errno.EDQUOT else ''}{_FULL}"
    return f"the cache folder {root} cannot be written ({(error.strerror or str(error)).lower()})"


def _no_home() -> str:
    if os.environ.get("HOME"):
        return f"HOME is no absolute path ({os.environ['HOME']})"
    return f"no home folder is known: HOME is not set, and user {os.geteuid()} has no entry in /etc/passwd"
