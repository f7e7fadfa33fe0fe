"""Files that appear whole or not at all."""

import contextlib
import os
import tempfile
from pathlib import Path

from bptcnn.errors import UserError


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a UTF-8 file: to a temporary one beside it, synced, then moved into place. Folders are created.

    Raises UserError where the place cannot be written.
    """
    target = Path(path)
    temporary = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name[:40]}-")
        with open(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, target)
        temporary = None
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror or error}") from None
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def _umask() -> int:
    """The umask can be read only by setting it, which other threads would see: Linux tells it in /proc."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("Umask:"):
            return int(line.split()[1], 8)
    return 0o022
