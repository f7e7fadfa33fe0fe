"""The layout's rules: imports point downwards only and are lazy, files stay short, every folder says what it is."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = ("bptcnn_cli", "training", "nodes", "profiling", "outer", "data", "memory", "inner", "networks", "kernels")
"""From the top: a folder may import from those after it."""

NARROWER: dict[str, set[str]] = {
    "outer": set(),
    "data": set(),
    "memory": {"kernels"},
    "networks": set(),
    "kernels": set(),
    "bptcnn_cli": set(LAYERS) - {"kernels"},
}
"""Folders that may import from fewer; everybody may import what is SHARED."""

SHARED = (
    "bptcnn.available",
    "bptcnn.cache_layers",
    "bptcnn.caches",
    "bptcnn.descriptors",
    "bptcnn.errors",
    "bptcnn.files",
    "bptcnn.names",
    "bptcnn.own_settings",
    "bptcnn.precision",
    "bptcnn.python_files",
    "bptcnn.rates",
    "bptcnn.standing_still",
    "bptcnn.threads",
    "bptcnn.untrusted",
    "bptcnn.version",
)
"""What every folder may import; it may import itself only."""

MOST_LINES = 450
SOURCES = sorted([*(ROOT / "bptcnn").rglob("*.py"), *(ROOT / "cli").rglob("*.py")])
FOLDERS = sorted({source.parent for source in SOURCES} - {ROOT / "cli"})


@dataclass(frozen=True)
class Import:
    """`source` imports `module` (absolute, dotted) in `line`."""

    source: Path
    line: int
    module: str

    def __str__(self) -> str:
        return f"{self.source.relative_to(ROOT)}:{self.line} imports {self.module}"


def module_name(source: Path) -> str:
    """Return the dotted name that a source file is imported by; a package's own name for its __init__."""
    base = ROOT / "cli" if ROOT / "cli" in source.parents else ROOT
    parts = source.relative_to(base).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(source: Path) -> Iterator[Import]:
    """Yield all imports of a file, those in functions too; `from a import b` counts as a.b where that is a module."""
    package = module_name(source).split(".")
    if source.name != "__init__.py":
        package = package[:-1]
    for node in ast.walk(ast.parse(source.read_text(), str(source))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(source, node.lineno, alias.name)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, node.module] if node.module else above)
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                yield Import(source, node.lineno, whole if whole in MODULES else base)


MODULES = {module_name(source) for source in SOURCES}


def layer(module: str) -> str | None:
    """Return the folder that a module of ours lies in: "" for `bptcnn`, None for what is SHARED or not ours."""
    parts = module.split(".")
    if parts[0] == "bptcnn_cli":
        return "bptcnn_cli"
    if parts[0] != "bptcnn" or module in SHARED:
        return None
    return parts[1] if len(parts) > 1 else ""


def allowed(folder: str) -> set[str]:
    """Return the folders that files in `folder` may import from, their own included."""
    below = set(LAYERS[LAYERS.index(folder) + 1 :])
    return (below & NARROWER.get(folder, below)) | {folder}


def test_every_folder_has_its_place() -> None:
    found = {layer(module_name(source)) for source in SOURCES} - {None, ""}
    assert found <= set(LAYERS), "a new folder: give it its place in LAYERS"
    assert "kernels" in found


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: str(source.relative_to(ROOT)))
def test_imports_point_downwards(source: Path) -> None:
    own = layer(module_name(source))
    if own is None or own == "":  # bptcnn/__init__.py offers all of them
        assert own == "" or not [found for found in imports(source) if layer(found.module) is not None]
        return
    permitted = allowed(own)
    if own == "bptcnn_cli":
        permitted = permitted | {""}  # the public package
    wrong = [str(found) for found in imports(source) if layer(found.module) not in permitted | {None}]
    assert not wrong, wrong


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("import bptcnn.inner.graph", ["bptcnn.inner.graph"]),
        ("from bptcnn.inner import graph, KernelError", ["bptcnn.inner.graph", "bptcnn.inner"]),
        ("def f():\n    from .. import inner", ["bptcnn.inner"]),
        ("from .tile import tile", ["bptcnn.kernels.tile"]),
        ("from ..inner.graph import Task", ["bptcnn.inner.graph"]),
        ("from . import tile", ["bptcnn.kernels.tile"]),
        ("from bptcnn import inner as below", ["bptcnn.inner"]),
    ],
)
def test_no_form_of_import_is_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, wanted: list[str]
) -> None:
    source = tmp_path / "bptcnn" / "kernels" / "some.py"
    source.parent.mkdir(parents=True)
    source.write_text(text)
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    assert [found.module for found in imports(source)] == wanted


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: str(source.relative_to(ROOT)))
def test_files_stay_short(source: Path) -> None:
    lines = len(source.read_text().splitlines())
    assert lines <= MOST_LINES, f"{source.relative_to(ROOT)} has {lines} lines: split it along an idea"


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: str(folder.relative_to(ROOT)))
def test_every_folder_says_what_lives_there(folder: Path) -> None:
    init = folder / "__init__.py"
    assert init.is_file(), f"{folder.relative_to(ROOT)} has no __init__.py"
    assert ast.get_docstring(ast.parse(init.read_text())), f"{init.relative_to(ROOT)} has no docstring"


def loaded_after(statement: str) -> set[str]:
    """Return the modules that a fresh interpreter has loaded after `statement`, run from an empty path."""
    run = subprocess.run(
        [sys.executable, "-c", f"{statement}\nimport sys\nprint(*sys.modules)"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "cli")])},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    return set(run.stdout.split())


@pytest.mark.parametrize("package", ["bptcnn", "bptcnn.networks", "bptcnn.outer", "bptcnn.data", "bptcnn.training"])
def test_importing_what_computes_nothing_loads_no_compiler(package: str) -> None:
    heavy = {"numba", "llvmlite", "matplotlib", "bptcnn.kernels"}
    assert not heavy & loaded_after(f"import {package}")


@pytest.mark.parametrize("module", ["agent", "remote_station", "configuration", "wire"])
def test_an_agent_connects_before_it_compiles(module: str) -> None:
    assert not {"numba", "llvmlite", "bptcnn.kernels"} & loaded_after(f"import bptcnn.nodes.{module}")


def test_all_of_a_nodes_kernels_come_with_its_loop() -> None:
    kernels = {name for name in loaded_after("import bptcnn.nodes.loop") if name.startswith("bptcnn.kernels.")}
    for module in ("tunnel", "servant", "remote"):
        later = loaded_after(f"import bptcnn.nodes.loop, bptcnn.nodes.{module}")
        assert {name for name in later if name.startswith("bptcnn.kernels.")} == kernels


def test_importing_the_package_is_light() -> None:
    heavy = {"numba", "llvmlite", "matplotlib", "numexpr", "typer", "rich", "bptcnn.kernels"}
    assert not heavy & loaded_after("import bptcnn")
