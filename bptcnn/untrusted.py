"""What comes from outside: files, packets, hosts. One decoder for all of it, bounded in size, depth and time.

Guarantees, for whatever bytes come: a function here returns what it promises, or raises Malformed (`read_text`:
UserError) with one printable line; it runs nothing of what it reads, and takes time and memory in proportion to the
bytes. Rooms declare what they take as dataclasses, the ranges in the types, and get them built by `build`:

    @dataclass(frozen=True)
    class Measured:
        seconds: Annotated[float, Between(1e-9, 1e9)]
        name: Annotated[str, Length(1, 100)]
        indices: tuple[int, ...] = ()

    build(Measured, parse_json(packet))
"""

import dataclasses
import functools
import json
import math
import os
import re
import select
import stat
import time
import tomllib
import types
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from bptcnn.errors import UserError

MOST_TEXT_BYTES = 1 << 20  # of a file of settings, of hosts, of a network: a thousand times what they usually have
MOST_DEPTH = 32  # of lists and tables in one another: a network's description has some ten
LARGEST_INT = 2**62  # a sum of two is an int64
LARGEST_FLOAT = 1e30  # products of three, and sums of a million, are numbers
_MOST_CHARACTERS = 10_000
_MOST_ITEMS = 1 << 16
_READ_SECONDS = 10.0  # for what is no regular file: a pipe of the user's shell
_SHOWN = 50  # characters of a wrong value...
_MOST_NAME = 200  # ...and of where it stands

T = TypeVar("T")


class Malformed(ValueError):
    """What came is not what it should be; the message is one printable line."""


@dataclass(frozen=True)
class Between:
    """The range of a number, its ends included."""

    least: float
    most: float


@dataclass(frozen=True)
class Length:
    """How many characters or items there are, the ends included."""

    least: int
    most: int


Count = Annotated[int, Between(0, 2**53)]  # sums of a few are int64, and exact as floats


# ---- text ------------------------------------------------------------------------------------------------------------

_JSON_PARTS = re.compile(r'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)|[\[{]|[\]}]', re.DOTALL)  # a string that never ends is one, too
# tomllib takes the square of a key's length; a search begins at a part's first character only, so that it is linear
_LONG_KEY = re.compile(rf"""(?<![\w"'-])(?:[\w"'-]++[ \t]*+\.[ \t]*+){{{MOST_DEPTH}}}""")
_MOST_DIGITS = 20


def parse_json(content: bytes | str, most_bytes: int = MOST_TEXT_BYTES) -> object:
    """Return what a JSON text holds: finite numbers, no key twice, at most MOST_DEPTH levels; raise Malformed."""
    text = _decoded(content, most_bytes)
    depth = 0
    for part in _JSON_PARTS.finditer(text):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(part.group()[0], 0)
        if depth > MOST_DEPTH:
            raise Malformed(f"it is nested more than {MOST_DEPTH} deep")
    try:
        return json.loads(text, parse_int=_whole, parse_float=_finite, parse_constant=_finite, object_pairs_hook=_table)
    except Malformed:
        raise
    except ValueError as error:
        raise Malformed(f"it is no JSON: {printable(str(error))}") from None


def parse_toml(content: bytes | str, most_bytes: int = MOST_TEXT_BYTES) -> dict[str, Any]:
    """Return what a TOML text holds: no huge numbers, at most MOST_DEPTH levels; raise Malformed."""
    text = _decoded(content, most_bytes)
    if _LONG_KEY.search(text):
        raise Malformed(f"a key has more than {MOST_DEPTH} parts")
    try:
        found = tomllib.loads(text)
    except RecursionError:
        raise Malformed(f"it is nested more than {MOST_DEPTH} deep") from None
    except ValueError as error:  # TOMLDecodeError, and numbers and dates that Python refuses
        raise Malformed(printable(str(error))) from None
    _require_plain(found)
    return found


def printable(text: str, most: int = _MOST_CHARACTERS) -> str:
    """Return the text on one line for a terminal, cut at `most` characters: blanks for what is not printable.

    Bytes of a file's name that are no text, which Python keeps as lone surrogates, are shown as \\xNN.
    """
    return "".join(map(_printable, text[:most]))[:most]


def _printable(character: str) -> str:
    if character.isprintable():
        return character
    return f"\\x{ord(character) - 0xDC00:02x}" if "\udc80" <= character <= "\udcff" else " "


