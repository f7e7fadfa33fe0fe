"""A run over hosts that goes on: each host from the momentum and the steps that it had."""

import sys
from pathlib import Path

from host_run import LIMIT_SECONDS, Run, nothing_left, write_data
from network import Hosts, HostSpec, needs_hosts

from bptcnn.nodes.optimizer_state import LIFE_STEPS
from bptcnn.training.checkpoint import read_checkpoint

pytestmark = needs_hosts
NAMES = ("h1", "h2")


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
