"""JSON and TOML as somebody writes them who keeps no rules: keys twice, numbers that are none, lists without end."""

import json
import random
from dataclasses import dataclass
from typing import Any

Draw = random.Random | None
"""None: by the rules."""


@dataclass(frozen=True)
class Raw:
    """Text that stands in the file as it is, where a value should be."""

    text: str


def deep(levels: int, opening: str = "[", closing: str = "]") -> Raw:
    """So many lists in one another."""
    return Raw(opening * levels + closing * levels)


def json_text(value: Any, draw: Draw) -> str:
    """Return JSON; now and then a key stands twice, or its text is all escapes."""
    if isinstance(value, Raw):
        return value.text
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(str(k))}: {json_text(v, draw)}" for k, v in _entries(value, draw)) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(json_text(item, draw) for item in value) + "]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=draw is None or draw.random() < 0.5)
    if isinstance(value, float) and draw and draw.random() < 0.5:
        return {"inf": "1e999", "-inf": "-1e999"}.get(repr(value), json.dumps(value))
    return json.dumps(value)


def toml_text(table: Any, draw: Draw) -> str:
    """Return TOML, one line a key, what is nested in line; not TOML at all for anything but a table."""
    if not isinstance(table, dict):
        return _toml_value(table, draw)
    return "".join(f"{_toml_key(key)} = {_toml_value(value, draw)}\n" for key, value in _entries(table, draw))


def _entries(table: dict[Any, Any], draw: Draw) -> list[tuple[Any, Any]]:
    entries = list(table.items())
    if entries and draw and draw.random() < 0.02:
        entries.append(draw.choice(entries))
    return entries


def _toml_key(key: object) -> str:
    text = str(key)
    return text if text.replace("_", "").isascii() and text.replace("_", "").isalnum() else _toml_value_of_text(text)


def _toml_value_of_text(text: str) -> str:
    escaped = json.dumps(text, ensure_ascii=False)
    return escaped.replace("\x7f", "\\u007f")


def _toml_value(value: Any, draw: Draw) -> str:
    if isinstance(value, Raw):
        return value.text
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_toml_key(k)} = {_toml_value(v, draw)}" for k, v in _entries(value, draw)) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml_value(item, draw) for item in value) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return '""'
    if isinstance(value, float):
        return {"inf": draw.choice(["inf", "1e999"]) if draw else "inf", "-inf": "-inf", "nan": "nan"}.get(
            repr(value), repr(value)
        )
    return str(value) if isinstance(value, int) else _toml_value_of_text(str(value))
