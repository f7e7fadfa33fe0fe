"""Hosts that join a run: looked at by the command, started by the coordinator, lost and taken in again like others."""

import json
import signal
import subprocess
import sys
from pathlib import Path

from host_run import LIMIT_SECONDS, SAMPLES, Run, nothing_left, wait_until, write_data
from network import Hosts, HostSpec, needs_hosts

pytestmark = needs_hosts


def test_a_host_joins_is_lost_returns_and_leaves(tmp_path: Path) -> None:
    """And one that is not in reach is refused, in one line, while the run goes on."""
    with Hosts(tmp_path / "net", [HostSpec("h1", quota=0.5), HostSpec("h2", quota=0.5)]) as hosts:
        toml = hosts.hosts_toml()
        first = tmp_path / "first.toml"
        first.write_text(f"[[host]]\naddress = 'h1'\npython = '{sys.executable}'\n")
        run = Run(hosts, write_data(tmp_path), tmp_path / "run", "--epochs", "100000", toml=first)
        run.says("epoch 1/")
        command = [sys.executable, "-m", "bptcnn_cli", "node", "--join", str(run.folder), "--threads", "1"]

        hosts["h2"].power_off()
        refused = hosts.run(
            [*command, "--host", "h2", "--hosts", str(toml)], capture_output=True, text=True, timeout=LIMIT_SECONDS
        )
        assert refused.returncode == 2, refused
        assert refused.stderr.startswith("bptcnn: h2 cannot train: ")
        assert refused.stderr.count("\n") == 1
        hosts["h2"].power_on()

        out = tmp_path / "node.out"
        with out.open("w") as file:
            joined = hosts.popen(
                [*command, "--host", "h2", "--python", sys.executable, "--name", "late"],
                stdout=file,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
            )
        wait_until(lambda: "late trains in epoch" in out.read_text(), LIMIT_SECONDS, lambda: out.read_text())
        assert {entry["host"] for entry in json.loads((run.folder / "nodes.json").read_text())} == {"h1", "h2"}
        hosts["h2"].kill_connections()
        run.says("late is back")
        wait_until(lambda: "late is lost" in out.read_text(), LIMIT_SECONDS, lambda: out.read_text())
        epochs = run.output().count("epoch ")
        wait_until(lambda: run.output().count("epoch ") > epochs + 2, LIMIT_SECONDS, run.output)
        joined.send_signal(signal.SIGINT)
        assert joined.wait(LIMIT_SECONDS) == 130
        run.says("lost late: it left the run")
        nothing_left(hosts, ("h2",))
        run.signal(signal.SIGTERM)
        run.ends(code=130)
        found = run.summary()
        assert [(node["name"], node["host"]) for node in found["nodes"]] == [("h1", "h1"), ("late", "h2")]
        assert found["nodes"][1]["lost"] == "it left the run"
        assert found["nodes"][1]["images"] > 0
        assert found["images_trained"] >= SAMPLES * found["epochs"]
        nothing_left(hosts, ("h1", "h2"))
