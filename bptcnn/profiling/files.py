"""Profile files, as profiles/README.md explains them to users, and tuning files: TOML whose tables are dataclasses.

A file is read strictly, every key required and none besides: a mistyped key is an error and not a default.
"""

import dataclasses
import math
import os
import sys
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import tomli_w

from bptcnn.errors import UserError
from bptcnn.files import make_folder, write_atomically
from bptcnn.profiling.records import VERSION, Profile, TuningRecord
from bptcnn.untrusted import Malformed, parse_toml, read_text

R = TypeVar("R")

_MAY_BE_ZERO = frozenset(
    [
        *("quota_cores", "frequency_ghz", "l1_kb", "l2_kb", "l3_kb"),  # no limit, or not known
        *("forward_ms", "forward_gflops", "forward_peak_share", "other_ms", "idle_share"),
        *("backward_ms", "backward_gflops", "backward_peak_share"),
        "parts",  # as many as ranges
    ]
)
_HEADER = "# What bptcnn measured on a machine; profiles/README.md explains the keys.\n"
_LARGEST = 2**53  # whole numbers above are no longer exact in every TOML reader
_MOST_BYTES = 16 << 20  # of a file: a layer takes 300
_LEAST = sys.float_info.min  # of what is to be more than 0
_SCALARS = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


class _Wrong(Exception):
    """What is wrong with the value of a key."""


def write_profile(path: str | os.PathLike[str], profile: Profile) -> None:
    """Write a profile file, whole or not at all. Raises UserError where it cannot be written or not be read again."""
    _write(path, profile, _HEADER)


def read_profile(path: str | os.PathLike[str]) -> Profile:
    """Read a profile file. Raises UserError, one line naming the file and the key, for anything that is not one."""
    if not os.path.lexists(path):
        raise UserError(f"no profile at {path}: measure one with `bptcnn profile --output {path}`")
    return _read(path, Profile, "profile")


def write_tuning(path: str | os.PathLike[str], record: TuningRecord) -> None:
    """Write a tuning file, whole or not at all. Raises UserError where it cannot be written."""
    _write(path, record, "# How bptcnn computes a network's steps, by measurement.\n")


def read_tuning(path: str | os.PathLike[str]) -> TuningRecord:
    """Read a tuning file. Raises UserError, one line naming the file and the key, for anything that is not one."""
    return _read(path, TuningRecord, "tuning record")


def _write(path: str | os.PathLike[str], record: Any, header: str) -> None:
    document = _plain(record)
    try:
        _record(type(record), document, "")
    except _Wrong as error:
        raise UserError(f"cannot write {path}: {error}") from None
    place = Path(path)
    try:
        make_folder(place.parent)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None
    write_atomically(place, header + tomli_w.dumps(document))


def _read(path: str | os.PathLike[str], kind: type[R], what: str) -> R:
    try:
        document = parse_toml(read_text(path, what, _MOST_BYTES), _MOST_BYTES)
    except Malformed as error:
        raise UserError(f"{path} is no {what}: not TOML: {_one_line(str(error))}") from None
    try:
        if "version" in document and document["version"] != VERSION:
            raise _Wrong(f"version must be {VERSION}, not {_shown(document['version'])}: measure again")
        return _record(kind, document, "")
    except _Wrong as error:
        raise UserError(f"{what} {path}: {error}") from None


def _plain(record: Any) -> dict[str, Any]:
    """Return a record as TOML's types, plain values before tables, `version` first."""
    values = {}
    for field in sorted(dataclasses.fields(record), key=lambda field: field.name != "version"):
        value = getattr(record, field.name)
        if dataclasses.is_dataclass(value):
            value = _plain(value)
        elif isinstance(value, tuple):
            value = [_plain(item) if dataclasses.is_dataclass(item) else item for item in value]
        elif isinstance(value, float) and math.isfinite(value):
            value = float(f"{value:.6g}") if value else 0.0  # measurements have no more digits; -0.0 is 0
        values[field.name] = value
    return values


def _record(kind: type[R], value: object, where: str) -> R:
    """Build the dataclass `kind` from a TOML table; `where` is the table's place with a dot behind it."""
    if not isinstance(value, dict):
        raise _Wrong(f"{where.rstrip('.')} must be a table, not {_shown(value)}")
    types = get_type_hints(kind)
    unknown = [key for key in value if key not in types]
    if unknown:
        raise _Wrong(f"unknown key {_shown(where + unknown[0])}: the keys are {', '.join(types)}")
    missing = [key for key in types if key not in value]
    if missing:
        raise _Wrong(f"{where}{missing[0]} is missing")
    return kind(**{key: _value(types[key], value[key], where, key) for key in types if key in value})


def _value(kind: Any, value: object, where: str, key: str) -> Any:
    if get_origin(kind) is tuple:
        if not isinstance(value, list):
            raise _Wrong(f"{where}{key} must be a list, not {_shown(value)}")
        items = get_args(kind)
        if items[-1] is Ellipsis:
            return tuple(_record(items[0], element, f"{where}{key}[{n}].") for n, element in enumerate(value))
        if len(value) != len(items):
            raise _Wrong(f"{where}{key} must have {len(items)} numbers, not {len(value)}")
        return tuple(_scalar(item, element, where, key) for item, element in zip(items, value, strict=True))
    if dataclasses.is_dataclass(kind):
        return _record(kind, value, f"{where}{key}.")  # type: ignore[arg-type]
    return _scalar(kind, value, where, key)


def _scalar(kind: Any, value: object, where: str, key: str) -> str | int | float:
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise _Wrong(f"{where}{key} must be one of {', '.join(get_args(kind))}, not {_shown(value)}")
        return str(value)
    allowed = (int, float) if kind is float else kind
    if not isinstance(value, allowed) or isinstance(value, bool) != (kind is bool):
        raise _Wrong(f"{where}{key} must be {_SCALARS[kind]}, not {_shown(value)}")
    if kind is bool:
        return bool(value)
    if isinstance(value, str):
        if not value:
            raise _Wrong(f"{where}{key} must not be empty")
        return value
    most = 1 if key == "idle_share" else _LARGEST if isinstance(value, int) else sys.float_info.max
    if not ((0 if key in _MAY_BE_ZERO else _LEAST) <= value <= most):  # NaN and infinity neither
        least = "at least 0" if key in _MAY_BE_ZERO else "more than 0"
        most_shown = "at most 1" if most == 1 else "finite"
        raise _Wrong(f"{where}{key} must be {least} and {most_shown}, not {_shown(value)}")
    return float(value) if kind is float else value


def _shown(value: object) -> str:
    """A value as one short line; a number of any size."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # more digits than Python prints; nested too deeply
        return f"a {type(value).__name__}"
    return _one_line(text)


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 80 else f"{line[:77]}..."
