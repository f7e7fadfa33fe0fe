"""How the program ends: interrupted, without a reader, without a place to write to."""

import os
import signal
import subprocess
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import psutil
import pytest
from programs import COMMAND, TIMEOUT_SECONDS, Ended, bptcnn, environment

STOPS = [
    [signal.SIGTERM],
    [signal.SIGHUP],
    [signal.SIGINT, signal.SIGINT, signal.SIGTERM, signal.SIGINT],
]


def start(*arguments: str | Path, folder: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        cwd=folder,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        bufsize=1,
    )


def read_until(stream: IO[str] | None, beginning: str) -> None:
    """Read lines until one begins so."""
    assert stream is not None
    for line in stream:
        if line.startswith(beginning):
            return
    raise AssertionError(f"no line began with {beginning!r}")


def interrupt(
    process: "subprocess.Popen[str]", after: str, signals: Sequence[signal.Signals]
) -> tuple[Ended, list[psutil.Process]]:
    """Send signals after the line that begins so; return how it ended and which processes it had started."""
    try:
        read_until(process.stdout, after)
        children = psutil.Process(process.pid).children(recursive=True)
        for number in signals:
            process.send_signal(number)
        out, err = process.communicate(timeout=TIMEOUT_SECONDS)
    except BaseException:
        process.kill()
        process.communicate()
        raise
    return Ended(process.returncode, out, err), children


@pytest.mark.parametrize("signals", STOPS, ids=lambda signals: "+".join(number.name for number in signals))
def test_an_interrupted_run_keeps_its_checkpoint(signals: list[signal.Signals], tmp_path: Path, data: Path) -> None:
    process = start("train", data, "--epochs", "100000", "--run-dir", "a", folder=tmp_path)
    ended, nodes = interrupt(process, "epoch 2/", signals)
    assert ended.code == 130, ended
    assert ended.err == (
        "bptcnn: interrupted: a keeps the last checkpoint; go on with bptcnn train --resume --run-dir a\n"
    )
    assert len(nodes) == 2
    assert not [node for node in nodes if node.is_running()]
    epochs = len((tmp_path / "a" / "metrics.csv").read_text().splitlines()) - 1
    assert epochs >= 2
    if len(signals) > 1:
        wanted = epochs + 2  # the checkpoint may be of an epoch whose row was still to come
        arguments = ("train", "--resume", "--run-dir", "a", "--epochs", str(wanted))
        resumed = bptcnn(*arguments, folder=tmp_path)
        assert resumed.code == 0, resumed
        assert f"epoch {wanted}/{wanted}" in resumed.out
        assert tomllib.loads((tmp_path / "a" / "config.toml").read_text())["epochs"] == wanted


def test_a_run_interrupted_while_it_starts_says_that_it_has_nothing(tmp_path: Path, data: Path) -> None:
    process = start("train", data, "--epochs", "100000", "--run-dir", "a", folder=tmp_path)
    ended, nodes = interrupt(process, "starting 2 nodes", [signal.SIGTERM, signal.SIGTERM])
    assert ended.code == 130, ended
    assert ended.err == "bptcnn: interrupted before the first epoch ended: there is no checkpoint\n"
    assert not [node for node in nodes if node.is_running()]


def test_a_reader_that_goes_away_does_not_end_training(tmp_path: Path, data: Path) -> None:
    process = start("train", data, "--epochs", "3", "--run-dir", "a", folder=tmp_path)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    with process.stderr:
        assert process.stderr.read() == ""
    assert process.wait(TIMEOUT_SECONDS) == 0
    assert (tmp_path / "a" / "summary.json").is_file()


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["train", "--help"], ["checks"], ["train", "--print-config"]], ids=" ".join
)
def test_no_reader_at_all_means_no_traceback(arguments: list[str], tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "wb") as output:
        run = subprocess.run(
            [*COMMAND, *arguments], cwd=tmp_path, env=environment(), stdout=output, stderr=subprocess.PIPE, timeout=60
        )
    assert run.stderr == b""
    assert run.returncode in (0, 1)  # typer's own help ends with 1


def test_a_full_disk_under_the_output_is_one_line(tmp_path: Path) -> None:
    with open("/dev/full", "wb") as output:
        run = subprocess.run(
            [*COMMAND, "train", "--print-config"],
            cwd=tmp_path,
            env=environment(),
            stdout=output,
            stderr=subprocess.PIPE,
            timeout=60,
        )
    assert run.stderr == b"bptcnn: cannot write to standard output: No space left on device\n"
    assert run.returncode == 1


def test_closed_descriptors_do_no_harm(tmp_path: Path, data: Path) -> None:
    command = [*COMMAND, "train", str(data), "--epochs", "1", "--run-dir", "a"]
    run = subprocess.run(
        ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *command],
        cwd=tmp_path,
        env=environment(),
        timeout=TIMEOUT_SECONDS,
    )
    assert run.returncode == 0
    assert (tmp_path / "a" / "summary.json").is_file()


def test_our_own_errors_keep_their_traceback(tmp_path: Path) -> None:
    statement = (
        "import sys, bptcnn_cli.choices, bptcnn_cli.main\n"
        "def broken(given, config):\n    raise ZeroDivisionError('ours')\n"
        "bptcnn_cli.choices.choose = broken\n"
        "sys.argv[1:] = ['train']\n"
        "bptcnn_cli.main.main()"
    )
    run = subprocess.run(
        [COMMAND[0], "-c", statement], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 1
    assert run.stderr.startswith("Traceback (most recent call last):")
    assert run.stderr.endswith("ZeroDivisionError: ours\n")
