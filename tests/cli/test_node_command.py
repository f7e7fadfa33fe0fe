"""`bptcnn node --join`: a node joins a run of another process, and its command follows it."""

import json
import os
import signal
import subprocess
import threading
from pathlib import Path

import pytest
from programs import TIMEOUT_SECONDS, bptcnn, refused
from test_endings import read_until, start


class Run:
    """A run that goes on until it is told to end."""

    def __init__(self, folder: Path, data: Path) -> None:
        self.folder = folder
        options = ("--nodes", "0.2", "--threads", "1", "--batch-size", "16", "--local-steps", "2")
        fixed = ("--epochs", "100000", "--no-measure", "--no-autotune", "--run-dir", "run")
        self.process = start("train", data, *options, *fixed, folder=folder)
        read_until(self.process.stdout, "epoch 1/")
        self.output: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.output.extend(self.process.stdout)

    def ends(self, number: signal.Signals = signal.SIGTERM) -> str:
        """End it; return what it printed."""
        self.process.send_signal(number)
        self.process.wait(TIMEOUT_SECONDS)
        self._reader.join()
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.process.stdout.close()
        self.process.stderr.close()
        return "".join(self.output)

    def nodes(self) -> dict[str, dict[str, object]]:
        """The summary's nodes."""
        summary = json.loads((self.folder / "run" / "summary.json").read_text())
        return {node["name"]: node for node in summary["nodes"]}


def node(run: Run, *options: str) -> "subprocess.Popen[str]":
    """Let a node join; return its command once the node trains."""
    process = start("node", "--join", "run", "--threads", "1", *options, folder=run.folder)
    read_until(process.stdout, f"{options[1] if options else 'joined1'} trains in epoch ")
    return process


@pytest.mark.usefixtures("finished")  # kernels are compiled
def test_nodes_join_leave_and_follow_a_run_to_its_end(tmp_path: Path, data: Path) -> None:
    run = Run(tmp_path, data)
    try:
        line = refused("node", "--join", "run", "--name", "node0", folder=tmp_path)
        assert line == ("a node called node0 takes part in the run already: give this one another name (--name)")
        leaves = node(run, "--name", "guest", "--speed", "0.2")
        leaves.send_signal(signal.SIGINT)
        _, err = leaves.communicate(timeout=TIMEOUT_SECONDS)
        assert leaves.returncode == 130
        assert err == "bptcnn: interrupted: guest leaves the run in run, the others train its samples\n"
        stays = start("node", "--join", "run", "--threads", "1", "--speed", "0.2", "--detach", folder=tmp_path)
        out, err = stays.communicate(timeout=TIMEOUT_SECONDS)
        assert (stays.returncode, err) == (0, ""), out
        assert "joined1 trains in epoch " in out
        follows = node(run, "--name", "other")
        for _ in range(2):  # whole epochs in which both take part
            read_until(follows.stdout, "other trains in epoch ")
    except BaseException:
        os.kill(run.process.pid, signal.SIGKILL)
        raise
    printed = run.ends()
    out, err = follows.communicate(timeout=TIMEOUT_SECONDS)
    assert (follows.returncode, err) == (0, "")
    assert out.endswith("the run has ended: stopped, interrupted\n")
    for name in ("guest", "joined1", "other"):
        assert f"{name} has joined and trains" in printed
    assert "lost guest: it left the run; the others train its samples" in printed
    nodes = run.nodes()
    assert list(nodes) == ["node0", "guest", "joined1", "other"]
    assert [node["lost"] for node in nodes.values()] == [None, "it left the run", None, None]
    assert all(nodes[name]["images"] for name in ("node0", "joined1", "other"))


@pytest.mark.usefixtures("finished")
def test_a_command_whose_run_is_killed_says_so(tmp_path: Path, data: Path) -> None:
    run = Run(tmp_path, data)
    follows = node(run)
    run.ends(signal.SIGKILL)
    _, err = follows.communicate(timeout=TIMEOUT_SECONDS)
    assert follows.returncode == 1
    assert err == "bptcnn: the run in run is gone, and joined1 with it\n"
    line = refused("node", "--join", "run", folder=tmp_path)
    assert line == "the run in run is not running on this machine: there is nothing to join"


def test_what_cannot_be_joined(tmp_path: Path, finished: Path) -> None:
    assert refused("node", "--join", "none", folder=tmp_path) == "no run at none: a run folder holds config.toml"
    line = refused("node", "--join", finished, folder=tmp_path)
    assert line == f"the run in {finished} is not running on this machine: there is nothing to join"
    ended = bptcnn("node", folder=tmp_path)
    assert ended.code == 2
    assert "--join" in ended.err
