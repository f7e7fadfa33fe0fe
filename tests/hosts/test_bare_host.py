"""The README's two commands: one that installs on a host which has nothing but Python, one that trains."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from nodes.loopback import loopback

ROOT = Path(__file__).parent.parent.parent
INSTALL_SECONDS = 900  # the packages come from an index


@pytest.mark.slow
def test_from_bare_to_training(tmp_path: Path) -> None:
    """The host is a folder that starts empty, reached through a real sshd; it compiles its kernels itself."""
    readme = (ROOT / "README.md").read_text()
    install = next(line for line in readme.splitlines() if line.startswith("git archive"))
    home = tmp_path / "home"
    home.mkdir()
    (tmp_path / "sshd").mkdir()
    with loopback(tmp_path / "sshd") as here:
        # what a user types, with this folder for the host's home, and the Python that runs the tests for python3
        command = install.replace("ssh HOST '", f"{here.ssh} good 'cd {shlex.quote(str(home))} && ")
        command = command.replace("python3 ", f"{sys._base_executable} ")
        assert command.count(str(home)) == 1
        subprocess.run(["bash", "-o", "pipefail", "-c", command], cwd=ROOT, check=True, timeout=INSTALL_SECONDS)
        hosts = tmp_path / "hosts.toml"
        python = home / "bptcnn" / ".venv" / "bin" / "python"
        hosts.write_text(
            f'[[host]]\naddress = "good"\npython = "{python}"\nenv = {{ BPTCNN_CACHE_DIR = "{home / "cache"}" }}\n'
        )
        run = tmp_path / "run"
        train = [
            sys.executable,
            "-m",
            "bptcnn_cli",
            "train",
            "--hosts",
            str(hosts),
            "--epochs",
            "1",
            "--run-dir",
            str(run),
        ]
        subprocess.run(train, env={**os.environ, "BPTCNN_SSH": here.ssh}, check=True, timeout=300)
    found = json.loads((run / "summary.json").read_text())
    assert (found["images_trained"], found["nodes"][0]["images"]) == (10_000, 10_000)
