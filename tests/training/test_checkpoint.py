"""Checkpoints: what is written is read, and whatever else is in the file is one line to the user."""

import json
import math
import struct
from contextlib import suppress
from dataclasses import astuple, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from networks.drawn import networks
from safetensors import safe_open
from safetensors.numpy import save

from bptcnn.errors import UserError
from bptcnn.networks import Conv2D, Dense, Flatten, Network
from bptcnn.outer import CoordinatorState
from bptcnn.outer.node_record import NodeTotals
from bptcnn.outer.state import Counters, NodeState, Tally
from bptcnn.training.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from bptcnn.training.progress import EpochRow

TINY = Network((6, 6, 1), [Conv2D(2, 3, activation="relu"), Flatten(), Dense(3)], "tiny")


def state(samples: int = 11, seed: int = 0) -> CoordinatorState:
    random = np.random.default_rng(seed)
    nodes = (
        NodeState("node0", NodeTotals(20, 4, 1, 1.5, 0.25, 0.125), 0.001),
        NodeState("node1", NodeTotals(2, 1, 0, 0.5, 0.0, 0.0), None),
    )
    owners = random.integers(-1, 2, samples, np.int32)
    return CoordinatorState(
        2, samples, nodes, Counters(22, 3, 5, 0.5), Tally(4, 2.5, 3), owners, random.random(samples) < 0.5
    )


def checkpoint(network: Network = TINY, with_state: bool = True) -> Checkpoint:
    weights = np.random.default_rng(1).standard_normal(network.size).astype(np.float32)
    rows = (EpochRow(1, 1.5, 0.5, 0.75, 0.5, 1000.0), EpochRow(2, 1.5, 0.25, 0.875, math.nan, 1000.0))
    return Checkpoint(network, weights, 2, state(), rows) if with_state else Checkpoint(network, weights, 2)


@pytest.mark.parametrize("with_state", [True, False])
def test_round_trip(tmp_path: Path, with_state: bool) -> None:
    written = checkpoint(with_state=with_state)
    write_checkpoint(tmp_path / "file", written)
    read = read_checkpoint(tmp_path / "file")
    assert read.epoch == 2
    assert read.weights.dtype == np.float32
    assert read.weights.tobytes() == written.weights.tobytes()
    assert read.network.to_dict() == TINY.to_dict()
    assert (read.state is None) == (not with_state)
    if read.state and written.state:
        assert astuple(read.rows[0])[:4] == astuple(written.rows[0])[:4]
        assert astuple(read.state)[:5] == astuple(written.state)[:5]
        assert read.state.nodes == written.state.nodes
        assert np.array_equal(read.state.owners, written.state.owners)
        assert np.array_equal(read.state.ahead, written.state.ahead)
        assert (read.state.owners.dtype, read.state.ahead.dtype) == (np.int32, np.bool_)


@given(network=networks(10, 6))
def test_any_network(tmp_path_factory: pytest.TempPathFactory, network: Network) -> None:
    path = tmp_path_factory.mktemp("checkpoint") / "file"
    written = checkpoint(network)
    write_checkpoint(path, written)
    read = read_checkpoint(path)
    assert read.network.to_dict() == network.to_dict()
    assert read.weights.tobytes() == written.weights.tobytes()


def test_other_programs_find_the_parameters_by_name(tmp_path: Path) -> None:
    written = checkpoint()
    write_checkpoint(tmp_path / "file", written)
    with safe_open(tmp_path / "file", framework="numpy") as file:
        for parameter in TINY.parameters:
            values = file.get_tensor(parameter.name)
            assert values.shape == parameter.shape
            part = written.weights[parameter.offset : parameter.offset + parameter.size]
            assert np.array_equal(values.ravel(), part)


