"""Hosts files: which machines train, how SSH finds each, and which Python runs there.

TOML with a [[host]] table per host, or an Open MPI hostfile with a `python=` field in its lines. A file whose name ends
in .toml, or that has a line that begins with "[[", is TOML.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bptcnn.errors import UserError
from bptcnn.names import path_of
from bptcnn.untrusted import Malformed, parse_toml, read_text

LOCAL_NAME = "local"
_MOST_HOSTS = 256  # each is an ssh process and a connection of the coordinator's
_MOST_THREADS = 4096
_MOST_NAME_BYTES = 240  # a file's name has 255
_MOST_NAME, _MOST_ADDRESS = 100, 255  # characters: names are parts of file names, addresses are DNS names
_MOST_LINE = 10_000  # characters
TIMEOUT_SECONDS = 30.0  # a login through two-factor systems, or with a home on a network, takes 10 to 20
_LEAST_TIMEOUT, _MOST_TIMEOUT = 1.0, 3600.0  # seconds
_KEYS = ("address", "python", "port", "threads", "workdir", "env", "name", "local", "timeout")
_LOCAL_KEYS = ("local", "name", "threads", "timeout")
_FIELDS = ("python", "slots", "max_slots", "max-slots")


@dataclass(frozen=True)
class Host:
    """A machine that trains. `address` is what ssh is given; `local` is this one, reached without SSH.

    `python` is an absolute path on the host ("" for local: the Python that runs). A relative `workdir` starts from the
    user's home there. `threads`, where given, is how many a node on this host uses. `timeout`: seconds for each step of
    reaching it: connecting, logging in until Python answers, telling about itself.
    """

    name: str
    address: str = ""
    python: str = ""
    port: int | None = None
    threads: int | None = None
    workdir: str | None = None
    env: tuple[tuple[str, str], ...] = ()
    local: bool = False
    timeout: float = TIMEOUT_SECONDS


def checked_timeout(what: str, seconds: object) -> float:
    """Return a time-out in seconds; raise UserError, which names `what` it is, where it cannot be one."""
    number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if not number or not _LEAST_TIMEOUT <= seconds <= _MOST_TIMEOUT:  # type: ignore[operator]
        raise UserError(
            f"{what} must be a number of seconds from {_LEAST_TIMEOUT:g} to {_MOST_TIMEOUT:g}, not {seconds!r:.100}"
        )
    return float(seconds)  # type: ignore[arg-type]


def read_hosts(path: Path, timeout: float | None = None) -> tuple[Host, ...]:
    """Read a hosts file, at most 256 hosts, all with names of their own; raise UserError where it is not one.

    `timeout`: seconds that go before what the file says.
    """
    path = path_of(path)
    text = read_text(path, "hosts file")
    is_toml = path.suffix == ".toml" or any(line.lstrip().startswith("[[") for line in text.splitlines())
    entries = _toml_entries(path, text) if is_toml else _hostfile_entries(path, text)
    if not entries:
        what = "a [[host]] table with address and python" if is_toml else "a line `HOST slots=N python=/PATH`"
        raise UserError(f"{path} names no host: give each {what}")
    if len(entries) > _MOST_HOSTS:
        raise UserError(f"{path} names {len(entries)} hosts: {_MOST_HOSTS} are the most; remove some")
    hosts = [_host(place, values, is_toml) for place, values in entries]
    if sum(host.local for host in hosts) > 1:
        raise UserError(f"{path} names this machine twice: keep one local entry (threads says how many threads it has)")
    if timeout is not None:
        timeout = checked_timeout("--host-timeout", timeout)
        hosts = [replace(host, timeout=timeout) for host in hosts]
    return _named(path, hosts)


def host_from(place: str, values: Mapping[str, Any]) -> Host:
    """Return the host that keys as in a TOML hosts file describe; raise UserError, with the `place` they are from."""
    unknown = sorted(set(values) - set(_KEYS))
    if unknown:
        raise UserError(f"{place}: unknown key {unknown[0]!r:.200}: known are {', '.join(_KEYS)}")
    host = _host(place, values, is_toml=True)
    return host if host.name else replace(host, name=_machine(host))


def host_keys(host: Host) -> dict[str, Any]:
    """Return the keys that `host_from` makes the host of."""
    values = {name: value for name, value in vars(host).items() if value not in (None, "", (), False)}
    return {**values, "env": dict(host.env)} if host.env else values


def checked_name(place: str, name: str) -> str:
    """Return a node's name; raise UserError where it cannot be one."""
    return _name(place, {"name": name})


