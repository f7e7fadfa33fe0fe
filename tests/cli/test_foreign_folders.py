"""A run folder or a configuration of somebody else: it is read, and nothing that it names is run unless named again."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tomli_w
from bptcnn_cli.choices import choose, choose_resumed, data_of_run
from programs import bptcnn, refused

import bptcnn as bpt
from bptcnn.errors import UserError

LR = """sin(*(exec('import os; os.system("touch {mark}")') for i in (1,)))"""
DATA = """
from pathlib import Path
Path({mark!r}).touch()
from bptcnn.data import Dataset, load
found = load({data!r})
dataset = Dataset(found.train, found.test, found.classes)
"""


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """What is there once foreign code ran."""
    return tmp_path / "ran"


@pytest.fixture
def code(tmp_path: Path, mark: Path, data: Path) -> Path:
    """A data set that is code."""
    path = tmp_path / "theirs.py"
    path.write_text(DATA.format(mark=str(mark), data=str(data)))
    return path


@pytest.fixture
def hosts(tmp_path: Path, mark: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hosts file, and an ssh that says so when it is called."""
    ssh = tmp_path / "ssh"
    ssh.write_text(f"#!/bin/sh\ntouch {mark}\nexit 255\n")
    ssh.chmod(0o755)
    monkeypatch.setenv("BPTCNN_SSH", str(ssh))
    path = tmp_path / "hosts.toml"
    path.write_text('[[host]]\naddress = "theirs"\npython = "/usr/bin/python3"\n')
    return path


def theirs(finished: Path, tmp_path: Path, **changes: object) -> Path:
    """A copy of a run whose configuration says something else."""
    folder = tmp_path / "theirs"
    shutil.copytree(finished, folder)
    import tomllib

    values = {**tomllib.loads((folder / "config.toml").read_text()), **changes}
    (folder / "config.toml").write_text(tomli_w.dumps(values))
    return folder


def everything(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "lock"}


def test_a_data_set_that_is_code_runs_only_where_it_is_named(
    finished: Path, tmp_path: Path, code: Path, mark: Path
) -> None:
    folder = theirs(finished, tmp_path, data=str(code))
    before = everything(folder)
    commands: list[list[str | Path]] = [
        ["evaluate", folder],
        ["train", "--resume", "--run-dir", folder, "--epochs", "4"],
        ["train", "--config", folder / "config.toml"],
    ]
    for command in commands:
        message = refused(*command, folder=tmp_path)
        assert str(code) in message
        assert "names" in message
        assert not mark.exists()
    assert everything(folder) == before
    bpt.load(folder, threads=1).close()
    assert not mark.exists()
    ended = bptcnn("evaluate", folder, code, folder=tmp_path)
    assert ended.code == 0, ended
    assert mark.exists()
    ended = bptcnn("train", code, "--resume", "--run-dir", folder, "--epochs", "4", "--quiet", folder=tmp_path)
    assert ended.code == 0, ended


def test_hosts_are_called_only_where_their_file_is_named(
    finished: Path, tmp_path: Path, hosts: Path, mark: Path
) -> None:
    folder = theirs(finished, tmp_path, hosts=str(hosts))
    for command in (["--resume", "--run-dir", folder, "--epochs", "4"], ["--config", folder / "config.toml"]):
        message = refused("train", *command, folder=tmp_path)
        assert f"--hosts {hosts}" in message
        assert not mark.exists()
    with pytest.raises(UserError, match="hosts"):
        bpt.train(bpt.networks.cnn2((8, 8, 1), 4), bpt.data.load(), run_dir=folder, resume=True, epochs=4)
    assert not mark.exists()
    ended = bptcnn("evaluate", folder, folder=tmp_path)
    assert (ended.code, mark.exists()) == (0, False), ended
    named = ("--hosts", hosts, "--require-all")
    assert "theirs" in refused("train", "--resume", "--run-dir", folder, "--epochs", "4", *named, folder=tmp_path)
    assert mark.exists()


def test_a_network_that_is_code_runs_only_where_it_is_named(tmp_path: Path, mark: Path, data: Path) -> None:
    network = tmp_path / "net.py"
    network.write_text(
        f"from pathlib import Path\nPath({str(mark)!r}).touch()\nfrom bptcnn.networks import cnn2 as network"
    )
    (tmp_path / "config.toml").write_text(tomli_w.dumps({"network": str(network), "data": str(data)}))
    for command in (["--config", "config.toml"], ["--resume", "--run-dir", "."]):
        assert "--network" in refused("train", *command, folder=tmp_path)
        assert not mark.exists()
    named = choose({"network": str(network)}, tmp_path / "config.toml")
    named.load_network(named.load_data())
    assert mark.exists()


def test_a_learning_rate_is_no_code(finished: Path, tmp_path: Path, mark: Path) -> None:
    folder = theirs(finished, tmp_path, lr=LR.format(mark=mark))
    for command in (
        ["train", "--resume", "--run-dir", folder, "--epochs", "4"],
        ["train", "--config", folder / "config.toml"],
        ["train", "--lr", LR.format(mark=mark)],
    ):
        assert "learning rate" in refused(*command, folder=tmp_path)
        assert not mark.exists()
    ended = bptcnn("evaluate", folder, folder=tmp_path)  # which needs none
    assert (ended.code, mark.exists()) == (0, False), ended


