"""Folders of a cache: compiled kernels, which are code, and samples. Nobody else may write what is read there.

Guarantee: each folder that `private_folder` returns, and each one above it up to the cache's root, is a folder and no
link, belongs to this user (or root), and cannot be written by others. Into the root, which may be a file system's top,
others may put what is their own where its sticky bit keeps them from replacing ours. `cache_layers` says which folders
are used.
"""

import contextlib
import os
import stat
from pathlib import Path

from bptcnn.errors import UserError
from bptcnn.files import modes_may_lack

_REMEDY = "set BPTCNN_CACHE_DIR to a folder of your own"
_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def private_folder(root: Path, *parts: str) -> Path:
    """Return the folder `parts` below `root`, made for this user alone where it is not there.

    Raises UserError where somebody else could put something into it, and OSError where it cannot be made.
    """
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = root.resolve()  # users may link their cache to a larger disk
    _close_to_group(folder)
    require_private(folder, is_root=True)
    for part in parts:
        folder /= part
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        _close_to_group(folder)
        require_private(folder)
    return folder


def _close_to_group(folder: Path) -> None:
    """Take a folder of this user's from its group: earlier versions made theirs by the umask, which may be 002.

    What is in there is looked at afterwards, when nobody else can add to it.
    """
    status = os.lstat(folder)
    own = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()
    if own and status.st_mode & _OTHERS == stat.S_IWGRP:
        with modes_may_lack():  # `require_private` says so
            folder.chmod(stat.S_IMODE(status.st_mode) & ~stat.S_IWGRP)


def require_own_files(folder: Path) -> None:
    """Raise UserError where a private folder holds a link, or what is another user's or can be written by others."""
    is_closed = not os.lstat(folder).st_mode & 0o077
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = os.path.join(place, name)
            with contextlib.suppress(FileNotFoundError):  # another process's temporary file
                status = os.lstat(path)
                is_own = status.st_uid in _trusted() and not stat.S_ISLNK(status.st_mode)
                if not is_own or (status.st_mode & _OTHERS and not is_closed):
                    why = "a link, another user's, or can be written by others"
                    raise UserError(f"{path} in the cache is {why}: remove it, or {_REMEDY}")


def require_private(folder: Path, is_root: bool = False) -> None:
    """Raise UserError where a folder is a link, another user's, or can be written by others.

    `is_root`: nothing but the folders of the cache is read in there.
    """
    status = os.lstat(folder)
    if not stat.S_ISDIR(status.st_mode):
        raise UserError(f"the cache folder {folder} is a link or no folder: remove it, or {_REMEDY}")
    if status.st_uid not in _trusted():
        raise UserError(f"the cache folder {folder} belongs to another user: {_REMEDY}")
    if status.st_mode & _OTHERS and not (is_root and status.st_mode & stat.S_ISVTX):
        raise UserError(f"the cache folder {folder} can be written by others: chmod go-w {folder}, or {_REMEDY}")


def require_lasting(folder: Path) -> None:
    """Raise UserError where others could put something else in the place of what is ours in a folder."""
    status = os.stat(folder)
    if status.st_uid not in _trusted() or (status.st_mode & _OTHERS and not status.st_mode & stat.S_ISVTX):
        raise UserError(f"others can rename what is in {folder}")


def _trusted() -> tuple[int, int]:
    return os.geteuid(), 0
