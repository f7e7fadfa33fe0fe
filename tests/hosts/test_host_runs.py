"""Whole runs over hosts: what they reach, what crosses the network, and where the key can be seen."""

import json
import re
import sys
from pathlib import Path

import psutil
import pytest
from capture import conversations
from host_run import SAMPLES, Run, nothing_left, write_data
from network import Hosts, HostSpec, needs_hosts

pytestmark = needs_hosts
SPECS = [HostSpec("h1", quota=1.0), HostSpec("h2", quota=0.5)]
NAMES = ("h1", "h2")


def test_a_run_over_hosts_is_ssh_and_nothing_else(tmp_path: Path) -> None:
    """One run, seen from all sides: results, traffic, files, and every process's arguments and environment."""
    with Hosts(tmp_path / "net", SPECS) as hosts:
        data = write_data(tmp_path)
        spy = tmp_path / "spy"  # a coordinator that writes down the keys that it draws
        (spy / "sitecustomize.py").parent.mkdir()
        (spy / "sitecustomize.py").write_text(
            "import secrets\n_drawn = secrets.token_bytes\n"
            "def token_bytes(count=None):\n"
            "    found = _drawn(count)\n"
            f"    open({str(tmp_path / 'keys')!r}, 'a').write(found.hex() + '\\n')\n"
            "    return found\n"
            "secrets.token_bytes = token_bytes\n"
        )
        verbose = hosts.environment()["BPTCNN_SSH"] + " -vvv -o LogLevel=DEBUG3"
        packets = tmp_path / "run.pcap"
        with hosts.capture(packets), pytest.MonkeyPatch.context() as patch:
            patch.setenv("PYTHONPATH", str(spy))
            environment = hosts.environment
            patch.setattr(hosts, "environment", lambda: {**environment(), "BPTCNN_SSH": verbose})
            run = Run(hosts, data, tmp_path / "run", "--epochs", "4")
            run.says("training on 2 nodes")
            seen = [" ".join([*p.cmdline(), *map("=".join, p.environ().items())]) for p in [*_here(), *_there(hosts)]]
            listed = json.loads((run.folder / "nodes.json").read_text())
            run.ends()
        found = run.trained(4)
        assert [node["host"] for node in found["nodes"]] == ["h1", "h2"]
        assert {entry["host"] for entry in listed} == {"h1", "h2"}
        assert found["images_redone"] == 0
        assert found["bytes_per_merge"] > 0.9 * 2 * 2 * found["parameters"]
        assert 0.0 < found["communication_share"] < 0.5
        ports = {hosts[name].port for name in NAMES}
        for protocol, _, source, _, destination in conversations(packets):
            assert protocol == "tcp"
            assert {source, destination} & ports, "something else than ssh"
        # names of sockets are 16 bytes, and seen; keys and nonces are 32
        keys = [drawn for drawn in (tmp_path / "keys").read_text().split() if len(drawn) == 64]
        assert len(keys) > 2
        assert len(seen) > 4
        everything = [text.encode() for text in seen]
        everything += [path.read_bytes() for path in run.folder.rglob("*") if path.is_file()]
        everything += [(tmp_path / "run.out").read_bytes()]
        assert any(b"debug3" in content for content in everything), "the logs are not verbose"
        for key in keys:
            for content in everything:
                assert key.encode() not in content
                assert bytes.fromhex(key) not in content
        nothing_left(hosts, NAMES)


def _here() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def _there(hosts: Hosts) -> list[psutil.Process]:
    return [process for name in NAMES for process in hosts[name].processes()]


@pytest.mark.parametrize("wire", ["float32", "float16", "bfloat16"])
def test_every_wire_trains(tmp_path: Path, wire: str) -> None:
    with Hosts(tmp_path / "net", SPECS) as hosts:
        run = Run(hosts, write_data(tmp_path), tmp_path / "run", "--epochs", "3", "--wire", wire)
        run.ends()
        found = run.trained(3)
        assert found["test_accuracy"] > 0.5
        width = 4 if wire == "float32" else 2
        assert found["bytes_per_merge"] == pytest.approx(2 * width * found["parameters"], rel=0.2)


def test_local_nodes_and_hosts_train_together(tmp_path: Path) -> None:
    """This machine by the hosts file and by --nodes, under SGWU; a network and data that are Python code."""
    whole = write_data(tmp_path)
    (tmp_path / "mine.py").write_text(
        "import numpy as np\nimport bptcnn as bpt\n"
        f"found = np.load({str(whole)!r})\n"
        "dataset = bpt.data.Dataset.of(*(found[n] for n in ('x_train', 'y_train', 'x_test', 'y_test')))\n"
    )
    (tmp_path / "net.py").write_text(
        "import bptcnn as bpt\n"
        "class Own(bpt.Network):\n"
        "    '''Reaches hosts as code.'''\n"
        "layers = [bpt.Conv2D(8, 5, activation='relu'), bpt.MaxPool2D(2), bpt.Flatten(), bpt.Dense(10)]\n"
        "network = Own((28, 28, 1), layers)\n"
    )
    with Hosts(tmp_path / "net", SPECS[:1]) as hosts:
        toml = tmp_path / "hosts.toml"
        toml.write_text(
            f"[[host]]\nlocal = true\nthreads = 1\n[[host]]\naddress = 'h1'\npython = '{sys.executable}'\n"
            "env = { MINE = 'a b' }\nname = 'far'\n"
        )
        options = ("--nodes", "0.5", "--update", "sgwu", "--epochs", "2", "--network", str(tmp_path / "net.py"))
        run = Run(hosts, tmp_path / "mine.py", tmp_path / "run", *options, toml=toml)
        run.ends()
        found = run.trained(2)
        assert [(node["name"], node["speed"]) for node in found["nodes"]] == [
            ("node0", 0.5),
            ("local", 1.0),
            ("far", 1.0),
        ]
        assert all(node["images"] for node in found["nodes"])
        nothing_left(hosts, ("h1",))


def test_who_cannot_train_is_left_out_or_refused(tmp_path: Path) -> None:
    with Hosts(tmp_path / "net", SPECS) as hosts:
        data = write_data(tmp_path)
        with hosts["h2"].unauthorised_key():
            refused = Run(hosts, data, tmp_path / "all", "--require-all").ends(code=2)
            assert re.search(r"bptcnn: h2 cannot train: .*ssh", refused.splitlines()[-1]), refused
            assert not (tmp_path / "all").exists()
            with hosts["h1"].wrong_host_key():
                refused = Run(hosts, data, tmp_path / "none").ends(code=2)
                assert "can train" in refused.splitlines()[-1], refused
            run = Run(hosts, data, tmp_path / "one", "--epochs", "1")
            assert "h2 is left out" in run.ends()
        found = run.trained(1)
        assert [node["images"] for node in found["nodes"]] == [SAMPLES, 0]
        assert found["nodes"][1]["lost"]
