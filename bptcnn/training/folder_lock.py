"""The lock of a run folder: a file that only its owner can open, so that nobody who may read the folder can hold it.

The lock is the kernel's, on bytes of the open file (fcntl's F_OFD_SETLK, which NFS has, too): it ends with the process
that has it, however that ends. The file stays. Asking for the lock's holder takes nothing.
"""

import contextlib
import errno
import fcntl
import os
import stat
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bptcnn.errors import UserError
from bptcnn.files import modes_may_lack

LOCK = "lock"
_MODE = 0o600
_LAYOUT = "hhqqi4x"  # struct flock: type, whence, start, length, pid; the same on x86-64 and aarch64
_TAKEN = (errno.EAGAIN, errno.EACCES)


class InUse(UserError):
    """The folder is another run's."""


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; raise UserError where another process has it, or the folder cannot be written."""
    descriptor = _opened(folder)
    try:
        try:
            fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _request(fcntl.F_WRLCK))
        except OSError as error:
            if error.errno in _TAKEN:
                raise InUse(f"{folder} is in use by another run") from None
            remedy = "train with --run-dir on a file system that has locks"
            raise UserError(f"cannot lock the run folder {folder}: {error.strerror}; {remedy}") from None
        if not _is_current(descriptor, folder):
            raise InUse(f"{folder}: its lock was replaced just now: try again")
        yield
    finally:
        os.close(descriptor)


def is_locked(folder: Path) -> bool:
    """Whether a process on this machine has the lock; False, too, where the lock is another user's."""
    try:
        descriptor = os.open(folder / LOCK, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        answer = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, _request(fcntl.F_WRLCK))
        return bool(struct.unpack(_LAYOUT, answer)[0] != fcntl.F_UNLCK)
    except OSError:  # a file system without locks, on which nothing is held
        return False
    finally:
        os.close(descriptor)


def _opened(folder: Path) -> int:
    """Open the lock file, made where there is none; whatever came with somebody's folder, nobody else can open it."""
    try:
        descriptor = os.open(
            folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, _MODE
        )
    except OSError as error:
        raise UserError(f"cannot lock the run folder {folder}: {LOCK}: {error.strerror}") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:  # FUSE may count none
            raise UserError(f"cannot lock the run folder {folder}: {LOCK} is no file of its own: remove it")
        if stat.S_IMODE(status.st_mode) != _MODE:
            with contextlib.nullcontext() if _is_anothers(status, folder) else modes_may_lack():
                os.fchmod(descriptor, _MODE)
    except OSError as error:
        os.close(descriptor)
        raise UserError(f"cannot lock the run folder {folder}: {LOCK}: {error.strerror}") from None
    except UserError:
        os.close(descriptor)
        raise
    return descriptor


def _is_anothers(status: os.stat_result, folder: Path) -> bool:
    """Whether a file in the folder is another user's, and not all files there are one user's, as on CIFS."""
    if status.st_uid == os.geteuid():
        return False
    with tempfile.TemporaryFile(dir=folder) as ours:
        return os.fstat(ours.fileno()).st_uid == os.geteuid()


def _is_current(descriptor: int, folder: Path) -> bool:
    """Whether the open file is still the folder's lock: removed or replaced, it would keep nobody out."""
    try:
        there, here = os.stat(folder / LOCK, follow_symlinks=False), os.fstat(descriptor)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise UserError(f"cannot lock the run folder {folder}: {LOCK}: {error.strerror}") from None
    return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)


def _request(kind: int) -> bytes:
    return struct.pack(_LAYOUT, kind, os.SEEK_SET, 0, 0, 0)