def read_text(path: str | os.PathLike[str], what: str, most_bytes: int = MOST_TEXT_BYTES) -> str:
    """Return a file's text, UTF-8 with or without a byte order mark; `what` names its kind ("hosts file").

    Raises UserError where there is none, where it is longer, no text, or a pipe that nobody writes to.
    """
    try:
        return _decoded(_read(path, most_bytes), most_bytes)
    except FileNotFoundError:
        raise UserError(f"no {what} at {Path(path)}") from None
    except OSError as error:
        raise UserError(f"cannot read the {what} {Path(path)}: {error.strerror or error}") from None
    except ValueError as error:  # Malformed, and what no file can be called
        raise UserError(f"cannot read the {what} {Path(path)}: {error}") from None


def _decoded(content: bytes | str, most_bytes: int) -> str:
    if len(content) > most_bytes:
        raise Malformed(f"it is longer than {most_bytes:,} bytes")
    if isinstance(content, str):
        return content
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise Malformed("it is no text in UTF-8") from None


def _read(path: str | os.PathLike[str], most_bytes: int) -> bytes:
    """Return the file's bytes, at most one more than `most_bytes`."""
    # whoever opens a pipe waits for its writer, unless told not to
    with open(path, "rb", buffering=0, opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        waits = not stat.S_ISREG(os.fstat(file.fileno()).st_mode)
        deadline, content = time.monotonic() + _READ_SECONDS, bytearray()
        poll = select.poll()
        poll.register(file, select.POLLIN)
        while len(content) <= most_bytes:
            if waits and not poll.poll(1000 * max(0.0, deadline - time.monotonic())):
                raise Malformed(f"nothing came for {_READ_SECONDS:.0f} s")
            chunk = file.read(most_bytes + 1 - len(content))
            if not chunk:
                break
            content += chunk
    return bytes(content)


def _whole(text: str) -> int:
    if len(text) > _MOST_DIGITS:
        raise Malformed(f"a number has {len(text)} digits")
    return int(text)


def _finite(text: str) -> float:
    number = float(text)  # NaN and Infinity come here, too
    if not math.isfinite(number):
        raise Malformed(f"{text[:_SHOWN]} is no number")
    return number


def _table(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise Malformed("a key stands twice")
    return found


def _require_plain(value: object) -> None:
    level = [value]
    for _ in range(MOST_DEPTH + 1):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return
        if any(isinstance(inner, int) and abs(inner) >= 10**_MOST_DIGITS for inner in level):
            raise Malformed(f"a number has more than {_MOST_DIGITS} digits")
    raise Malformed(f"it is nested more than {MOST_DEPTH} deep")


# ---- dataclasses -----------------------------------------------------------------------------------------------------


def build(
    kind: type[T], values: object, where: str = "", partial: bool = False, made: Mapping[str, Any] | None = None
) -> T:
    """Return `kind`, a dataclass, built from a table that has exactly its fields; with `partial` some may lack.

    Types may be int, float, bool, str, None, Literal, lists, tuples, tables with text as keys, dataclasses, unions of
    these, and NumPy arrays, which are passed as they are. Numbers are finite and within `Annotated[..., Between]`, int
    within +-LARGEST_INT and float within +-LARGEST_FLOAT where nothing is said; text and lists within
    `Annotated[..., Length]`. Text comes out printable: it is shown to users. `where`: what the error begins with.

    `made`: fields that the caller has made and answers for; they are passed as they are.

    Raises Malformed for anything else, what the dataclass itself refuses with ValueError or UserError included.
    """
    where = printable(where, _MOST_NAME)
    if not isinstance(values, Mapping):
        raise Malformed(f"{where or kind.__name__} is no table: {_show(values)}")
    hints: dict[str, Any] = _hints(kind)  # type: ignore[arg-type]  # classes have a hash
    taken = dict(made or {})
    known = [field for field in fields(kind) if field.init and field.name not in taken]  # type: ignore[arg-type]
    unknown = sorted(str(name) for name in set(values) - {field.name for field in known})
    if unknown:
        raise Malformed(f"{where or kind.__name__} has no {printable(unknown[0], _SHOWN)!r}")
    for field in known:
        name = f"{where}.{field.name}" if where else field.name
        if field.name in values:
            taken[field.name] = _checked(name, hints[field.name], values[field.name])
        elif not partial or (field.default is MISSING and field.default_factory is MISSING):
            raise Malformed(f"{name} is missing")
    try:
        return kind(**taken)
    except (UserError, ValueError) as error:
        raise Malformed(f"{where}: {error}" if where else str(error)) from None


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)


def _checked(name: str, wanted: Any, value: object) -> object:
    limits: tuple[object, ...] = ()
    if get_origin(wanted) is Annotated:
        wanted, *limits = get_args(wanted)  # type: ignore[assignment]
    origin = get_origin(wanted)
    if origin in (Union, types.UnionType):
        return _checked_union(name, get_args(wanted), limits, value)
    if origin is Literal:
        if not isinstance(value, str | int) or value not in get_args(wanted):
            raise _wrong(name, f"one of {', '.join(map(str, get_args(wanted)))}", value)
        return value
    if wanted in (int, float):
        return _checked_number(name, wanted, _limit(limits, Between), value)
    if wanted is str:
        return _checked_text(name, _limit(limits, Length) or Length(0, _MOST_CHARACTERS), value)
    if origin in (list, tuple, dict):
        return _checked_items(name, origin, get_args(wanted), _limit(limits, Length) or Length(0, _MOST_ITEMS), value)
    if dataclasses.is_dataclass(wanted) and isinstance(wanted, type):
        return build(wanted, value, name)
    import numpy as np  # here: names of files are read before a command loads anything heavy

    plain = np.ndarray if origin is np.ndarray else wanted
    if plain in (bool, type(None), np.ndarray):
        if isinstance(value, plain):
            return value
        raise _wrong(name, {bool: "true or false", np.ndarray: "an array"}.get(plain, "nothing"), value)
    raise TypeError(f"{name}: nothing of type {wanted} can come from outside")  # our fault


def _checked_union(name: str, kinds: tuple[Any, ...], limits: tuple[object, ...], value: object) -> object:
    """The first kind that fits; where none does, the error of the last one that is not None."""
    error = Malformed(f"{name} is {_show(value)}")
    for kind in sorted(kinds, key=lambda kind: kind is not type(None)):
        try:
            return _checked(name, Annotated[kind, *limits] if limits and kind is not type(None) else kind, value)
        except Malformed as refused:
            error = refused
    raise error


def _checked_number(name: str, wanted: type, limit: Between | None, value: object) -> int | float:
    largest = LARGEST_INT if wanted is int else LARGEST_FLOAT
    bounds = limit or Between(-largest, largest)
    number = isinstance(value, int if wanted is int else int | float) and not isinstance(value, bool)
    if number and bounds.least <= value <= bounds.most:  # type: ignore[operator]
        return value if wanted is int else float(value)  # type: ignore[return-value,arg-type]
    kind = "a whole number" if wanted is int else "a number"
    raise _wrong(name, f"{kind} from {bounds.least:g} to {bounds.most:g}" if limit else kind, value)


def _checked_text(name: str, length: Length, value: object) -> str:
    if not isinstance(value, str) or not length.least <= len(value) <= length.most:
        raise _wrong(name, f"text of {length.least} to {length.most} characters", value)
    return printable(value)


def _checked_items(name: str, origin: type, kinds: tuple[Any, ...], length: Length, value: object) -> object:
    if origin is dict:
        if not isinstance(value, dict) or not length.least <= len(value) <= length.most:
            raise _wrong(name, f"a table of {length.least} to {length.most} entries", value)
        return {_checked(f"{name}: a key", kinds[0], k): _checked(f"{name}.{k}", kinds[1], v) for k, v in value.items()}
    if not isinstance(value, list | tuple) or not length.least <= len(value) <= length.most:
        raise _wrong(name, f"a list of {length.least} to {length.most} items", value)
    if origin is list or kinds[-1] is Ellipsis:
        each = [kinds[0]] * len(value)
    elif len(value) == len(kinds):
        each = list(kinds)
    else:
        raise _wrong(name, f"a list of {len(kinds)} items", value)
    return origin(_checked(f"{name}[{i}]", kind, item) for i, (kind, item) in enumerate(zip(each, value, strict=True)))


def _limit(limits: tuple[object, ...], kind: type[T]) -> T | None:
    return next((limit for limit in limits if isinstance(limit, kind)), None)


def _wrong(name: str, wanted: str, value: object) -> Malformed:
    return Malformed(f"{printable(name, _MOST_NAME)} is {_show(value)}, not {wanted}")


def _show(value: object) -> str:
    """Return a value's text, cut: only of what is small to write out."""
    if isinstance(value, str):
        return repr(printable(value, _SHOWN))
    if isinstance(value, bool | float | None) or (isinstance(value, int) and abs(value) <= 10**_MOST_DIGITS):
        return repr(value)
    return {dict: "a table", list: "a list", int: "a huge number"}.get(type(value), type(value).__name__)
