"""What the program says of itself, and what it loads for that."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import bptcnn_cli
import pytest
from bptcnn_cli.main import app
from programs import bptcnn, environment
from typer.main import get_command

from bptcnn.training import TrainSettings

COMMANDS = ("train", "evaluate", "node", "profile", "benchmark", "checks")


def test_the_help_names_every_command_and_nothing_that_is_not_there(tmp_path: Path) -> None:
    ended = bptcnn("--help", folder=tmp_path)
    assert ended.code == 0
    assert ended.err == ""
    for command in COMMANDS:
        assert f" {command} " in ended.out
    for absent in ("predict", "export", "watch", "--hosts"):
        assert absent not in ended.out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, tmp_path: Path) -> None:
    ended = bptcnn(command, "--help", folder=tmp_path)
    assert ended.code == 0
    assert "Usage: bptcnn " + command in ended.out
    assert "{" not in ended.out.replace("{RUN}", ""), "a default was not filled in"


def test_the_help_of_train_shows_the_defaults(tmp_path: Path) -> None:
    words = " ".join(bptcnn("train", "--help", folder=tmp_path).out.replace("│", " ").split())
    defaults = TrainSettings()
    assert f"Times each training image is used. Default: {defaults.epochs}." in words
    assert f"Images of a step. Default: {defaults.batch_size}." in words
    assert f"Default: {defaults.lr}." in words
    assert f"Of SGD, in [0, 1). Default: {defaults.momentum}." in words
    (fewest, most), (steps, _) = defaults.local_step_range(), TrainSettings(hosts="hosts.toml").local_step_range()
    alone = f"with a node alone {most} to {defaults.alone_local_steps(1)}."
    assert f"Default: {fewest} to {most}, as few as their cost allows; with hosts {steps}, {alone}" in words
    assert "agwu, agwu-published, sgwu" in words


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_every_sign_of_its_texts(command: str, tmp_path: Path) -> None:
    """What looks like markup would be swallowed: "[[host]] tables" became "[] tables"."""
    out = bptcnn(command, "--help", folder=tmp_path, width=400).out
    words = " ".join(out.replace("│", " ").split())
    found = get_command(app).commands[command]  # type: ignore[attr-defined]
    for parameter in found.params:
        for piece in re.split(r"{\w+}", getattr(parameter, "help", None) or ""):
            assert " ".join(piece.replace("\\[", "[").split()) in words
    for line in (found.help or "").replace("\\[", "[").splitlines():
        assert " ".join(line.split()).strip("\b ") in words


def test_the_version(tmp_path: Path) -> None:
    ended = bptcnn("--version", folder=tmp_path)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("bptcnn ")
    assert ended.out.count("\n") == 1


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["evaluate", "--help"], ["benchmark", "--help"]])
def test_help_loads_nothing_heavy(arguments: list[str], tmp_path: Path) -> None:
    statement = (
        "import sys, bptcnn_cli.main\n"
        f"sys.argv[1:] = {arguments!r}\n"
        "try:\n    bptcnn_cli.main.main()\nexcept SystemExit:\n    pass\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    run = subprocess.run(
        [sys.executable, "-c", statement], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=60
    )
    loaded = set(run.stderr.split())
    assert "bptcnn_cli.main" in loaded
    assert not loaded & {"numpy", "numba", "llvmlite", "numexpr", "bptcnn.training", "bptcnn.kernels", "psutil"}


@pytest.mark.parametrize("arguments", [["nonsense"], ["train", "--nonsense"], ["train", "--epochs", "x"], ["evaluate"]])
def test_usage_errors_keep_their_own_form(arguments: list[str], tmp_path: Path) -> None:
    ended = bptcnn(*arguments, folder=tmp_path)
    assert ended.code == 2
    assert "Usage: bptcnn" in ended.err
    assert "Traceback" not in ended.err
    assert ended.out == ""


def test_click_is_never_imported() -> None:
    for source in Path(str(bptcnn_cli.__file__)).parent.glob("*.py"):
        for node in ast.walk(ast.parse(source.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if name.split(".")[0] == "click"], source
