"""Running `bptcnn` among mounts of its own (small disks, read-only ones), also as a user that the system lacks."""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp

import pytest
from programs import COMMAND, ROOT, TIMEOUT_SECONDS, Ended, environment

from bptcnn.kernels.compilation import kernel_cache
from bptcnn.training import Observer, prepare_kernels

UNKNOWN_USER = 54321
_SPARE_FOLDERS = ("/var/tmp", "/dev/shm")


@contextmanager
def open_folder() -> Iterator[Path]:
    """Make a folder that every user can reach; pytest's own ones are closed."""
    folder = Path(mkdtemp(prefix="bptcnn-mounts-", dir="/tmp"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def warm_cache(root: Path, user: int = 0) -> Path:
    """Make a cache that has all kernels, as a process of this user would; return it."""
    prepare_kernels(Observer())
    folder = kernel_cache().folders[0]
    shutil.copytree(folder, root / "kernels" / folder.name)
    for place in (root, *root.rglob("*")):
        os.chown(place, user, user)
        place.chmod(0o700 if place.is_dir() else 0o644)
    return root


def bptcnn_among(
    mounts: Sequence[str],
    *arguments: str | Path,
    folder: Path,
    variables: Mapping[str, str | None],
    user: int | None = None,
) -> Ended:
    """Run `bptcnn` in `folder`, after these shell commands have changed mounts that nobody else sees.

    `variables`: those that differ from the tests'; None: not set. TMPDIR is `folder`/tmp unless it is among them.
    """
    if os.geteuid() or not shutil.which("unshare") or not shutil.which("setpriv"):
        pytest.skip("mounts of its own need root, unshare and setpriv")
    (folder / "tmp").mkdir(exist_ok=True)
    (folder / "tmp").chmod(0o1777)
    tiny = [f"mount -t tmpfs -o size=64k,mode=1777 none {place}" for place in _SPARE_FOLDERS if Path(place).is_dir()]
    command = [*map(str, COMMAND), *map(str, arguments)]
    if user is not None:
        command = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", *command]
    script = "\n".join(
        ["set -e", *tiny, *(_reachable(folder) if user else ()), *mounts, f"cd {folder}", f"exec {shlex.join(command)}"]
    )
    values = {**environment(), "TMPDIR": str(folder / "tmp"), **variables}
    run = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script],
        cwd=folder,
        env={name: value for name, value in values.items() if value is not None},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
    )
    if run.stderr.startswith(("unshare:", "mount:")):
        pytest.skip(f"no mounts can be made here: {run.stderr.strip()}")
    return Ended(run.returncode, run.stdout, run.stderr)


def _reachable(folder: Path) -> list[str]:
    """Return commands that let every user reach Python, where it lies below a closed home folder."""
    commands = []
    for number, place in enumerate(dict.fromkeys((sys.base_prefix, sys.prefix, str(ROOT)))):
        closed = [parent for parent in Path(place).parents if not parent.stat().st_mode & 0o001]
        if closed:
            kept = folder / f"kept-{number}"
            kept.mkdir(exist_ok=True)
            commands += [
                f"mount --bind {place} {kept}",
                f"mount -t tmpfs -o mode=755 none {closed[-1]}",
                f"mkdir -p {place}",
                f"mount --bind {kept} {place}",
            ]
    return commands
