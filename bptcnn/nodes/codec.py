"""Messages and events as JSON: what crosses a network is checked field by field and never unpickled."""

import base64
from dataclasses import fields
from typing import Any

import numpy as np
import numpy.typing as npt

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
    Submitted,
    Trial,
    Tried,
    Work,
)
from bptcnn.untrusted import Malformed, printable
from bptcnn.untrusted import build as checked

_MESSAGES: tuple[type, ...] = (Work, Pause, Resume, Release, Trial, Stop)
# Submitted is made where the submission is committed
_EVENTS: tuple[type, ...] = (Ready, Tried, Refused, Heartbeat, Paused, Failed)
_LONGEST_TEXT = 1000  # characters, as `Reason` has it; what is longer is cut before it is sent


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


def checked_event(event: Any) -> NodeEvent:
    """Return an event that came as an object, of a node of this machine, built anew; Malformed for anything else."""
    kind: type[Any] = type(event)
    if kind not in (*_EVENTS, Submitted):
        raise Malformed(f"no event: {kind.__name__}")
    found: NodeEvent = checked(kind, {field.name: getattr(event, field.name) for field in fields(kind)})
    return found


def _indices(value: object) -> npt.NDArray[np.int32]:
    if not isinstance(value, str):
        raise Malformed(f"indices are {type(value).__name__}, not text")
    raw = base64.b64decode(value, validate=True)
    if len(raw) % 4:
        raise Malformed(f"indices hold {len(raw)} bytes, no int32")
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
        raise Malformed(f"no message is called {printable(repr(name), 50)}")
    taken = {key: item for key, item in value.items() if key != "type"}
    if kinds[name] is Work and "indices" in taken:
        taken["indices"] = _indices(taken["indices"])
    return checked(kinds[name], taken)
