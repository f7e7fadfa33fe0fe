"""Mutations: of plain values as JSON and TOML hold them, and of bytes. All chance comes from the `Random` given."""

import copy
import random
from typing import Any

from fuzz.writing import Raw, deep

NUMBERS: tuple[float, ...] = (
    *(0, -1, 1, 2, 3, 255, 256, 2**31 - 1, 2**31, 2**32, 2**53, 2**62, 2**62 + 1, 2**63 - 1, 2**63, 2**64, -(2**63)),
    *(0.0, -0.0, 0.5, 1e-9, 1e9, 1e30, 1e31, 1e300, -1e300, 1.7e308, 5e-324, 1e-306, 1e-310),
    *(float("inf"), float("-inf"), float("nan")),
)
TEXTS = (
    *("", " ", "none", "NaN", "1e999", "0", "a" * 300, "x" * 20_000, "../../etc/passwd", "/dev/zero", "/dev/stdin"),
    *(
        "\x1b[2J\x1b]0;owned\x07",
        "line\nbreak",
        "car\rriage",
        "\x00",
        "\u202egnp.exe",
        "\u2028",
        "\ud800",
        "\U0001f600",
    ),
    *("-oProxyCommand=touch canary", "$(touch canary)", "`touch canary`", "a;touch canary", "%n%s%p", "'\"\\"),
)
RAWS = (
    *("NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1e-999", "9" * 30, "9" * 5000, "0x10", "01", "1_000", "--1"),
    *('"\\ud800"', '"\\u0000"', '"\\x41"', '"unended', "'", "nul", "truefalse", "{", "]", "1979-05-27T07:32:00Z", "#"),
    *("[" * 40, '{"a":' * 40),
)
TOKENS = (
    *(text.encode("utf-8", "surrogatepass") for text in (*TEXTS[:6], *TEXTS[11:], *RAWS)),
    *(b",", b":", b"=", b"\n", b"[[", b"]]", b'"""'),
    *(
        b"\xff",
        b"\xef\xbb\xbf",
        b"\xfe\xff",
        b"\x00" * 8,
        b"\xff" * 8,
        b"\x80",
        b"\x7f\xff\xff\xff",
        b"\x00\x00\x00\x80",
    ),
)


def draw_value(draw: random.Random) -> Any:
    """Return a value that has no business anywhere."""
    kind = draw.randrange(12)
    if kind < 5:
        return draw.choice(NUMBERS)
    if kind < 7:
        return draw.choice(TEXTS)
    if kind == 7:
        return draw.choice((deep(40), deep(2000), deep(100_000), deep(2000, '{"a":', "}"), deep(2000, "{a=", "}")))
    if kind == 8:
        return Raw(draw.choice(RAWS))
    if kind == 9:
        return draw.choice((True, False, None))
    return draw.choice(([], {}, [0] * 5, [[]], [{}], {"": 0}, {"a": {"a": {}}}, [None], ["x"] * 1000, [1e300] * 3))


def mutated(value: Any, draw: random.Random, most: int = 3) -> Any:
    """Return a copy of a plain value, changed in one to `most` places."""
    box = [copy.deepcopy(value)]
    for _ in range(draw.choice((1, 1, *range(1, most + 1)))):
        places = _places(box)
        _change(*draw.choice(places), draw)
    return box[0]


def _places(box: list[Any]) -> list[tuple[Any, Any]]:
    """Where values stand: (list or table, index or key)."""
    found: list[tuple[Any, Any]] = []
    waiting: list[Any] = [box]
    while waiting:
        holder = waiting.pop()
        for key in holder if isinstance(holder, dict) else range(len(holder)):
            found.append((holder, key))
            if isinstance(holder[key], dict | list):
                waiting.append(holder[key])
    return found


def _change(holder: Any, key: Any, draw: random.Random) -> None:
    value = holder[key]
    if draw.random() < 0.4:
        holder[key] = draw_value(draw)
    elif isinstance(value, dict) and value:
        holder[key] = _changed_table(value, draw)
    elif isinstance(value, list) and value:
        holder[key] = _changed_list(value, draw)
    elif isinstance(value, bool) or value is None:
        holder[key] = draw.choice((not value, int(bool(value)), str(value), None))
    elif isinstance(value, int | float):
        holder[key] = _changed_number(value, draw)
    elif isinstance(value, str):
        holder[key] = _changed_text(value, draw)
    else:
        holder[key] = draw.choice(([value], {"a": value}, [[value]] * 3))


def _changed_table(table: dict[Any, Any], draw: random.Random) -> Any:
    key = draw.choice(list(table))
    match draw.randrange(5):
        case 0:
            return {k: v for k, v in table.items() if k != key}
        case 1:
            return {
                **table,
                draw.choice(("extra", "", "type", "kind", "node", "__class__", "\n", "a" * 500)): draw_value(draw),
            }
        case 2:
            return {(f"{k}s" if k == key else k): v for k, v in table.items()}
        case 3:
            other = draw.choice(list(table))
            return {**table, key: table[other], other: table[key]}
        case _:
            return list(table.values())


def _changed_list(items: list[Any], draw: random.Random) -> Any:
    place = draw.randrange(len(items))
    match draw.randrange(6):
        case 0:
            return items[:place] + items[place + 1 :]
        case 1:
            return items[: place + 1] * draw.choice((2, 2, 10, 300))
        case 2:
            return items[::-1]
        case 3:
            return [*items[:place], draw_value(draw), *items[place:]]
        case 4:
            return []
        case _:
            return {str(index): item for index, item in enumerate(items)}


def _changed_number(value: float, draw: random.Random) -> Any:
    choices = [value + 1, value - 1, -value, str(value), [value], value == 1, value * 2, value * 0.5]
    if abs(value) < 1e100:
        choices += [float(value), int(value), value * 1e6, value * 1e-6, value * 10**30, value + 1e-9]
    return draw.choice(choices)


def _changed_text(text: str, draw: random.Random) -> Any:
    place = draw.randint(0, len(text))
    odd = draw.choice(
        ("\n", "\x00", "\x1b[31m", "'", '"', "/", ".", "-", " ", "\u00e9", "\u202e", "9", "(", "\\", "%s")
    )
    return draw.choice(
        (text[:place], text[:place] + odd + text[place:], text * draw.choice((2, 50)), text.upper(), [text], text[::-1])
    )


def scrambled(content: bytes, draw: random.Random, most: int = 3) -> bytes:
    """Return bytes, changed in one to `most` places."""
    data = bytearray(content)
    for _ in range(draw.choice((1, 1, *range(1, most + 1)))):
        data = _scrambled_once(data, draw)
    return bytes(data)


def _scrambled_once(data: bytearray, draw: random.Random) -> bytearray:
    if not data:
        return bytearray(draw.choice(TOKENS))
    begin = draw.randrange(len(data))
    end = min(len(data), begin + draw.choice((1, 1, 2, 4, 8, 32, 256)))
    match draw.randrange(9):
        case 0 | 1:
            data[begin] ^= 1 << draw.randrange(8)
        case 2:
            data[begin] = draw.randrange(256)
        case 3:
            del data[begin:end]
        case 4:
            data = data[:begin]
        case 5:
            data[begin:begin] = draw.choice(TOKENS)
        case 6:
            data[begin:end] = data[begin:end] * draw.choice((2, 3, 100))
        case 7:
            other = draw.randrange(len(data))
            data[begin:end] = data[other : other + end - begin]
        case _:
            data[begin:end] = draw.choice(TOKENS)
    return data
