"""Layers as plain descriptions, which TOML and JSON can hold, and back."""

from dataclasses import MISSING, Field, fields
from typing import Any

from bptcnn.errors import UserError
from bptcnn.networks.layers import LAYERS, Layer, shown

NOTHING = "none"
"""How a description spells the activation None where it is not the default: TOML has no None."""


def described(layer: Layer) -> dict[str, Any]:
    """Return the layer's name as `layer` and its fields."""
    found: dict[str, Any] = {"layer": type(layer).__name__}
    for field in fields(layer):
        value = _plain(getattr(layer, field.name))
        if value is not None:
            found[field.name] = value
        elif field.default is not None:
            found[field.name] = NOTHING
    return found


def layers_described(entries: Any, place: str = "") -> list[Layer]:
    """Return the layers that a list describes; raise UserError, naming the place, for anything else."""
    if not isinstance(entries, list):
        raise UserError(f"{place}layers must be a list, not {shown(entries)}")
    return [_layer(entry, f"{place}layer {index}") for index, entry in enumerate(entries)]


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    return described(value) if isinstance(value, Layer) else value


def _layer(entry: Any, place: str) -> Layer:
    if not isinstance(entry, dict) or not isinstance(entry.get("layer"), str) or entry["layer"] not in LAYERS:
        raise UserError(f"{place} must name one of {', '.join(LAYERS)} as `layer`, not {shown(entry)}")
    kind = LAYERS[entry["layer"]]
    given = {key: value for key, value in entry.items() if key != "layer"}
    known = {field.name: field for field in fields(kind)}
    unknown = {str(name) for name in given} - set(known)
    if unknown:
        names = ", ".join(known) or "no keys"
        raise UserError(f"{place}: {entry['layer']} knows {names}, not {shown(min(unknown))}")
    missing = [name for name, field in known.items() if field.default is MISSING and name not in given]
    if missing:
        raise UserError(f"{place}: {entry['layer']} lacks {', '.join(missing)}")
    values = {name: _value(known[name], value, place) for name, value in given.items()}
    try:
        return kind(**values)
    except UserError as error:
        raise UserError(f"{place}: {error}") from None


def _value(field: Field[Any], value: Any, place: str) -> Any:
    """Return what a description's `value` stands for: the layers of a block, or itself."""
    if field.name == "layers":
        return layers_described(value, f"{place}, main, ")
    if field.name == "shortcut":
        return layers_described(value, f"{place}, shortcut, ")
    if field.name == "branches" and isinstance(value, list):
        return [layers_described(branch, f"{place}, branch {index}, ") for index, branch in enumerate(value)]
    return None if value == NOTHING and field.default is not MISSING and field.default is not None else value
