"""Names of any bytes go into text and come back; ~ is a home folder; every text has an encoding that is said."""

import ast
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from bptcnn.errors import UserError
from bptcnn.names import file_name, path_of, text_of
from bptcnn.networks import Dense, Flatten, Network

ROOT = Path(__file__).parent.parent
SOURCES = sorted([*(ROOT / "bptcnn").rglob("*.py"), *(ROOT / "cli").rglob("*.py")])
PARTS = st.binary(min_size=1, max_size=255).filter(lambda part: not set(part) & set(b"\0/"))


@given(part=PARTS)
def test_names_of_any_bytes_come_back_from_text_that_toml_holds(part: bytes) -> None:
    path = os.fsdecode(b"/somewhere/" + part)
    text = text_of(path)
    assert text.isprintable()
    assert tomllib.loads(tomli_w.dumps({"data": text}))["data"] == text
    assert os.fsencode(str(path_of(text))) == os.fsencode(str(Path(path)))


def test_what_is_text_stays_as_it_is() -> None:
    for name in ("cnn2", "/a b/é.npz", "", "../x", "C:\\x"):
        assert text_of(name) == name
    assert text_of(os.fsdecode(b"/d\xe9ta.npz")) == "file:///d%E9ta.npz"
    assert text_of("/a\nb") == "file:///a%0Ab"
    assert path_of("file://localhost/a%20b") == Path("/a b")


@pytest.mark.parametrize("text", ["file:///a%00b", "a\0b", "file:///\ud800x", "\ud800"])
def test_what_no_file_can_be_called_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="cannot be the name of a file") as caught:
        path_of(text)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("text", ["file://elsewhere/a", "file://", "file://a"])
def test_uris_of_other_machines_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="file URI of this machine"):
        path_of(text)


def test_home_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    monkeypatch.chdir(tmp_path)
    assert path_of("~") == Path("/home/ann")
    assert path_of(Path("~/runs/a")) == Path("/home/ann/runs/a")
    assert path_of("~root/a").parts[-1] == "a"
    assert "~" not in str(path_of("~root/a"))
    assert path_of("a/~/b") == Path("a/~/b")
    literal = path_of("./~/b")
    assert literal == path_of(literal) == tmp_path / "~" / "b"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be a user without a home folder")
def test_who_has_no_home_folder_is_told_so() -> None:
    code = "import os; from bptcnn.names import path_of; import pwd; os.setuid(54321); path_of('~/a')"
    environment = {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]}
    ended = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=False)
    assert b"UserError: ~/a: you have no home folder here: set HOME" in ended.stderr, ended


def test_files_are_called_the_same_in_every_locale() -> None:
    code = "import os, sys; sys.path[:0] = [sys.argv[1]]; from bptcnn.names import *; "
    code += "sys.stdout.buffer.write(os.fsencode(file_name('n\\xe9')) + text_of(sys.argv[2]).encode())"
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-c", code, str(ROOT), "/é"]
    assert subprocess.run(command, env=environment, capture_output=True, check=True).stdout == "né/é".encode()
    assert file_name("né") == "né"


@pytest.mark.parametrize("name", [5, None, "n" * 201])
def test_a_networks_name_is_short_text(name: object) -> None:
    """Else a run would train and could not be read again."""
    with pytest.raises(UserError, match="name is text of at most 200 characters"):
        Network((4, 4, 1), [Flatten(), Dense(2)], name)  # type: ignore[arg-type]


def test_a_networks_name_is_printable() -> None:
    network = Network((4, 4, 1), [Flatten(), Dense(2)], os.fsdecode(b"n\xe9t\n"))
    assert network.name == "n\\xe9t "
    assert Network.from_dict(network.to_dict()).name == network.name


def _lacks_encoding(call: ast.Call) -> bool:
    """Whether a call reads or writes text in an encoding that the locale says."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    said = {keyword.arg: keyword.value for keyword in call.keywords}
    if "encoding" in said or None in said:
        return False
    if name in ("read_text", "write_text"):
        return not isinstance(call.func, ast.Name)  # `untrusted.read_text` is UTF-8
    if name == "open":
        owner = getattr(getattr(call.func, "value", None), "id", "")
        if owner in ("os", "gzip", "RunFolder", "cls"):
            return False
        strings = [a.value for a in (*call.args, said.get("mode")) if isinstance(a, ast.Constant)]
        modes = [value for value in strings if isinstance(value, str) and set(value) <= set("rwaxbt+")]
        opens_file = isinstance(call.func, ast.Name) or bool(modes)
        return opens_file and not any("b" in mode for mode in modes)
    wants_text = any(isinstance(said.get(key), ast.Constant) for key in ("text", "universal_newlines"))
    return name in ("run", "Popen", "check_output", "call") and wants_text


@pytest.mark.parametrize("line", ["p.read_text()", "p.open('a')", "open(p)", "run(c, text=True)", "open(p, 'w')"])
def test_what_lacks_an_encoding_is_found(line: str) -> None:
    (call,) = [node for node in ast.walk(ast.parse(line)) if isinstance(node, ast.Call)]
    assert _lacks_encoding(call)


def test_every_text_has_an_encoding() -> None:
    found = [
        f"{source.relative_to(ROOT)}:{node.lineno}"
        for source in SOURCES
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and _lacks_encoding(node)
    ]
    assert found == []
