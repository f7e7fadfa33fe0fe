"""Versions of this program and of what it runs on."""

from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("numpy", "numba", "llvmlite", "numexpr", "typer", "rich", "safetensors", "psutil")


def own_version() -> str:
    """Return the installed version of bptcnn."""
    return package_version("bptcnn") or "from a source folder, not installed"


def package_version(name: str) -> str | None:
    """Return the installed version of a package, None where it is missing."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None
