"""Checkpoints: bytes that were damaged, and files that somebody has made up, with whatever proves them undamaged."""

import json
import random
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from fuzz.harness import Kind, Target, line
from fuzz.hostile import NETWORK
from fuzz.mutation import draw_value, mutated, scrambled
from fuzz.texts import encoded
from fuzz.writing import json_text
from safetensors import safe_open

from bptcnn.errors import UserError
from bptcnn.outer import (
    Coordinator,
    CoordinatorState,
    EpochEnd,
    EpochRecorded,
    Finish,
    NodeProfile,
    Pause,
    Paused,
    Ready,
    RunSettings,
    Send,
    Submitted,
    Work,
)
from bptcnn.training.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from bptcnn.training.progress import EpochRow
from bptcnn.training.tensor_files import write_tensors

SAMPLES = 40
NODES = (NodeProfile("node0", 1000.0), NodeProfile("node1", 500.0))
SETTINGS = RunSettings(NODES, SAMPLES, 3, 8, 2, (0.1,) * 3)


def trained(epochs: int) -> tuple[CoordinatorState, tuple[EpochRow, ...]]:
    """Return what a run of two nodes keeps after so many epochs."""
    coordinator = Coordinator(SETTINGS)
    rows = [EpochRow(epoch + 1, 0.5, 1.0 / (epoch + 1), 0.5, 0.5, 80.0) for epoch in range(epochs)]
    state = drive(coordinator, epochs)
    assert state is not None
    return state, (*rows[:-1], replace(rows[-1], test_accuracy=float("nan")))


def drive(coordinator: Coordinator, epoch: int) -> CoordinatorState | None:
    """Have honest nodes train until the end of an epoch; None where the run is over before."""
    committed, sequence, now = [0, 0], [0, 0], 1.0
    waiting: list[Any] = [Ready(node, now) for node in range(2)]
    for _ in range(2000):
        if not waiting:
            return None
        now += 0.01
        for action in coordinator.handle(replace(waiting.pop(0), time=now)):
            match action:
                case Send(node=node, message=Work() as work):
                    count = len(work.indices)
                    committed[node] += count
                    sequence[node] += 1
                    seconds = 1e-3 * count
                    waiting.append(
                        Submitted(
                            node=node,
                            time=now,
                            sequence=sequence[node],
                            samples_committed=committed[node],
                            epoch=work.epoch,
                            samples=count,
                            loss_sum=1.0 * count,
                            correct=count // 2,
                            staleness=0,
                            compute_seconds=seconds,
                            wait_seconds=0.0,
                            communication_seconds=0.0,
                            timed_samples=count,
                            timed_seconds=seconds,
                        )
                    )
                case Send(node=node, message=Pause()):
                    waiting.append(Paused(node, now))
                case EpochEnd(epoch=ended):
                    if ended >= epoch:
                        return coordinator.state()
                    waiting.append(EpochRecorded(now, False))
                case Finish():
                    return None
    raise AssertionError("the run does not end")


@dataclass(frozen=True)
class File:
    """A safetensors file to be written: `metadata` and tensors, or `content` as it is."""

    metadata: dict[str, str] | None = None
    tensors: dict[str, npt.NDArray[Any]] | None = None
    content: bytes | None = None


