"""Checkpoints: safetensors files with the network's description, its weights by parameter, and the coordinator's state.

Tensor names are the network's parameter names; the coordinator's arrays are named `coordinator.*`.
"""

import json
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from bptcnn.errors import UserError
from bptcnn.files import write_atomically
from bptcnn.networks import Network
from bptcnn.outer import CoordinatorState
from bptcnn.training.progress import EpochRow

_FORMAT = "bptcnn-1"
_COORDINATOR = "coordinator."


@dataclass(frozen=True)
class Checkpoint:
    """A network after `epoch` epochs: flat weights float32 (network.size,).

    `state` and `rows` only where a run can go on: `rows` are the epochs' metrics, the last one's test accuracy NaN,
    because a checkpoint is saved before it is evaluated.
    """

    network: Network
    weights: npt.NDArray[np.float32]
    epoch: int
    state: CoordinatorState | None = None
    rows: tuple[EpochRow, ...] = ()


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write the file whole or not at all; raise UserError where it cannot be written."""
    tensors: dict[str, npt.NDArray[Any]] = {}
    for parameter in checkpoint.network.parameters:
        values = checkpoint.weights[parameter.offset : parameter.offset + parameter.size]
        tensors[parameter.name] = np.ascontiguousarray(values.reshape(parameter.shape))
    metadata = {
        "format": _FORMAT,
        "network": json.dumps(checkpoint.network.to_dict()),
        "epoch": str(checkpoint.epoch),
    }
    if checkpoint.state is not None:
        metadata["coordinator"] = json.dumps(checkpoint.state.scalars())
        metadata["rows"] = json.dumps([astuple(row) for row in checkpoint.rows])
        for name, array in checkpoint.state.arrays().items():
            tensors[_COORDINATOR + name] = np.ascontiguousarray(array)
    write_atomically(path, save(tensors, metadata))


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint; raise UserError where there is none or it is damaged."""
    if not path.is_file():
        raise UserError(f"no checkpoint at {path}: the run has not finished its first epoch; start it anew")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != _FORMAT:
                raise UserError(f"it is no checkpoint of this version: its format is {metadata.get('format')!r}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        network = Network.from_dict(json.loads(metadata["network"]))
        weights = np.empty(network.size, np.float32)
        for parameter in network.parameters:
            values = tensors[parameter.name]
            if values.shape != parameter.shape or values.dtype != np.float32:
                raise UserError(f"{parameter.name} is {values.dtype} {values.shape}, not {parameter.shape}")
            weights[parameter.offset : parameter.offset + parameter.size] = values.ravel()
        state: CoordinatorState | None = None
        rows: tuple[EpochRow, ...] = ()
        if "coordinator" in metadata:
            arrays = {n.removeprefix(_COORDINATOR): v for n, v in tensors.items() if n.startswith(_COORDINATOR)}
            state = CoordinatorState.build(json.loads(metadata["coordinator"]), arrays)
            rows = tuple(EpochRow(*values) for values in json.loads(metadata["rows"]))
        return Checkpoint(network, weights, int(metadata["epoch"]), state, rows)
    except (UserError, SafetensorError, OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"cannot read the checkpoint {path}: {reason}") from None