def refused(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_checkpoint(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_none(tmp_path: Path) -> None:
    assert "first epoch" in refused(tmp_path / "file")
    refused(tmp_path)


@given(data=st.data())
def test_truncated_at_any_byte(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("checkpoint") / "file"
    write_checkpoint(path, checkpoint())
    content = path.read_bytes()
    path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    refused(path)


@given(data=st.data())
def test_damaged_headers(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """A changed header is refused, or says the same with other numbers; never a traceback."""
    path = tmp_path_factory.mktemp("checkpoint") / "file"
    write_checkpoint(path, checkpoint())
    content = bytearray(path.read_bytes())
    header = struct.unpack("<Q", content[:8])[0]
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, 7 + header))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    with suppress(UserError):
        read_checkpoint(path)


def content(
    arrays: dict[str, np.ndarray] | None = None, tensors: dict[str, np.ndarray] | None = None, **changes: str | None
) -> bytes:
    """The bytes of a checkpoint without checksum, with other metadata (None removes an entry), arrays, tensors."""
    metadata = {
        "format": "bptcnn-1",
        "network": json.dumps(TINY.to_dict()),
        "epoch": "2",
        "coordinator": json.dumps(state().scalars()),
        "rows": json.dumps([[2, 1.5, 0.5, 0.75, float("nan"), 1000.0]]),
    }
    for name, value in changes.items():
        metadata.pop(name, None)
        if value is not None:
            metadata[name] = value
    weights = {p.name: np.zeros(p.shape, np.float32) for p in TINY.parameters}
    kept = {f"coordinator.{name}": array for name, array in {**state().arrays(), **(arrays or {})}.items()}
    return save({**weights, **kept, **(tensors or {})}, metadata)


BAD_METADATA = [
    {"format": None},
    {"format": "bptcnn-0"},
    {"network": None},
    {"network": "{"},
    {"network": "[]"},
    {"network": "3"},
    {"network": "null"},
    {"network": '"tiny"'},
    {"network": "{}"},
    {"network": json.dumps({**TINY.to_dict(), "input_shape": [7, 6, 1]})},
    {"network": json.dumps({**TINY.to_dict(), "input_shape": None})},
    {"network": json.dumps({**TINY.to_dict(), "layers": []})},
    {"epoch": None},
    {"epoch": "two"},
    {"rows": None},
    {"rows": "[3]"},
    {"rows": "[[1, 2]]"},
    {"coordinator": "{}"},
    {"coordinator": "[]"},
    {"coordinator": "7"},
    {"coordinator": json.dumps({**state().scalars(), "nodes": [3]})},
    {"coordinator": json.dumps({**state().scalars(), "counters": {"images": 3}})},
]


@pytest.mark.parametrize("changes", BAD_METADATA)
def test_bad_metadata(tmp_path: Path, changes: dict[str, str | None]) -> None:
    path = tmp_path / "file"
    path.write_bytes(content())
    read_checkpoint(path)
    path.write_bytes(content(**changes))
    refused(path)


@pytest.mark.parametrize("foreign", [b"", b"\0" * 8, b"epoch,seconds\n1,2\n", b"\xff" * 100, b"PK\3\4" + bytes(200)])
def test_foreign_files(tmp_path: Path, foreign: bytes) -> None:
    (tmp_path / "file").write_bytes(foreign)
    refused(tmp_path / "file")


def test_safetensors_of_other_programs(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(save({"layer.weight": np.ones((3, 4), np.float32)}, {"format": "pt"}))
    refused(path)
    path.write_bytes(save({"layer.weight": np.ones((3, 4), np.float32)}))
    refused(path)
    for kind in ("BF16", "F8_E4M3"):
        size = 8 if kind == "BF16" else 4
        header = json.dumps({"w": {"dtype": kind, "shape": [4], "data_offsets": [0, size]}}).encode()
        path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(size))
        refused(path)


def test_parameters_of_another_shape_or_type(tmp_path: Path) -> None:
    path = tmp_path / "file"
    metadata = {"format": "bptcnn-1", "network": json.dumps(TINY.to_dict()), "epoch": "2"}
    tensors = {p.name: np.zeros(p.shape, np.float32) for p in TINY.parameters}
    name = TINY.parameters[0].name
    for wrong in (np.zeros(TINY.parameters[0].shape, np.float64), np.zeros((3, 3, 2, 1), np.float32)):
        path.write_bytes(save({**tensors, name: wrong}, metadata))
        assert name in refused(path)
    del tensors[name]
    path.write_bytes(save(tensors, metadata))
    assert name in refused(path)


NODES = state().scalars()["nodes"]
ABSURD = {
    "a negative count": {"counters": {"images_trained": -1}},
    "a huge count": {"counters": {"images_trained": 2**62}},
    "a count of 400 digits": {"counters": {"images_trained": 10**400}},
    "text for a count": {"counters": {"updates": "5"}},
    "true for a count": {"counters": {"updates": True}},
    "a table for a count": {"ahead_tally": {"samples": {}}},
    "endless seconds": {"counters": {"waiting_seconds": 1e300}},
    "negative images of a node": {"nodes": [{**NODES[0], "totals": {"images": -5}}, NODES[1]]},
    "an unknown total": {"nodes": [{**NODES[0], "totals": {"imagse": 5}}, NODES[1]]},
    "a node that takes no time": {"nodes": [{**NODES[0], "seconds_per_sample": 5e-324}, NODES[1]]},
    "a node that takes for ever": {"nodes": [{**NODES[0], "seconds_per_sample": 1e300}, NODES[1]]},
    "two nodes of one name": {"nodes": [NODES[0], NODES[0]]},
    "a node without a name": {"nodes": [{**NODES[0], "name": ""}, NODES[1]]},
    "a name of a million characters": {"nodes": [{**NODES[0], "name": "x" * 10**6}, NODES[1]]},
    "many nodes": {"nodes": [{**NODES[0], "name": f"n{i}"} for i in range(20_000)]},
    "no nodes": {"nodes": []},
    "fewer nodes than owners": {"nodes": NODES[:1]},
    "a negative epoch": {"epoch": -2},
    "an epoch far away": {"epoch": 2**62},
    "another epoch than the file's": {"epoch": 1},
    "half an epoch": {"epoch": 1.5},
    "more samples": {"samples": 12},
    "negative samples": {"samples": -11},
    "huge samples": {"samples": 2**62},
}


@pytest.mark.parametrize("kind", ABSURD)
def test_absurd_states_are_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(content(coordinator=json.dumps({**state().scalars(), **ABSURD[kind]})))
    assert len(refused(path)) < 1000


BAD_ARRAYS = {
    "owners beyond the nodes": {"owners": np.full(11, 2, np.int32)},
    "owners below nobody": {"owners": np.full(11, -2, np.int32)},
    "owners of another type": {"owners": np.zeros(11, np.int64)},
    "owners as floats": {"owners": np.full(11, np.nan, np.float32)},
    "owners of two dimensions": {"owners": np.zeros((11, 1), np.int32)},
    "fewer owners": {"owners": np.zeros(10, np.int32)},
    "ahead as bytes": {"ahead": np.full(11, 7, np.uint8)},
    "more that are ahead": {"ahead": np.zeros(12, np.bool_)},
}


@pytest.mark.parametrize("kind", BAD_ARRAYS)
def test_absurd_arrays_are_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(content(arrays=BAD_ARRAYS[kind]))
    assert next(iter(BAD_ARRAYS[kind])) in refused(path)


@pytest.mark.parametrize(
    "rows",
    [
        "[" * 100_000,
        "[[2, 1.5, 0.5, 0.75, 0.5]]",
        "[[2, 1.5, 0.5, 0.75, 0.5, Infinity]]",
        "[[2, 1.5, 0.5, 0.75, 0.5, 1e300]]",
        "[[-2, 1.5, 0.5, 0.75, 0.5, 1000.0]]",
        "[[2, true, 0.5, 0.75, 0.5, 1000.0]]",
        "[[1, 1.5, 0.5, 0.75, 0.5, 1000.0]]",
        "[[2, 1.5, 0.5, 0.75, 0.5, 1000.0], [2, 1.5, 0.5, 0.75, 0.5, 1000.0]]",
        '[["2", 1.5, 0.5, 0.75, 0.5, 1000.0]]',
        '{"2": 3}',
    ],
)
def test_absurd_rows_are_refused(tmp_path: Path, rows: str) -> None:
    (tmp_path / "file").write_bytes(content(rows=rows))
    refused(tmp_path / "file")


def test_nested_descriptions_and_other_absurdities_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    deep: dict[str, object] = {"layer": "Dense", "units": 3}
    for _ in range(20):
        deep = {"layer": "Residual", "layers": [deep]}
    for changes in (
        {"network": json.dumps({**TINY.to_dict(), "layers": [deep]})},
        {"network": json.dumps({"input_shape": [6, 6, 1], "layers": [{"layer": "Dense", "units": 2**62}]})},
        {"coordinator": "[" * 100_000},
        {"epoch": "9" * 5000},
        {"epoch": "-2"},
        {"epoch": "1_0"},
        {"extra": "[" * 100_000, "coordinator": "{" * 50_000},
    ):
        path.write_bytes(content(**changes))
        refused(path)


def test_weights_that_are_no_numbers_and_strange_tensors_are_refused(tmp_path: Path) -> None:
    path, name = tmp_path / "file", TINY.parameters[0].name
    for bad in (np.nan, np.inf):
        path.write_bytes(content(arrays={}, tensors={name: np.full(TINY.parameters[0].shape, bad, np.float32)}))
        assert name in refused(path)
    path.write_bytes(content(arrays={}, tensors={"stowaway": np.zeros(5, np.float32)}))
    assert "stowaway" in refused(path)
    path.write_bytes(content(arrays={}, tensors={"optimizer.0.velocity": np.zeros(5, np.float32)}))
    read_checkpoint(path)


@pytest.mark.parametrize("length", [0, 1, 10**6, 2**40, 2**63, 2**64 - 1])
def test_headers_of_absurd_sizes_are_refused(tmp_path: Path, length: int) -> None:
    (tmp_path / "file").write_bytes(struct.pack("<Q", length) + b"{}" + bytes(100))
    refused(tmp_path / "file")


def test_a_header_that_promises_a_tensor_beyond_the_file_is_refused(tmp_path: Path) -> None:
    for shape, end in (([2**60], 2**62), ([2**40, 2**40], 8), ([-1], 4), ([1], 2**40)):
        header = json.dumps({"w": {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}}).encode()
        (tmp_path / "file").write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
        refused(tmp_path / "file")


def test_a_file_larger_than_memory_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with path.open("wb") as file:
        file.truncate(1 << 42)  # takes no room on the disk
    assert "too little memory" in refused(path)


@given(data=st.data())
def test_a_flipped_bit_is_noticed_wherever_it_is(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """In the file's padding it changes nothing; everywhere else the file is refused."""
    path = tmp_path_factory.mktemp("checkpoint") / "file"
    written = checkpoint()
    write_checkpoint(path, written)
    content = bytearray(path.read_bytes())
    place, bit = data.draw(st.integers(0, len(content) - 1)), data.draw(st.integers(0, 7))
    was_blank = content[place] == 32
    content[place] ^= 1 << bit
    path.write_bytes(content)
    try:
        read = read_checkpoint(path)
    except UserError:
        return
    assert was_blank, (place, bit)
    assert read.weights.tobytes() == written.weights.tobytes()


def test_every_flipped_bit_of_the_weights_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_checkpoint(path, checkpoint())
    content = bytearray(path.read_bytes())
    for place in range(len(content) - 4 * 12, len(content)):
        content[place] ^= 1
        path.write_bytes(content)
        assert "checksum" in refused(path)
        content[place] ^= 1


def test_a_checksum_cannot_be_left_out(tmp_path: Path) -> None:
    """A file of this version has one; one flipped bit does not make it a file of the version before."""
    path = tmp_path / "file"
    path.write_bytes(content(format="bptcnn-2"))
    refused(path)
    write_checkpoint(path, checkpoint())
    path.write_bytes(path.read_bytes().replace(b'"checksum"', b'"checksun"'))
    refused(path)


def test_a_loss_beyond_all_numbers_does_not_make_a_checkpoint_unreadable(tmp_path: Path) -> None:
    written = checkpoint()
    rows = (replace(written.rows[0], train_loss=math.inf), written.rows[1])
    write_checkpoint(tmp_path / "file", replace(written, rows=rows))
    assert math.isnan(read_checkpoint(tmp_path / "file").rows[0].train_loss)


def test_files_of_the_version_before_load(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content())
    read = read_checkpoint(tmp_path / "file")
    assert read.epoch == 2
    assert math.isnan(read.rows[0].test_accuracy)


def test_a_failed_write_keeps_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_checkpoint(path, checkpoint())
    before = path.read_bytes()

    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(UserError, match="No space left"):
        write_checkpoint(path, checkpoint(with_state=False))
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
