"""Checkpoints: safetensors files with the network's description, its weights by parameter, and the coordinator's state.

Tensor names are the network's parameter names; the coordinator's arrays are named `coordinator.*`, those of the nodes'
optimizers `optimizer.*`. Files of version 1 have no checksum.
"""

import json
import math
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bptcnn.errors import UserError
from bptcnn.files import is_file
from bptcnn.networks import Network
from bptcnn.nodes.optimizer_state import OptimizerState
from bptcnn.outer import CoordinatorState
from bptcnn.training.epoch_clock import NOTHING, Stretch
from bptcnn.training.optimizer_states import decode_states, encode_states
from bptcnn.training.progress import EpochRow
from bptcnn.training.tensor_files import Tensors, read_tensors, write_tensors
from bptcnn.untrusted import Malformed, build, parse_json, printable

_FORMAT, _UNCHECKED_FORMAT = "bptcnn-2", "bptcnn-1"
_COORDINATOR, _OPTIMIZER = "coordinator.", "optimizer."
_MOST_TEXT = 100_000_000  # bytes of a text in a file: the rows of a million epochs
_MOST_EPOCH = 1_000_000
_SHOWN = 300  # characters of what is wrong


@dataclass(frozen=True)
class Checkpoint:
    """A network after `epoch` epochs: flat weights float32 (network.size,), all of them finite.

    `state` and `rows` only where a run can go on: `rows` are the epochs' metrics, the last one's test accuracy NaN,
    because a checkpoint is saved before it is evaluated. `ahead`: what of the next epoch was trained, in which time (in
    older checkpoints nothing: that time is in the last row). `optimizer`: the nodes' states, by name; None where the
    version that wrote it kept none.
    """

    network: Network
    weights: npt.NDArray[np.float32]
    epoch: int
    state: CoordinatorState | None = None
    rows: tuple[EpochRow, ...] = ()
    ahead: Stretch = NOTHING
    optimizer: dict[str, OptimizerState] | None = None


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write the file whole or not at all; raise UserError where it cannot be written."""
    tensors: Tensors = {}
    for parameter in checkpoint.network.parameters:
        values = checkpoint.weights[parameter.offset : parameter.offset + parameter.size]
        tensors[parameter.name] = values.reshape(parameter.shape)
    metadata = {
        "format": _FORMAT,
        "network": json.dumps(checkpoint.network.to_dict()),
        "epoch": str(checkpoint.epoch),
    }
    if checkpoint.state is not None:
        metadata["coordinator"] = json.dumps(checkpoint.state.scalars())
        metadata["rows"] = _encoded_rows(checkpoint.rows)
        metadata["ahead"] = json.dumps(asdict(checkpoint.ahead))
        for name, array in checkpoint.state.arrays().items():
            tensors[_COORDINATOR + name] = array
    if checkpoint.optimizer is not None:
        metadata["optimizer"], velocities = encode_states(checkpoint.optimizer)
        tensors |= velocities
    write_tensors(path, tensors, metadata)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint; raise UserError where there is none or it is damaged."""
    if not is_file(path):
        raise UserError(f"no checkpoint at {path}: the run has not finished its first epoch; start it anew")
    try:
        tensors, metadata, checked = read_tensors(path)
        format_ = metadata.get("format")
        if format_ != (_FORMAT if checked else _UNCHECKED_FORMAT):
            raise UserError(f"it is no checkpoint of this version: its format is {format_!r:.50}")
        network = Network.from_dict(parse_json(metadata["network"], _MOST_TEXT))  # type: ignore[arg-type]
        weights = _weights(network, tensors)
        epoch = _epoch(metadata["epoch"])
        state: CoordinatorState | None = None
        rows: tuple[EpochRow, ...] = ()
        ahead = NOTHING
        if "coordinator" in metadata:
            arrays = {n.removeprefix(_COORDINATOR): v for n, v in tensors.items() if n.startswith(_COORDINATOR)}
            state = CoordinatorState.build(parse_json(metadata["coordinator"], _MOST_TEXT), arrays)
            rows = _decoded_rows(metadata["rows"])
            if state.epoch != epoch or (rows and rows[-1].epoch != epoch):
                raise UserError(f"it is of epoch {epoch}, its state of {state.epoch}, its rows end elsewhere")
            if "ahead" in metadata:  # older ones lack it
                ahead = build(Stretch, parse_json(metadata["ahead"]), "ahead")
        optimizer = decode_states(metadata["optimizer"], tensors, network.size) if "optimizer" in metadata else None
        return Checkpoint(network, weights, epoch, state, rows, ahead, optimizer)
    except KeyError as error:
        raise UserError(f"cannot read the checkpoint {path}: it has no {printable(str(error), _SHOWN)}") from None
    except (UserError, Malformed) as error:
        raise UserError(f"cannot read the checkpoint {path}: {printable(str(error), _SHOWN)}") from None


def _weights(network: Network, tensors: Tensors) -> npt.NDArray[np.float32]:
    """Return the flat weight vector; nothing is allocated before all of it is known to be there."""
    for parameter in network.parameters:
        values = tensors[parameter.name]
        if values.shape != parameter.shape or values.dtype != np.float32:
            raise UserError(f"{parameter.name} is {values.dtype} {values.shape}, not {parameter.shape}")
        if not np.isfinite(values).all():
            raise UserError(f"{parameter.name} has values that are no numbers")
    known = {parameter.name for parameter in network.parameters}
    strange = [name for name in tensors if name not in known and not name.startswith((_COORDINATOR, _OPTIMIZER))]
    if strange:
        raise UserError(f"{strange[0]!r} is nothing of this network's")
    weights = np.empty(network.size, np.float32)
    for parameter in network.parameters:
        weights[parameter.offset : parameter.offset + parameter.size] = tensors[parameter.name].ravel()
    return weights


def _epoch(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 20 and int(text) <= _MOST_EPOCH):
        raise UserError(f"its epoch is {text!r:.50}")
    return int(text)


def _encoded_rows(rows: tuple[EpochRow, ...]) -> str:
    """Return rows as JSON, which has no NaN and no infinity: null."""
    plain = [[v if math.isfinite(v) else None for v in astuple(row)] for row in rows]
    return json.dumps(plain)


def _decoded_rows(text: str) -> tuple[EpochRow, ...]:
    """The inverse, of version 1 as well, which wrote NaN."""
    names = [field.name for field in fields(EpochRow)]
    rows: list[EpochRow] = []
    found = parse_json(text.replace("NaN", "null"), _MOST_TEXT)
    for values in found if isinstance(found, list) else [found]:
        if not isinstance(values, list) or len(values) != len(names):
            raise Malformed(f"a row has not the {len(names)} values of an epoch")
        given = {name: math.nan if value is None else value for name, value in zip(names, values, strict=True)}
        unknown = [name for name, value in given.items() if value != value]
        row = build(EpochRow, {**given, **dict.fromkeys(unknown, 0.0)}, "a row")
        rows.append(EpochRow(**{**vars(row), **dict.fromkeys(unknown, math.nan)}))
        if len(rows) > 1 and rows[-2].epoch >= rows[-1].epoch:
            raise Malformed("its rows are in no order")
    return tuple(rows)