def _toml_entries(path: Path, text: str) -> list[tuple[str, Mapping[str, Any]]]:
    """Return (where it stands, its keys) of each host."""
    try:
        document = parse_toml(text)
    except Malformed as error:
        raise UserError(f"{path} is not TOML: {error}") from None
    unknown = sorted(set(document) - {"host", "timeout"})
    if unknown:
        raise UserError(f"{path}: unknown {unknown[0]!r:.200}: a hosts file has timeout and [[host]] tables only")
    common = {"timeout": checked_timeout(f"{path}: timeout", document["timeout"])} if "timeout" in document else {}
    tables = document.get("host", [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise UserError(f"{path}: write [[host]], in double brackets, above each host's keys")
    entries: list[tuple[str, Mapping[str, Any]]] = []
    for number, table in enumerate(tables, 1):
        place = _place(path, f"host {number}", table.get("name") or table.get("address"))
        unknown = sorted(set(table) - set(_KEYS))
        if unknown:
            raise UserError(f"{place}: unknown key {unknown[0]!r:.200}: known are {', '.join(_KEYS)}")
        entries.append((place, {**common, **table}))
    return entries


def _hostfile_entries(path: Path, text: str) -> list[tuple[str, Mapping[str, Any]]]:
    """Return (where it stands, its fields under their names in TOML) of each line that names a host."""
    entries: list[tuple[str, Mapping[str, Any]]] = []
    for number, line in enumerate(text.splitlines(), 1):
        if len(line) > _MOST_LINE:
            raise UserError(f"{_place(path, f'line {number}', None)} has more than {_MOST_LINE} characters")
        words = re.sub(r"\s*=\s*", "=", line.partition("#")[0].strip()).split()
        if not words:
            continue
        place = _place(path, f"line {number}", words[0])
        values: dict[str, Any] = {"local": True} if words[0] == "localhost" else {"address": words[0]}
        for word in words[1:]:
            field, _, value = word.partition("=")
            if field not in _FIELDS or not value:
                raise UserError(f"{place}: unknown {word!r:.200}: fields are slots=N, max_slots=N and python=/PATH")
            if field == "python":
                values["python"] = value
                continue
            if not re.fullmatch(r"[0-9]{1,9}", value):
                raise UserError(f"{place}: {field} is {value!r:.200}: give a whole number")
            if field == "slots":  # max_slots bounds oversubscription, which we never do
                values["threads"] = int(value)
        entries.append((place, values))
    return entries


def _host(place: str, values: Mapping[str, Any], is_toml: bool) -> Host:
    """Return the host that these keys describe; its name is "" where none is given."""
    local = _taken(place, values, "local", bool, "true or false") or False
    timeout = checked_timeout(f"{place}: timeout", values.get("timeout", TIMEOUT_SECONDS))
    if local:
        unknown = sorted(set(values) - set(_LOCAL_KEYS))
        if unknown:
            why = "does not go with this machine, which runs the Python you run now"
            raise UserError(f"{place}: {unknown[0]!r:.200} {why}: remove it")
        threads = _whole(place, values, "threads", _MOST_THREADS)
        return Host(_name(place, values), threads=threads, local=True, timeout=timeout)
    return Host(
        _name(place, values),
        address=_address(place, values),
        python=_python(place, values, is_toml),
        port=_whole(place, values, "port", 65535),
        threads=_whole(place, values, "threads", _MOST_THREADS),
        workdir=_workdir(place, values),
        env=_env(place, values),
        timeout=timeout,
    )


def _taken(place: str, values: Mapping[str, Any], key: str, kind: type, wanted: str) -> Any:
    value = values.get(key)
    if value is not None and type(value) is not kind:  # a bool is no port
        raise UserError(f"{place}: {key} is {value!r:.200}: give {wanted}")
    return value


def _text(place: str, values: Mapping[str, Any], key: str, wanted: str) -> str | None:
    """Return a string that is neither empty nor has characters that would end a line of a shell."""
    text: str | None = _taken(place, values, key, str, wanted)
    if text is not None and (not text.strip() or not text.isprintable()):
        raise UserError(f"{place}: {key} is {text!r:.200}: give {wanted}")
    return text


def _whole(place: str, values: Mapping[str, Any], key: str, most: int) -> int | None:
    number: int | None = _taken(place, values, key, int, f"a whole number from 1 to {most}")
    if number is not None and not 1 <= number <= most:
        raise UserError(f"{place}: {key} is {number}: give a whole number from 1 to {most}")
    return number


def _name(place: str, values: Mapping[str, Any]) -> str:
    wanted = f"up to {_MOST_NAME} characters ({_MOST_NAME_BYTES} bytes) without blanks and slashes, not - or . first"
    name = _text(place, values, "name", wanted)
    too_long = name is not None and (len(name) > _MOST_NAME or len(name.encode()) > _MOST_NAME_BYTES)
    if name is not None and (too_long or re.search(r"\s|/|^[-.]", name)):
        raise UserError(f"{place}: name is {name!r:.200}: give {wanted}")
    return name or ""


def _address(place: str, values: Mapping[str, Any]) -> str:
    wanted = "what you would give to ssh: a host name, user@host, or an alias of your ssh configuration"
    address = _text(place, values, "address", wanted)
    if address is None:
        raise UserError(f"{place}: no address: give {wanted} (or local = true for this machine)")
    if "://" in address or address.rpartition("@")[2].count(":") == 1:
        raise UserError(f"{place}: address is {address!r:.200}: give user@host, and the port by itself (port = N)")
    machine = address.rpartition("@")[2]
    # ssh would take what begins with - for an option
    if re.search(r"\s|/|^[-@]", address) or machine[:1] in ("", "-", ".") or len(address) > _MOST_ADDRESS:
        raise UserError(f"{place}: address is {address!r:.200}: give {wanted}")
    return address


def _python(place: str, values: Mapping[str, Any], is_toml: bool) -> str:
    python = _text(place, values, "python", "the absolute path of a Python on that host")
    if python is None:
        how = 'add python = "/PATH/TO/python"' if is_toml else "add python=/PATH/TO/python to the line, or use TOML"
        raise UserError(f"{place}: no Python: {how} (ask the host: command -v python3)")
    if not python.startswith("/") or "=" in python:  # `env` would take a path with = for a variable
        raise UserError(f"{place}: python is {python!r:.200}: give an absolute path on that host, without =")
    return python


def _workdir(place: str, values: Mapping[str, Any]) -> str | None:
    workdir = _text(place, values, "workdir", "a folder on that host")
    if workdir is not None and workdir.startswith("~"):
        raise UserError(
            f"{place}: workdir is {workdir!r:.200}: leave out ~/, relative folders start from your home there"
        )
    return workdir


def _env(place: str, values: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    env = _taken(place, values, "env", dict, 'a table of strings, such as { OMP_PROC_BIND = "true" }') or {}
    for name, value in env.items():
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise UserError(f"{place}: env has {name!r:.200}: names are letters, digits and _, and begin with no digit")
        if not isinstance(value, str) or not (value.isprintable() or value == ""):
            raise UserError(f"{place}: env.{name} is {value!r:.200}: give a string on one line, in quotes")
    return tuple(env.items())


def _named(path: Path, hosts: Sequence[Host]) -> tuple[Host, ...]:
    """Give hosts without a name that of their machine, with -2, -3, ... where it is taken."""
    taken: set[str] = set()
    for host in hosts:
        if host.name in taken:
            raise UserError(f"{path}: two hosts have the name {host.name!r:.200}: give each its own")
        taken |= {host.name} - {""}
    named = []
    for host in hosts:
        if not host.name:
            base = _machine(host)
            choices = (base, *(f"{base}-{number}" for number in range(2, _MOST_HOSTS + 2)))
            host = replace(host, name=next(name for name in choices if name not in taken))
            taken.add(host.name)
        named.append(host)
    return tuple(named)


def _machine(host: Host) -> str:
    return LOCAL_NAME if host.local else host.address.rpartition("@")[2][:_MOST_NAME]


def _place(path: Path, where: str, label: object) -> str:
    return f"{path}, {where}" + (f" ({label:.100})" if isinstance(label, str) and label.isprintable() and label else "")
