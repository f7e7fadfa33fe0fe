"""Hosts files: what they mean, and the one line that says what is wrong with one."""

import contextlib
import re
import tomllib
from pathlib import Path

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from bptcnn.errors import UserError
from bptcnn.nodes.hosts import Host, host_from, host_keys, read_hosts

PYTHON = "/venv/bin/python"


def read(folder: Path, text: str, name: str = "hosts.toml") -> tuple[Host, ...]:
    path = folder / name
    path.write_text(text)
    return read_hosts(path)


def refusal(folder: Path, text: str | bytes, name: str = "hosts.toml") -> str:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError) as caught:
        read_hosts(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message.replace(str(path), "FILE")


def entry(**values: object) -> str:
    """A host's table, with an address and a Python unless given; None leaves a key out."""
    complete = {"address": "ann@fast", "python": PYTHON, **values}
    lines = tomli_w.dumps({key: value for key, value in complete.items() if value is not None})
    return "[[host]]\n" + lines.replace("[env]", "[host.env]")


def test_the_nearest_timeout_counts(tmp_path: Path) -> None:
    text = f"timeout = 60\n{entry()}\n{entry(timeout=2.5)}\n[[host]]\nlocal = true\n"
    assert [host.timeout for host in read(tmp_path, text)] == [60.0, 2.5, 60.0]
    assert [host.timeout for host in read_hosts(tmp_path / "hosts.toml", 7.0)] == [7.0, 7.0, 7.0]
    assert [host.timeout for host in read(tmp_path, entry())] == [30.0]
    assert [host.timeout for host in read(tmp_path, "fast python=/p\n", "hostfile")] == [30.0]


@pytest.mark.parametrize("value", ["0", "-1", "0.5", "3601", "nan", "inf", "true", "'30'", "[30]"])
def test_a_timeout_that_is_none_is_refused(tmp_path: Path, value: str) -> None:
    wanted = "timeout must be a number of seconds from 1 to 3600, not "
    assert refusal(tmp_path, f"timeout = {value}\n{entry()}").startswith(f"FILE: {wanted}")
    assert refusal(tmp_path, f"{entry()}timeout = {value}").startswith(f"FILE, host 1 (ann@fast): {wanted}")


def test_a_host_that_joins_keeps_its_timeout(tmp_path: Path) -> None:
    (host,) = read(tmp_path, entry(timeout=45.0))
    assert host_from("it", host_keys(host)) == host


def test_every_key(tmp_path: Path) -> None:
    text = """
    [[host]]
    address = "ann@fast.example.org"
    python = "/venv/bin/python"
    port = 2222
    threads = 8
    workdir = "runs of mine"
    name = "fast"
    [host.env]
    A = "1 2"
    B_2 = ""
    [[host]]
    address = "old"
    python = "/opt/python"
    [[host]]
    local = true
    threads = 2
    """
    assert read(tmp_path, text) == (
        Host("fast", "ann@fast.example.org", PYTHON, 2222, 8, "runs of mine", (("A", "1 2"), ("B_2", ""))),
        Host("old", "old", "/opt/python"),
        Host("local", threads=2, local=True),
    )


@pytest.mark.parametrize("name", ["hosts.toml", "hosts", "cluster.txt"])
def test_toml_is_known_by_its_name_or_its_tables(tmp_path: Path, name: str) -> None:
    assert read(tmp_path, f"# mine\n{entry()}", name) == (Host("fast", "ann@fast", PYTHON),)


def test_an_open_mpi_hostfile(tmp_path: Path) -> None:
    text = f"""
    # the cluster
    fast slots=8 max_slots=16 python={PYTHON}
    bob@old slots = 2 python = {PYTHON}  # slow
    localhost slots=4
    10.0.0.7 python={PYTHON}
    localhost.localdomain python={PYTHON} max-slots=4
    """
    assert read(tmp_path, text, "hostfile") == (
        Host("fast", "fast", PYTHON, threads=8),
        Host("old", "bob@old", PYTHON, threads=2),
        Host("local", threads=4, local=True),
        Host("10.0.0.7", "10.0.0.7", PYTHON),
        Host("localhost.localdomain", "localhost.localdomain", PYTHON),
    )


def test_names_are_unique(tmp_path: Path) -> None:
    hosts = [
        {"address": "ann@a", "python": PYTHON},
        {"address": "bob@a", "python": PYTHON},
        {"address": "c", "python": PYTHON, "name": "a-2"},
        {"address": "a", "python": PYTHON},
        {"address": "::1", "python": PYTHON},
        {"address": "d", "python": PYTHON, "name": "local"},
        {"local": True},
    ]
    names = [host.name for host in read(tmp_path, tomli_w.dumps({"host": hosts}))]
    assert names == ["a", "a-3", "a-2", "a-4", "::1", "local", "local-2"]


def test_a_name_given_twice_is_refused(tmp_path: Path) -> None:
    text = entry(name="a") + entry(name="a", address="other")
    assert refusal(tmp_path, text) == "FILE: two hosts have the name 'a': give each its own"


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ({"address": None}, "no address: give what you would give to ssh"),
        ({"address": ""}, "address is ''"),
        ({"address": 7}, "address is 7"),
        ({"address": "-oProxyCommand=touch /tmp/x"}, "address is '-oProxyCommand"),
        ({"address": "ann@-oProxyCommand=x"}, "address is 'ann@-oProxyCommand=x'"),
        ({"address": "@fast"}, "address is '@fast'"),
        ({"address": "ann@"}, "address is 'ann@'"),
        ({"address": "fast one"}, "address is 'fast one'"),
        ({"address": "fast\tone"}, "address is 'fast\\tone'"),
        ({"address": "fast\x1b[2J"}, "address is 'fast\\x1b[2J'"),
        ({"address": "fast\nHost"}, "address is 'fast\\nHost'"),
        ({"address": "../fast"}, "address is '../fast'"),
        ({"address": "a" * 256}, "address is 'aaa"),
        ({"address": "fast:22"}, "the port by itself (port = N)"),
        ({"address": "ssh://ann@fast"}, "the port by itself (port = N)"),
        ({"python": None}, 'no Python: add python = "/PATH/TO/python"'),
        ({"python": "python3"}, "python is 'python3': give an absolute path"),
        ({"python": "~/venv/bin/python"}, "give an absolute path"),
        ({"python": "/a=b/python"}, "give an absolute path on that host, without ="),
        ({"python": "/a\n/python"}, "python is '/a\\n/python'"),
        ({"python": ["/a"]}, "python is ['/a']"),
        ({"port": 0}, "port is 0: give a whole number from 1 to 65535"),
        ({"port": 65536}, "port is 65536"),
        ({"port": "22"}, "port is '22'"),
        ({"port": True}, "port is True"),
        ({"threads": 0}, "threads is 0: give a whole number from 1"),
        ({"threads": 5000}, "threads is 5000"),
        ({"threads": 1.5}, "threads is 1.5"),
        ({"workdir": "~/x"}, "leave out ~/"),
        ({"workdir": " "}, "workdir is ' '"),
        ({"workdir": 1}, "workdir is 1"),
        ({"env": "A=1"}, "env is 'A=1': give a table of strings"),
        ({"env": {"A-B": "1"}}, "env has 'A-B'"),
        ({"env": {"1A": "1"}}, "env has '1A'"),
        ({"env": {"": "1"}}, "env has ''"),
        ({"env": {"A": 1}}, "env.A is 1: give a string on one line, in quotes"),
        ({"env": {"A": "1\n2"}}, "env.A is '1\\n2'"),
        ({"name": "a b"}, "name is 'a b'"),
        ({"name": "a/b"}, "name is 'a/b'"),
        ({"name": ".."}, "name is '..'"),
        ({"name": "-a"}, "name is '-a'"),
        ({"name": ""}, "name is ''"),
        ({"name": "a" * 101}, "name is 'aaa"),
        ({"name": 1}, "name is 1"),
        ({"local": "yes"}, "local is 'yes': give true or false"),
        ({"local": True}, "'address' does not go with this machine"),
        ({"pyhton": PYTHON}, "unknown key 'pyhton': known are address, python,"),
    ],
)
def test_a_wrong_entry_is_named(tmp_path: Path, values: dict[str, object], wanted: str) -> None:
    good = entry(name="good")
    message = refusal(tmp_path, good + entry(**values))
    assert message.startswith("FILE, host 2")
    assert wanted in message


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (b"", "FILE names no host: give each a [[host]] table with address and python"),
        (b"# nothing\n", "FILE names no host"),
        (b"host = []", "FILE names no host"),
        (b"[[host", "FILE is not TOML: "),
        (b"[host]\naddress = 'a'", "FILE: write [[host]], in double brackets"),
        (b"host = ['a']", "FILE: write [[host]], in double brackets"),
        (b"host = 'a'", "FILE: write [[host]], in double brackets"),
        (b"[[hosts]]\naddress = 'a'", "FILE: unknown 'hosts': a hosts file has timeout and [[host]] tables only"),
        (b"\xff", "cannot read the hosts file FILE: it is no text in UTF-8"),
        (b"[[host]]\nlocal = true\n[[host]]\nlocal = true\nname = 'b'", "FILE names this machine twice"),
    ],
)
def test_a_wrong_toml_file(tmp_path: Path, text: bytes, wanted: str) -> None:
    assert refusal(tmp_path, text).startswith(wanted)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", "FILE names no host: give each a line `HOST slots=N python=/PATH`"),
        ("fast slots=2", "FILE, line 1 (fast): no Python: add python=/PATH/TO/python to the line, or use TOML"),
        ("\nfast slots=0 python=/p", "FILE, line 2 (fast): threads is 0"),
        ("fast slots=many python=/p", "FILE, line 1 (fast): slots is 'many': give a whole number"),
        ("fast slots=-1 python=/p", "FILE, line 1 (fast): slots is '-1'"),
        ("fast max_slots=x python=/p", "FILE, line 1 (fast): max_slots is 'x'"),
        ("fast slots= python=/p", "FILE, line 1 (fast): slots is 'python=/p'"),
        ("fast slots", "FILE, line 1 (fast): unknown 'slots': fields are slots=N, max_slots=N and python=/PATH"),
        ("fast port=22 python=/p", "FILE, line 1 (fast): unknown 'port=22'"),
        ("fast python=p", "FILE, line 1 (fast): python is 'p'"),
        ("-oA python=/p", "FILE, line 1 (-oA): address is '-oA'"),
        ("fast:4 python=/p", "FILE, line 1 (fast:4): address is 'fast:4'"),
        ("localhost python=/p", "FILE, line 1 (localhost): 'python' does not go with this machine"),
        ("localhost\nlocalhost", "FILE names this machine twice"),
        ("fast\x1b[2J python=/p", "FILE, line 1: address is 'fast\\x1b[2J'"),
    ],
)
def test_a_wrong_hostfile(tmp_path: Path, text: str, wanted: str) -> None:
    assert refusal(tmp_path, text, "hostfile").startswith(wanted)