class Damaged(Target):
    """Bytes of a checkpoint that were changed: it is refused, or holds what it held."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "last.safetensors"
        state, rows = trained(2)
        weights = NETWORK.initial_weights(0)
        self._whole = Checkpoint(NETWORK, weights, 2, state, rows)
        write_checkpoint(self._path, self._whole)
        self._content = self._path.read_bytes()

    def valid(self) -> Sequence[bytes]:
        return [self._content]

    def draw(self, draw: random.Random) -> bytes:
        if draw.random() < 0.5:  # one bit of the weights, say
            data = bytearray(self._content)
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
            return bytes(data)
        return scrambled(self._content, draw)

    def take(self, given: bytes) -> str | None:
        self._path.write_bytes(given)
        try:
            found = read_checkpoint(self._path)
        except UserError as error:
            return line(error)
        whole = self._whole
        assert found.network.to_dict() == whole.network.to_dict(), "another network"
        assert np.array_equal(found.weights, whole.weights), "other weights"
        assert repr(found.rows) == repr(whole.rows), "other rows"
        assert found.epoch == whole.epoch, "another epoch"
        assert found.state is not None
        assert whole.state is not None
        assert found.state.scalars() == whole.state.scalars(), "another state"
        for name, array in whole.state.arrays().items():
            assert np.array_equal(found.state.arrays()[name], array), f"other {name}"
        return None


class MadeUp(Target):
    """Files that the product's own writer has sealed, with contents that make no sense; a run goes on from them."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "last.safetensors"
        state, rows = trained(2)
        self._checkpoint = Checkpoint(NETWORK, NETWORK.initial_weights(0), 2, state, rows)
        write_checkpoint(self._path, self._checkpoint)
        self._content = self._path.read_bytes()

    def valid(self) -> Sequence[File]:
        return [File(content=self._content)]

    def draw(self, draw: random.Random) -> File:
        if draw.random() < 0.3:
            return File(content=self._headed(draw))
        self._path.write_bytes(self._content)
        with safe_open(self._path, framework="numpy") as file:
            metadata = dict(file.metadata())
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        for _ in range(draw.choice((1, 1, 2))):
            if draw.random() < 0.75:
                name = draw.choice(sorted(metadata))
                metadata[name] = self._odd_text(metadata[name], draw)
            else:
                name = draw.choice(sorted(tensors))
                tensors[name] = self._odd_tensor(tensors[name], draw)
        return File(metadata, tensors)

    def _headed(self, draw: random.Random) -> bytes:
        """Return the file with another header before the same tensors."""
        (size,) = struct.unpack("<Q", self._content[:8])
        header = json.loads(self._content[8 : 8 + size])
        text = encoded(json_text(mutated(header, draw), draw))
        told = len(text) if draw.random() < 0.9 else draw.choice((0, 1, 2**31, 2**63, 2**64 - 1, 10**8))
        return struct.pack("<Q", told) + text + self._content[8 + size :]

    def _odd_text(self, text: str, draw: random.Random) -> str:
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        odd = json_text(mutated(value, draw) if draw.random() < 0.9 else draw_value(draw), draw)
        return odd.encode("utf-8", "replace").decode()

    def _odd_tensor(self, array: npt.NDArray[Any], draw: random.Random) -> npt.NDArray[Any]:
        flat = array.copy()
        if flat.dtype == np.int32:
            flat[draw.randrange(flat.size)] = draw.choice((-1, -2, 1, 2, 1000, 2**31 - 1, -(2**31)))
        elif flat.dtype == np.float32:
            flat.reshape(-1)[draw.randrange(flat.size)] = draw.choice((np.nan, np.inf, 3e38))
        with np.errstate(all="ignore"):
            return draw.choice(
                (flat, flat, flat[:1], np.concatenate([flat, flat]), flat.astype(np.int64), flat.astype(np.float64),
                 flat.reshape(1, -1), np.zeros((0,), flat.dtype), flat != flat.reshape(-1)[0])
            )  # fmt: skip

    def take(self, given: File) -> str | None:
        write(self._path, given)
        try:
            found = read_checkpoint(self._path)
            assert found.weights.shape == (found.network.size,)
            if found.state is None:
                return None
            coordinator = Coordinator(SETTINGS, found.state)
        except UserError as error:
            return line(error)
        drive(coordinator, 3)
        coordinator.validate()
        return None

    def describe(self, given: File) -> str:
        if given.content is not None:
            return repr(given.content[:600])
        own = sealed_parts(self._content)
        assert given.metadata is not None
        assert given.tensors is not None
        odd = {name: text[:300] for name, text in given.metadata.items() if own[0].get(name) != text}
        shapes = {
            name: (array.dtype, array.shape, array.reshape(-1)[:4].tolist()) for name, array in given.tensors.items()
        }
        return f"{odd} {shapes}"


def sealed_parts(content: bytes) -> tuple[dict[str, str], int]:
    """Return a file's metadata and the length of its header."""
    (size,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + size]).get("__metadata__", {}), size


def write(path: Path, file: File) -> None:
    """Write the file, with the checksum that is right for it."""
    if file.content is not None:
        path.write_bytes(file.content)
        return
    assert file.metadata is not None
    assert file.tensors is not None
    texts = {name: text for name, text in file.metadata.items() if name != "checksum"}
    write_tensors(path, file.tensors, texts)


@contextmanager
def _open_damaged(folder: Path) -> Iterator[Target]:
    yield Damaged(folder)


@contextmanager
def _open_made_up(folder: Path) -> Iterator[Target]:
    yield MadeUp(folder)


KINDS = (Kind("checkpoint-bytes", 60, _open_damaged), Kind("checkpoint", 80, _open_made_up))
