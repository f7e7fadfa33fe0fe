"""Checkpoints: safetensors files with the network's description, its weights by parameter, and the coordinator's state.

Tensor names are the network's parameter names; the coordinator's arrays are named `coordinator.*`.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from bptcnn.errors import UserError
from bptcnn.networks import Network
from bptcnn.outer import CoordinatorState
from bptcnn.training.files import write_atomically

_FORMAT = "bptcnn-1"
_COORDINATOR = "coordinator."


@dataclass(frozen=True)
class Checkpoint:
    """A network after `epoch` epochs: flat weights float32 (network.size,); `state` only where a run can go on."""

    network: Network
    weights: npt.NDArray[np.float32]
    epoch: int
    state: CoordinatorState | None


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
        for name, array in checkpoint.state.arrays().items():
            tensors[_COORDINATOR + name] = np.ascontiguousarray(array)
    write_atomically(path, save(tensors, metadata))


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint; raise UserError where there is none or it is damaged."""
    if not path.is_file():
        raise UserError(f"no checkpoint at {path}: the run has not finished its first epoch")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        if metadata.get("format") != _FORMAT:
            raise UserError(f"{path} is no checkpoint of this version: its format is {metadata.get('format')!r}")
        network = Network.from_dict(json.loads(metadata["network"]))
        weights = np.empty(network.size, np.float32)
        for parameter in network.parameters:
            values = tensors[parameter.name]
            if values.shape != parameter.shape or values.dtype != np.float32:
                raise UserError(f"{path}: {parameter.name} is {values.dtype} {values.shape}, not {parameter.shape}")
            weights[parameter.offset : parameter.offset + parameter.size] = values.ravel()
        state = None
        if "coordinator" in metadata:
            arrays = {n.removeprefix(_COORDINATOR): v for n, v in tensors.items() if n.startswith(_COORDINATOR)}
            state = CoordinatorState.build(json.loads(metadata["coordinator"]), arrays)
        return Checkpoint(network, weights, int(metadata["epoch"]), state)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"cannot read the checkpoint {path}: {str(error).splitlines()[0]}") from None
