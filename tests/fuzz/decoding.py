"""The decoder of all that comes from outside, `bptcnn.untrusted`: what it takes is what it promises, nothing else."""

import json
import math
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from fuzz.harness import Kind, Target, line
from fuzz.mutation import RAWS, TEXTS, mutated, scrambled
from fuzz.texts import Texts, encoded
from fuzz.writing import json_text, toml_text

from bptcnn.untrusted import (
    LARGEST_FLOAT,
    LARGEST_INT,
    MOST_DEPTH,
    MOST_TEXT_BYTES,
    Between,
    Length,
    Malformed,
    build,
    parse_json,
    parse_toml,
)

VALUE = {
    "name": "na\u00efve",
    "numbers": [0, -1, 0.5, 1e-9, 2**53],
    "table": {"a": {"b": [{"c": True}, {"c": False}]}, "d": ""},
    "text": "x" * 50,
    "shape": {"size": [28, 28, 1], "speed": 1.0},
}
FRAGMENTS = (
    *(
        '"a" . ',
        "a.",
        "a = 1\n",
        "[a]\n",
        "[[a]]\n",
        "[a.b]\n",
        "{",
        "}",
        "[",
        "]",
        '"',
        '"""',
        "'''",
        "'",
        "\\",
        "\\\\",
    ),
    *(
        ",",
        ":",
        "=",
        "# ",
        "\n",
        " ",
        "\t",
        "\r\n",
        "1",
        "9",
        "0.",
        "1e",
        "-",
        "_",
        "a={",
        "[[",
        '{"a":',
        '["',
        '\\"',
        "\\u",
    ),
    *(
        "1979-05-27T07:32:00.",
        "07:32:00",
        "+",
        "inf",
        "nan",
        "true",
        '"a"',
        "a='",
        "\x00",
        "\u00e9",
        "\ufeff",
        "x = [[],",
    ),
)


@dataclass(frozen=True)
class Inner:
    """A table within a table."""

    size: Annotated[tuple[int, int, int], Length(3, 3)]
    speed: Annotated[float, Between(1e-9, 1e9)]


@dataclass(frozen=True)
class Outer:
    """Every type that a field may have."""

    count: int
    share: Annotated[float, Between(0.0, 1.0)]
    name: Annotated[str, Length(1, 100)]
    update: Literal["agwu", "sgwu"]
    on: bool
    inner: Inner
    names: tuple[str, ...]
    totals: dict[str, float]
    items: list[Inner]
    either: int | str | None
    maybe: Annotated[float, Between(0, 10)] | None = None
    more: dict[str, Inner] = field(default_factory=dict)


BUILT: dict[str, Any] = {
    "count": 3,
    "share": 0.5,
    "name": "node1",
    "update": "agwu",
    "on": True,
    "inner": {"size": [28, 28, 1], "speed": 1.0},
    "names": ["a", "b"],
    "totals": {"a": 1.0, "b": 2},
    "items": [{"size": [1, 2, 3], "speed": 2.5}],
    "either": "x",
    "maybe": None,
    "more": {"k": {"size": [1, 1, 1], "speed": 1e9}},
}


class Repeated(Target):
    """A megabyte of few fragments over and over: what takes the square of its input's length shows."""

    def __init__(self, parse: Any) -> None:
        self._parse = parse

    def valid(self) -> Sequence[bytes]:
        return ()

    def draw(self, draw: random.Random) -> bytes:
        parts = [encoded(draw.choice((*FRAGMENTS, *RAWS[:20], *TEXTS[:4]))) for _ in range(draw.randint(1, 4))]
        body = b"".join(parts) or b"a"
        size = draw.choice((100, 10_000, 300_000, MOST_TEXT_BYTES, MOST_TEXT_BYTES + 1))
        head, tail = (encoded(draw.choice(("", "", "a = ", '{"a": ', "[", "]", '"', "\n", "= 1"))) for _ in range(2))
        return (head + body * (size // len(body)))[:size] + tail

    def take(self, given: bytes) -> str | None:
        return _refusal(lambda: _check_plain(self._parse(given)))

    def describe(self, given: bytes) -> str:
        return f"{given[:80]!r}... of {len(given)} bytes"


class Tables(Target):
    """Dataclasses built from what JSON may hold."""

    def valid(self) -> Sequence[dict[str, Any]]:
        return (BUILT,)

    def draw(self, draw: random.Random) -> bytes:
        text = encoded(json_text(mutated(BUILT, draw), draw))
        return text if draw.random() < 0.9 else scrambled(text, draw)

    def take(self, given: Any) -> str | None:
        return _refusal(lambda: self._build(given))

    def _build(self, given: Any) -> None:
        found = build(Outer, given if isinstance(given, dict) else parse_json(given))
        assert 0.0 <= found.share <= 1.0
        assert isinstance(found.share, float)
        assert abs(found.count) <= LARGEST_INT
        assert not isinstance(found.count, bool)
        assert 1 <= len(found.name) <= 100
        assert found.name.isprintable()
        assert isinstance(found.inner, Inner)
        assert all(math.isfinite(total) and abs(total) <= LARGEST_FLOAT for total in found.totals.values())
        assert all(isinstance(item, Inner) and len(item.size) == 3 for item in [*found.items, *found.more.values()])
        assert found.maybe is None or 0 <= found.maybe <= 10


def _refusal(action: Any) -> str | None:
    """Return the line of a Malformed, which is to be printable as it is."""
    try:
        action()
    except Malformed as error:
        said = str(error)
    else:
        return None
    assert said.isprintable(), repr(said)[:300]
    return line(said)


def _check_plain(value: Any) -> None:
    """What was parsed is as deep as promised and can be written out again."""
    level, depth = [value], 0
    while level:
        assert depth <= MOST_DEPTH + 1, "it is nested more deeply than promised"
        level = [
            item for v in level if isinstance(v, dict | list) for item in (v.values() if isinstance(v, dict) else v)
        ]
        depth += 1


def _json(content: bytes) -> None:
    found = parse_json(content)
    _check_plain(found)
    assert json.loads(json.dumps(found, allow_nan=False)) == found


@contextmanager
def _open(folder: Path) -> Iterator[Target]:
    yield Texts([VALUE, BUILT, [VALUE] * 3], json_text, _json, (Malformed,))


@contextmanager
def _open_toml(folder: Path) -> Iterator[Target]:
    whole = b'a = 1\n[b]\nc = [1, 2.5, "x"]\n[[d]]\ne = 1979-05-27T07:32:00Z\n[[d]]\nf = """x"""\n'
    yield Texts([VALUE, whole], toml_text, lambda content: _check_plain(parse_toml(content)), (Malformed,))


@contextmanager
def _open_tables(folder: Path) -> Iterator[Target]:
    yield Tables()


@contextmanager
def _open_repeated(folder: Path) -> Iterator[Target]:
    yield Repeated(lambda content: parse_json(content))


@contextmanager
def _open_repeated_toml(folder: Path) -> Iterator[Target]:
    yield Repeated(lambda content: parse_toml(content))


KINDS = (
    Kind("json", 60, _open),
    Kind("toml", 60, _open_toml),
    Kind("tables", 60, _open_tables),
    Kind("long-json", 15, _open_repeated),
    Kind("long-toml", 15, _open_repeated_toml),
)
