"""Files that appear whole or not at all, on file systems that may know less than Linux's own.

CIFS, FAT, drvfs and many of FUSE's have no modes to change, some nothing to flush for a folder: what such a system
refuses as unknown is left as it has it. Every other failure is told, as UserError.
"""

import contextlib
import errno
import glob
import os
import pwd
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bptcnn.errors import UserError

_UNKNOWN_MODES = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS)
_NO_FLUSHING = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)  # of folders


def write_atomically(path: str | os.PathLike[str], content: bytes | str) -> None:
    """Write a file as `replace_file` does, text as UTF-8; raise UserError where that fails."""
    try:
        replace_file(Path(path), content.encode() if isinstance(content, str) else content)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from None


def replace_file(target: Path, content: bytes) -> None:
    """Write a file: to a temporary one beside it, flushed to the disk, then moved into place.

    Raises OSError where that fails. Whatever happens, what was at `target` before stays until the new file is whole.
    """
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=_draft_prefix(target))
        with open(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        with modes_may_lack():
            os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, target)
        temporary = None
        sync(target.parent)  # else a power cut may bring back the file that was there before
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def user_folder(variable: str, below_home: str) -> Path | None:
    """Return the user's folder that a variable names, else one below the home folder; None where that is not known.

    As in the XDG base directory specification: a relative path in the variable does not count.
    """
    folder = os.environ.get(variable, "")
    if not os.path.isabs(folder):
        folder = os.path.join(_home(), below_home)
    return Path(folder) if os.path.isabs(folder) else None


def _home() -> str:
    """Return the home folder, "" where none is known; an empty HOME is none."""
    if os.environ.get("HOME"):
        return os.environ["HOME"]
    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        return ""


def is_file(path: str | os.PathLike[str]) -> bool:
    """Whether there is a file; raise UserError where nobody can know: not allowed, or the file system is gone."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: what no file can be called
        return False
    except OSError as error:
        raise UserError(f"cannot read {Path(path)}: {error.strerror or error}") from None


def kernel_text(path: str | os.PathLike[str]) -> str:
    """Return what the kernel tells in a file of /proc or /sys; OSError where it does not.

    Names of programs and folders are in there, any bytes (a program's is cut at 15): as `os.fsdecode` has them.
    """
    return os.fsdecode(Path(path).read_bytes())


@contextlib.contextmanager
def modes_may_lack() -> Iterator[None]:
    """Within, a file's mode is set, which stays as it is where the file system has none to set."""
    try:
        yield
    except OSError as error:
        if error.errno not in _UNKNOWN_MODES:
            raise


def make_folder(path: str | os.PathLike[str]) -> list[Path]:
    """Make a folder and those above it that are missing, so that they outlive a power cut; OSError where that fails.

    Return what was missing, the folder itself first.
    """
    missing = missing_folders(path)
    Path(path).mkdir(parents=True, exist_ok=True)
    for made in missing:
        sync(made.parent)
    return missing


def missing_folders(path: str | os.PathLike[str]) -> list[Path]:
    """Return a folder and those above it, as far as there is nothing, the lowest first."""
    return [place for place in (Path(path), *Path(path).parents) if not os.path.lexists(place)]


def sync(path: str | os.PathLike[str]) -> None:
    """Have a file's content, or the names in a folder, on the disk; raise OSError where that fails."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FLUSHING:
            raise
    finally:
        os.close(descriptor)


def remove_drafts(path: str | os.PathLike[str]) -> None:
    """Remove temporary files that writers of this file have left when they were killed; nobody may be writing it."""
    target = Path(path)
    for draft in target.parent.glob(f"{glob.escape(_draft_prefix(target))}*"):
        with contextlib.suppress(OSError):
            draft.unlink()


def _draft_prefix(target: Path) -> str:
    return f".{target.name[:40]}-"


def _umask() -> int:
    """The umask can be read only by setting it, which other threads would see: Linux tells it in /proc."""
    for line in kernel_text("/proc/self/status").splitlines():
        if line.startswith("Umask:"):
            return int(line.split()[1], 8)
    return 0o022
