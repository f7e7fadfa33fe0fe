"""Messages and events as JSON: what crosses a network is checked field by field and never unpickled."""

import base64
from dataclasses import fields
from typing import Any, TypeVar

import numpy as np

from bptcnn.outer import (
    Failed,
    Heartbeat,
    Message,
    NodeEvent,
    Pause,
    Paused,
    Ready,
    Refused,
    Release,
    Resume,
    Stop,
    Trial,
    Tried,
    Work,
)

_MESSAGES: tuple[type, ...] = (Work, Pause, Resume, Release, Trial, Stop)
# Submitted is made where the submission is committed
_EVENTS: tuple[type, ...] = (Ready, Tried, Refused, Heartbeat, Paused, Failed)
_LONGEST_TEXT = 10_000  # characters; what is longer is cut before it is sent
_LARGEST_INT, _LARGEST_FLOAT = 2**62, 1e300  # sums of such numbers are still numbers

T = TypeVar("T")


def encode_message(message: Message) -> dict[str, Any]:
    """Return a message to a node as plain values."""
    return _encode(message)


def decode_message(value: object) -> Message:
    """The inverse of `encode_message`; ValueError for anything else."""
    found: Message = _decode(value, _MESSAGES)
    return found


def encode_event(event: NodeEvent) -> dict[str, Any]:
    """Return an event of a node as plain values."""
    return _encode(event)


def decode_event(value: object) -> NodeEvent:
    """The inverse of `encode_event`; ValueError for anything else."""
    found: NodeEvent = _decode(value, _EVENTS)
    return found


def checked(kind: type[T], values: object) -> T:
    """Return `kind`, a dataclass of numbers and text, built from a mapping that has exactly its fields.

    Raises ValueError for a missing or unknown field, another type, or a number that is negative, not finite or beyond
    all that is counted or measured. Text comes out printable: it is shown to users.
    """
    if not isinstance(values, dict):
        raise ValueError(f"{kind.__name__} is no table: {type(values).__name__}")
    known = {field.name: field.type for field in fields(kind)}  # type: ignore[arg-type]
    if set(values) != set(known):
        raise ValueError(f"{kind.__name__} has the fields {sorted(known)}, not {sorted(values)!s:.200}")
    return kind(**{name: _checked(name, known[name], value) for name, value in values.items()})


def _checked(name: str, wanted: object, value: object) -> object:
    if wanted in (int, float):
        whole = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LARGEST_INT
        if whole or (wanted is float and isinstance(value, float) and 0 <= value <= _LARGEST_FLOAT):
            return value
    if wanted is str and isinstance(value, str) and len(value) <= _LONGEST_TEXT:
        return "".join(character if character.isprintable() else " " for character in value)
    if wanted == np.ndarray or "int32" in str(wanted):
        return _indices(name, value)
    raise ValueError(f"{name} is {value!r:.50}")


def _indices(name: str, value: object) -> object:
    if not isinstance(value, str):
        raise ValueError(f"{name} is {type(value).__name__}, not text")
    raw = base64.b64decode(value, validate=True)
    if len(raw) % 4:
        raise ValueError(f"{name} holds {len(raw)} bytes, no int32")
    return np.frombuffer(raw, "<i4").astype(np.int32)


def _encode(value: Any) -> dict[str, Any]:
    plain: dict[str, Any] = {"type": type(value).__name__}
    for field in fields(value):
        item = getattr(value, field.name)
        if isinstance(item, np.ndarray):
            item = base64.b64encode(item.astype("<i4").tobytes()).decode()
        elif isinstance(item, str):
            item = item[:_LONGEST_TEXT]
        plain[field.name] = item
    return plain


def _decode(value: object, allowed: tuple[type, ...]) -> Any:
    kinds = {kind.__name__: kind for kind in allowed}
    name = value.get("type") if isinstance(value, dict) else None
    if not isinstance(value, dict) or not isinstance(name, str) or name not in kinds:
        raise ValueError(f"no message is called {name!r:.50}")
    return checked(kinds[name], {key: item for key, item in value.items() if key != "type"})
