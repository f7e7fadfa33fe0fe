"""The names of the sockets that an SSH connection forwards: private while they exist, and gone as soon as they can be.

On the coordinator's machine they lie in a folder that only its user may enter: below TMPDIR or, where that would make
names that ssh cannot forward, or that are too long for a socket, below /tmp. On a host sshd makes them, for its user
alone, and leaves them behind (it never removes them): the agent does, once it is connected. What a kill in between left
over is swept by the next one.
"""

import contextlib
import errno
import os
import secrets
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from bptcnn.errors import UserError
from bptcnn.files import kernel_text
from bptcnn.nodes.ssh import can_forward

_PREFIX = "bptcnn-"
_REMOTE_FOLDER = Path("/tmp")  # the one folder that every host has; names are drawn from 128 bits
_CONTROL, _DATA = ".control", ".data"
_FOLDERS = ("/tmp", "/var/tmp")  # where TMPDIR will not do
_MOST_BYTES = 107  # of a socket's path, the end of the string not counted
_MASTER, _DRAFT = "m", ".1234567890123456"  # ssh binds its socket under a longer name first
_LOOK_SECONDS = 0.02  # between looks for a socket that ssh makes
_SWEEP_SECONDS = 0.2  # a listener answers at once


def remote_names() -> tuple[str, str]:
    """Draw the paths of the control and the data socket on a host."""
    stem = os.fspath(_REMOTE_FOLDER / f"{_PREFIX}{secrets.token_hex(16)}")
    return stem + _CONTROL, stem + _DATA


def remove_names(paths: Sequence[str]) -> None:
    """Remove the names of an agent's sockets; they may be gone already."""
    for path in paths:
        with contextlib.suppress(OSError):
            os.unlink(path)


def sweep_remote(own: tuple[str, ...]) -> None:
    """Remove this user's forwarded sockets that nobody listens on, beside its `own`."""
    for path in _REMOTE_FOLDER.glob(f"{_PREFIX}*"):
        if path.suffix not in (_CONTROL, _DATA) or os.fspath(path) in own:
            continue
        with contextlib.suppress(OSError):  # another sweep came first
            if path.lstat().st_uid == os.getuid() and path.is_socket():
                _remove_if_dead(path)


def _remove_if_dead(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as tried:
        tried.settimeout(_SWEEP_SECONDS)
        try:
            tried.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink()


class LocalSockets:
    """Two listening sockets in a folder of their own."""

    def __init__(self) -> None:
        """Raise UserError where no folder will do, OSError where the system lacks descriptors."""
        self._folder = _private_folder()
        with contextlib.ExitStack() as undo:
            undo.callback(self.forget_names)
            self.control = undo.enter_context(socket.socket(socket.AF_UNIX))
            self.data = undo.enter_context(socket.socket(socket.AF_UNIX))
            for made, path in zip((self.control, self.data), self.paths(), strict=True):
                made.bind(path)
                made.listen()
            undo.pop_all()

    def close(self) -> None:
        """Let nobody in any more."""
        self.control.close()
        self.data.close()
        self.forget_names()

    def paths(self) -> tuple[str, str]:
        """Return the paths of the control and the data socket."""
        return os.fspath(self._folder / "c"), os.fspath(self._folder / "d")

    @property
    def master(self) -> str:
        """Where ssh may listen for `ssh.forward_command`."""
        return os.fspath(self._folder / _MASTER)

    def forget_names(self) -> None:
        """Remove the names: who is connected stays so, nobody else can come. Safe to call again."""
        shutil.rmtree(self._folder, ignore_errors=True)


@contextlib.contextmanager
def master_socket() -> Iterator[str]:
    """Yield a path where ssh may listen for `ssh.forward_command`."""
    folder = _private_folder()
    try:
        yield os.fspath(folder / _MASTER)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def wait_for_socket(path: str, deadline: float, given_up: Callable[[], bool]) -> bool:
    """Return whether ssh listens at a path before `deadline` (monotonic), or before `given_up` says so."""
    while not os.path.exists(path):
        if time.monotonic() > deadline or given_up():
            return False
        time.sleep(_LOOK_SECONDS)
    return True


def _private_folder() -> Path:
    """Make a folder for this process, of mode 0700, where a socket's name can be forwarded by ssh."""
    owner = f"{_PREFIX}{os.getpid()}-{_started(os.getpid())}-"
    tried = []
    for parent in dict.fromkeys((tempfile.gettempdir(), *_FOLDERS)):
        name = os.path.join(parent, f"{owner}12345678", _MASTER + _DRAFT)
        if not can_forward(name) or len(name) > _MOST_BYTES:
            tried.append(f"ssh cannot forward a socket in {parent}")
            continue
        _sweep_local(parent)
        try:
            return Path(tempfile.mkdtemp(prefix=owner, dir=parent))
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                raise
            tried.append(f"{parent}: {error.strerror or error}")
    raise UserError(f"no folder for the sockets of a host: {'; '.join(tried)}: set TMPDIR to one that is writable")


def _sweep_local(parent: str) -> None:
    for folder in Path(parent).glob(f"{_PREFIX}*-*-*"):
        pid, _, rest = folder.name.removeprefix(_PREFIX).partition("-")
        started = rest.rpartition("-")[0]
        with contextlib.suppress(FileNotFoundError):  # another sweep came first
            if pid.isdecimal() and folder.lstat().st_uid == os.getuid() and _started(pid) != started:
                shutil.rmtree(folder, ignore_errors=True)


def _started(pid: int | str) -> str | None:
    """When a process started, in clock ticks since boot, which no change of the clock moves; None if it is none."""
    try:
        return kernel_text(f"/proc/{pid}/stat").rpartition(")")[2].split()[19]
    except OSError:
        return None
