"""Where profiles lie: the user's, one per host name, and the packaged ones, which fit every machine of their kind."""

import os
import platform
from pathlib import Path

from bptcnn.errors import UserError
from bptcnn.files import user_folder
from bptcnn.profiling.files import read_profile
from bptcnn.profiling.records import Profile


def user_profile_path() -> Path:
    """Return where this host's own profile is kept: in the user's data folder, under the host's name.

    Raises UserError where no such folder is known.
    """
    path = _user_path()
    if path is None:
        raise UserError("no home folder is known, which profiles are kept in: set HOME, or XDG_DATA_HOME")
    return path


def _user_path() -> Path | None:
    """Return where the profile is kept, None where no home folder is known."""
    folder = user_folder("XDG_DATA_HOME", ".local/share")
    host = (platform.node() or "localhost").replace(os.sep, "-")
    return None if folder is None else folder / "bptcnn" / "profiles" / f"{host}.toml"


def packaged_folder(package: Path = Path(__file__).parent.parent) -> Path:
    """Return the folder of packaged profiles: inside the installed package, or beside it in a checkout."""
    inside = package / "profiles"
    return inside if inside.is_dir() else package.parent / "profiles"


def find_profile() -> Profile | None:
    """Return the profile that belongs to this host: the user's, else a packaged one of the same CPU and cores.

    Raises UserError where the file is there and is no profile.
    """
    own = _user_path()
    if own is not None and os.path.exists(own):  # False, too, in a home that nobody may enter
        return read_profile(own)
    return matching_profile(packaged_folder())


def matching_profile(folder: Path) -> Profile | None:
    """Return the folder's first profile (by file name) of this CPU, vector unit and number of usable cores, or None."""
    from bptcnn.kernels.unit import UNIT
    from bptcnn.profiling.cores import usable_cores
    from bptcnn.profiling.host import cpu_name, microarchitecture

    here = (cpu_name(), microarchitecture(), UNIT.name, usable_cores())
    for path in sorted(folder.glob("*.toml")):
        profile = read_profile(path)
        host = profile.host
        if (host.cpu, host.microarchitecture, host.vector_unit, host.cores) == here:
            return profile
    return None