def test_256_hosts_are_the_most(tmp_path: Path) -> None:
    lines = [f"h{number} python=/p" for number in range(257)]
    assert len(read(tmp_path, "\n".join(lines[:256]), "hostfile")) == 256
    assert refusal(tmp_path, "\n".join(lines), "hostfile") == "FILE names 257 hosts: 256 are the most; remove some"


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no hosts file at"):
        read_hosts(tmp_path / "none.toml")
    with pytest.raises(UserError, match=r"cannot read the hosts file .*: Is a directory"):
        read_hosts(tmp_path)


TEXT = st.text(st.characters(codec="utf-8"), max_size=30)
VALUES = st.recursive(TEXT | st.booleans() | st.integers(-9, 99999), lambda v: st.lists(v) | st.dictionaries(TEXT, v))
KEYS = st.sampled_from(("address", "python", "port", "threads", "workdir", "env", "name", "local")) | TEXT


def read_or_refused(path: Path) -> tuple[Host, ...]:
    """Return the hosts of a file, none where it is refused, as it must be: by its name."""
    with contextlib.suppress(UserError):
        return read_hosts(path)
    with pytest.raises(UserError, match=re.escape(str(path))):
        read_hosts(path)
    return ()


@given(st.lists(st.dictionaries(KEYS, VALUES), max_size=4) | VALUES, st.booleans())
def test_whatever_it_holds_it_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, tables: object, complete: bool
) -> None:
    if complete and isinstance(tables, list):
        tables = [{"address": "a", "python": "/p", **table} if isinstance(table, dict) else table for table in tables]
    path = tmp_path_factory.mktemp("hosts") / "hosts.toml"
    path.write_text(tomli_w.dumps({"host": tables}), encoding="utf-8", newline="")
    tomllib.loads(path.read_bytes().decode())
    hosts = read_or_refused(path)
    assert len({host.name for host in hosts}) == len(hosts)
    assert all(host.local or host.python.startswith("/") for host in hosts)


@given(TEXT)
def test_any_text_as_a_hostfile_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("hosts") / "hostfile"
    path.write_text(text, encoding="utf-8", newline="")
    hosts = read_or_refused(path)
    assert all(host.local or host.address[0] != "-" for host in hosts)


@pytest.mark.parametrize(
    "text",
    [
        "host = " + "[" * 100_000,
        "a" + ".a" * 200_000 + " = 1",
        "[[host]]\naddress = 'a'\npython = '/p'\nport = " + "9" * 5000,
        "[[host]]\naddress = 'a'\npython = \"/" + "p\\u001b[2J" * 1000 + '"',
        f"[[host]]\naddress = '{'a' * 100_000}'\npython = '/p'",
        "[[host]]\nlocal = true\n" * 50_000,
        "#" * (1 << 21),
        "a" + " " * 1_000_000 + "b",
    ],
    ids=["nested", "long key", "digits", "escapes", "long", "many", "2 MB", "blanks"],
)
def test_absurd_files_are_refused_in_one_short_line(tmp_path: Path, text: str) -> None:
    message = refusal(tmp_path, text.encode())
    assert message.isprintable()
    assert len(message) < 1000