def test_what_a_resumed_run_needs_named_again(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(tomli_w.dumps({"data": "/a/data.py", "network": "cnn2"}))
    with pytest.raises(UserError, match=r"data\.py"):
        data_of_run(tmp_path)
    with pytest.raises(UserError, match=r"add /a/data\.py"):
        choose_resumed({}, tmp_path).require_named()
    choose_resumed({"data": "/b/data.py"}, tmp_path).require_named()
    again = choose_resumed({"data": "/b/my data.py", "hosts": "/h"}, tmp_path).to_name_again()
    assert again == ["/b/my data.py", "--hosts", "/h"]
    assert choose({"data": "a.npz"}, None).to_name_again() == []
    choose_resumed({"data": "/b/data.py", "network": "net.py"}, tmp_path).require_named()
    choose_resumed({"data": "moved.npz"}, tmp_path).require_named()
    with pytest.raises(UserError, match="cannot change"):
        choose_resumed({"network": "lenet5"}, tmp_path)


@pytest.mark.parametrize("place", ["/dev/zero", "/proc/self/mem", "pipe", "pipe.npz", "folder", "/dev/stdin"])
def test_data_that_is_no_file_is_refused(finished: Path, tmp_path: Path, place: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    os.mkfifo(tmp_path / "pipe.npz")
    (tmp_path / "folder").mkdir()
    for part in ("train", "t10k"):
        (tmp_path / "folder" / f"{part}-images-idx3-ubyte").symlink_to("/dev/zero")
        (tmp_path / "folder" / f"{part}-labels-idx1-ubyte").symlink_to("/proc/kcore")
    folder = theirs(finished, tmp_path, data=place if place.startswith("/") else str(tmp_path / place))
    refused("evaluate", folder, folder=tmp_path)


CONFIGURATIONS = {
    "nested": "a = " + "[" * 100_000,
    "nested tables": "a = " + "{a=" * 10_000,
    "a long key": "a." * 100_000 + "b = 1",
    "digits": "seed = " + "9" * 5000,
    "a huge number": "weight_decay = 1" + "0" * 400,
    "huge speeds": "nodes = [1" + "0" * 400 + "]",
    "huge": "#" * (1 << 21),
    "an escape": 'update = "\\u001b[2J\\u001b]0;x\\u0007"',
    "a long value": f'partition = "{"x" * 500_000}"',
    "no text": "\udcff",
}


@pytest.mark.parametrize("kind", CONFIGURATIONS)
def test_absurd_configurations_are_one_short_printable_line(tmp_path: Path, kind: str) -> None:
    (tmp_path / "config.toml").write_bytes(CONFIGURATIONS[kind].encode(errors="surrogateescape"))
    with pytest.raises(UserError, match=r"config\.toml") as caught:
        choose({}, tmp_path / "config.toml")
    assert len(str(caught.value)) < 1000
    with pytest.raises(UserError):
        choose_resumed({}, tmp_path)


def test_a_nested_configuration_is_one_line_of_the_command(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(CONFIGURATIONS["nested"])
    for command in (["evaluate", "."], ["train", "--resume", "--run-dir", "."], ["train", "--config", "config.toml"]):
        assert "config.toml" in refused(*command, folder=tmp_path)
    (tmp_path / "config.toml").write_text('update = "\\u001b[2J"')
    assert "\x1b" not in refused("train", "--config", "config.toml", folder=tmp_path)


def test_a_checkpoint_with_a_flipped_bit_is_refused_and_stays(finished: Path, tmp_path: Path) -> None:
    folder = theirs(finished, tmp_path)
    for name in ("last.safetensors", "best.safetensors"):
        content = bytearray((folder / name).read_bytes())
        content[-5] ^= 4
        (folder / name).write_bytes(content)
    before = everything(folder)
    assert "checksum" in refused("train", "--resume", "--run-dir", folder, "--epochs", "4", folder=tmp_path)
    assert "checksum" in refused("evaluate", folder, folder=tmp_path)
    assert "checksum" in refused("train", "--init", folder, "--run-dir", "new", folder=tmp_path)
    assert everything(folder) == before


def test_a_run_of_somebody_else_tells_a_joining_node_nothing(tmp_path: Path) -> None:
    """Who listens at the socket in a folder may be anybody: the kernel says who it is."""
    if os.getuid() != 0:
        pytest.skip("needs another user")
    (tmp_path / "config.toml").write_text("")
    for path in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        path.chmod(0o777 if path == tmp_path else 0o755)
    code = f"""
import os, socket, sys
os.setuid(65534)
door = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
os.chdir({str(tmp_path)!r})
door.bind("join.sock"); door.listen(); os.chmod("join.sock", 0o666)
print("listening", flush=True)
caller, _ = door.accept()
caller.send(sys.argv[1].encode())
caller.recv(100)
"""
    greeting = {"kind": "Greeting", "version": bpt.__version__, "network": "n", "input_shape": [8, 8, 1]}
    greeting |= {"batch_size": 1, "same_python": False, "threads": None, "hosts": "/tmp/evil.toml"}
    with subprocess.Popen(
        [sys.executable, "-c", code, json.dumps(greeting)], stdout=subprocess.PIPE, text=True
    ) as stranger:
        assert stranger.stdout is not None
        assert stranger.stdout.readline() == "listening\n"
        try:
            assert "another user's" in refused("node", "--join", tmp_path, "--host", "a", folder=tmp_path)
        finally:
            stranger.kill()
