"""A run over hosts that goes on: each host from the momentum and the steps that it had."""

import sys
from pathlib import Path

import numpy as np
from host_run import LIMIT_SECONDS, Run, nothing_left, write_data
from network import Hosts, HostSpec, needs_hosts

from bptcnn.nodes.optimizer_state import LIFE_STEPS
from bptcnn.training.checkpoint import read_checkpoint

pytestmark = needs_hosts
NAMES = ("h1", "h2")


def test_under_sgwu_a_resumed_run_is_the_run(tmp_path: Path) -> None:
    """To the bit, as on nodes here."""
    with Hosts(tmp_path / "net", [HostSpec(name) for name in NAMES]) as hosts:
        data, found = write_data(tmp_path, 300), []
        same = ("--update", "sgwu", "--partition", "uniform", "--wire", "float32", "--no-measure")
        for name, epochs in (("whole", "3"), ("parts", "2")):
            Run(hosts, data, tmp_path / name, *same, "--epochs", epochs).ends()
        command = [sys.executable, "-m", "bptcnn_cli", "train", "--run-dir", str(tmp_path / "parts"), "--resume"]
        command += ["--hosts", str(hosts.hosts_toml())]
        ended = hosts.run([*command, "--epochs", "3"], capture_output=True, text=True, timeout=LIMIT_SECONDS)
        assert ended.returncode == 0, ended
        for name in ("whole", "parts"):
            checkpoint = read_checkpoint(tmp_path / name / "last.safetensors")
            assert checkpoint.optimizer is not None
            states = [(state.step, state.usual_loss, state.velocity) for state in checkpoint.optimizer.values()]
            assert all(velocity is not None for _, _, velocity in states)
            found.append([checkpoint.weights, *(velocity for _, _, velocity in states)])
            found[-1].append(np.array([step for step, _, _ in states]))
        for one, other in zip(*found, strict=True):
            assert one.tobytes() == other.tobytes()


def test_hosts_hand_their_states_over_and_start_from_them(tmp_path: Path) -> None:
    with Hosts(tmp_path / "net", [HostSpec(name, quota=0.5) for name in NAMES]) as hosts:
        data, folder = write_data(tmp_path, 600), tmp_path / "run"
        run = Run(hosts, data, folder, "--epochs", "2")
        run.ends()
        before = read_checkpoint(folder / "last.safetensors").optimizer
        assert before is not None
        assert sorted(before) == list(NAMES)
        for state in before.values():
            assert state.velocity is not None
            assert state.velocity.any()
            assert state.usual_loss is not None
        assert sum(state.step for state in before.values()) >= 2 * 600 / 16

        named = ["--hosts", str(run.command[run.command.index("--hosts") + 1])]
        command = [sys.executable, "-m", "bptcnn_cli", "train", "--run-dir", str(folder), "--resume", "--epochs", "3"]
        found = hosts.run([*command, *named], capture_output=True, text=True, timeout=LIMIT_SECONDS)
        assert found.returncode == 0, found
        assert "without" not in found.stdout + found.stderr
        after = read_checkpoint(folder / "last.safetensors").optimizer
        assert after is not None
        run.trained(3, 600)
        for name in NAMES:
            assert before[name].step < after[name].step < LIFE_STEPS, "it numbers its steps on"
        nothing_left(hosts, NAMES)
