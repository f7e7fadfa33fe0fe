"""What an agent gets on its standard input: networks of every kind, and what must not even be unpickled."""

import base64
import json
import os
import pickle
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nodes.agents import TINY

from bptcnn.errors import UserError
from bptcnn.networks import Conv2D, Dense, Flatten, Network, cnn2, lenet5
from bptcnn.nodes.bootstrap import Bootstrap, decode_bootstrap, encode_bootstrap, needs_same_python
from bptcnn.nodes.configuration import HostConfiguration, SampleSource
from bptcnn.version import VERSION

ROOT = Path(__file__).parent.parent.parent
SECONDS = 60.0
KEY = bytes(range(32))
SOURCE = SampleSource("d" * 64, "/data", "|u1", (10, 8, 8, 1), 0.25, 3)


class Trap:
    """Unpickled, it leaves a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.path),)


def bootstrap(network: Network) -> Bootstrap:
    configuration = HostConfiguration(
        node=2,
        name="far",
        speed=1.0,
        threads=0,
        network=network,
        batch_size=8,
        precision="float32",
        momentum=0.9,
        weight_decay=0.0,
        update="agwu",
        staleness=None,
        samples=SOURCE,
        wire="bfloat16",
    )
    return Bootstrap(VERSION, KEY, "1f", configuration)


def line(of: Network = TINY, **changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(encode_bootstrap(bootstrap(of)))
    return values | changes


def decoded(values: Any) -> Bootstrap:
    return decode_bootstrap(json.dumps(values).encode(), VERSION)


@pytest.mark.parametrize("network", [TINY, lenet5(), cnn2()], ids=lambda network: network.name)
def test_plain_networks_travel_as_descriptions(network: Network) -> None:
    values = line(network)
    assert not needs_same_python(network)
    assert "pickle" not in values["network"]
    values["network"]["python"] = [3, 99]  # another minor version is fine
    came = decoded(values)
    assert came.configuration.network.to_dict() == network.to_dict()
    assert replace(came, configuration=replace(came.configuration, network=network)) == bootstrap(network)


def subclassed() -> Network:
    class Local(Network):
        def __init__(self) -> None:
            super().__init__((8, 8, 1), [Conv2D(4, 3), Flatten(), Dense(3)], "local")
            self.note = "kept"

        def notes(self) -> str:
            return self.note

    return Local()


def test_subclasses_are_pickled_and_come_whole() -> None:
    network = subclassed()
    assert needs_same_python(network)
    values = line(network)
    assert "description" not in values["network"]
    came = decoded(values).configuration.network
    assert came.notes() == "kept"  # type: ignore[attr-defined]
    assert came.to_dict() == network.to_dict()


def test_a_class_of_a_script_comes_to_a_host_that_has_no_such_script(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from bptcnn.networks import Dense, Flatten, Network\n"
        "from nodes.test_bootstrap import bootstrap, encode_bootstrap\n"
        "class Mine(Network):\n"
        "    mark = 7\n"
        "made = Mine((4, 4, 1), [Flatten(), Dense(2)], 'mine')\n"
        "sys.stdout.buffer.write(encode_bootstrap(bootstrap(made)))\n"
    )
    script = tmp_path / "script.py"
    script.write_text(program)
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    run = subprocess.run(
        [sys.executable, str(script)], env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE, check=True
    )
    came = decode_bootstrap(run.stdout, VERSION).configuration.network
    assert (type(came).__name__, came.mark) == ("Mine", 7)  # type: ignore[attr-defined]


def test_what_a_network_file_imports_from_its_folder_comes_with_it(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text(
        "from bptcnn.networks import Network\nclass Mine(Network):\n    def mark(self):\n        return helper()\n"
        "def helper():\n    return 7\n"
    )
    (tmp_path / "own.py").write_text(
        "from beside import Mine\nfrom bptcnn.networks import Dense, Flatten\n"
        "network = Mine((4, 4, 1), [Flatten(), Dense(2)], 'mine')\n"
    )
    program = (
        "import sys\n"
        "from bptcnn.networks import load_network\n"
        "from nodes.test_bootstrap import bootstrap, encode_bootstrap\n"
        f"made = load_network({str(tmp_path / 'own.py')!r}, (4, 4, 1), 2)\n"
        "sys.stdout.buffer.write(encode_bootstrap(bootstrap(made)))\n"
    )
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    run = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE, check=True
    )
    came = decode_bootstrap(run.stdout, VERSION).configuration.network
    assert "beside" not in sys.modules
    assert (type(came).__name__, came.mark()) == ("Mine", 7)  # type: ignore[attr-defined]


def trapped(tmp_path: Path, python: list[int]) -> dict[str, Any]:
    pickled = base64.b64encode(pickle.dumps(Trap(tmp_path / "touched"))).decode()
    return line(network={"python": python, "pickle": pickled})


def test_another_python_is_refused_by_name_and_nothing_unpickled(tmp_path: Path) -> None:
    ours = ".".join(map(str, sys.version_info[:2]))
    with pytest.raises(UserError, match=rf"pickled by Python 3\.99; this host has {ours}: use the same"):
        decoded(trapped(tmp_path, [3, 99]))
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize("changes", [{"version": "0.0.1"}, {"version": ["x"] * 100}, {"protocol": 3}])
def test_another_bptcnn_is_refused_by_name_and_nothing_unpickled(tmp_path: Path, changes: dict[str, Any]) -> None:
    values = trapped(tmp_path, list(sys.version_info[:2])) | changes
    with pytest.raises(UserError, match=f"this host {VERSION}: install the same version") as refused:
        decoded(values)
    assert len(str(refused.value)) < 200
    assert not (tmp_path / "touched").exists()


def test_a_pickle_where_json_is_due_is_not_unpickled(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no configuration"):
        decode_bootstrap(pickle.dumps(Trap(tmp_path / "touched")), VERSION)
    assert not (tmp_path / "touched").exists()


DAMAGE: list[dict[str, Any]] = [
    {"key": None}, {"key": "xyz"}, {"key": 5}, {"network": None}, {"network": 5}, {"network": "x"},
    {"samples": None}, {"samples": []}, {"samples": {"shape": 5}}, {"settings": None}, {"settings": [1]},
    {"samples": {**vars(SOURCE), "more": 1}},
]  # fmt: skip


@pytest.mark.parametrize("changes", DAMAGE, ids=str)
def test_damage_is_said_in_a_line(changes: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="no configuration"):
        decoded(line(**changes))


@pytest.mark.parametrize("field", ["protocol", "version", "key", "desk", "network", "samples", "settings"])
def test_missing_fields_are_said_in_a_line(field: str) -> None:
    values = line()
    del values[field]
    with pytest.raises(UserError, match="no configuration"):
        decoded(values)


@given(st.binary(max_size=200))
def test_random_bytes_are_no_configuration(noise: bytes) -> None:
    with pytest.raises(UserError, match="no configuration"):
        decode_bootstrap(noise, VERSION)


@pytest.mark.parametrize(
    "content", [b"[" * 100_000, b'{"protocol":' * 50_000, b"[1]", b"5", b"null", b'"x"', b"1" * 9999]
)
def test_json_that_is_no_table(content: bytes) -> None:
    with pytest.raises(UserError, match="no configuration"):
        decode_bootstrap(content, VERSION)


@given(st.data())
def test_a_truncated_line_is_refused(data: st.DataObject) -> None:
    whole = encode_bootstrap(bootstrap(TINY))
    with pytest.raises(UserError, match="no configuration"):
        decode_bootstrap(whole[: data.draw(st.integers(0, len(whole) - 1))], VERSION)


# ---- the agent itself ------------------------------------------------------------------------------------------------


def agent_says(tmp_path: Path, content: bytes) -> str:
    """Start an agent as ssh does, with `content` on its standard input; return its one line."""
    names = (tmp_path / "x.control", tmp_path / "x.data")
    for name in names:
        name.touch()
    run = subprocess.run(
        [sys.executable, "-P", "-m", "bptcnn.nodes.agent", *map(str, names)],
        input=content,
        capture_output=True,
        timeout=SECONDS,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    said = run.stderr.decode()
    assert run.returncode in (2, 3), said
    assert run.stdout == b""
    assert not any(name.exists() for name in names), "the sockets' names are left"
    return said


def framed(content: bytes) -> bytes:
    return struct.pack("!i", len(content)) + content


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00",
        b"hello\n",  # 1.7 GB, says its head
        struct.pack("!i", 2**31 - 1) + b"x",
        struct.pack("!iQ", -1, 2**62),
        struct.pack("!iQ", -1, 2**64 - 1),
        struct.pack("!i", -5),
        framed(b"{}"),
        framed(b"{" * 1000),
        framed(b"\x80\x04."),
        framed(b"\xff" * 1000),
    ],
    ids=range(11),
)
def test_an_agent_that_gets_no_configuration_says_so_in_a_line(tmp_path: Path, content: bytes) -> None:
    said = agent_says(tmp_path, content)
    # standard input has ended, too: whichever the agent sees first ends it
    assert said.count("\n") <= 1, said
    assert "Traceback" not in said


def test_an_agent_does_not_unpickle_what_comes_through_ssh(tmp_path: Path) -> None:
    agent_says(tmp_path, framed(pickle.dumps(Trap(tmp_path / "touched"))))
    assert not (tmp_path / "touched").exists()
