"""Optimizer states by name: who starts from which, that no step repeats, and what a damaged checkpoint is told."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bptcnn.errors import UserError
from bptcnn.networks import Dense, Flatten, Network
from bptcnn.nodes.optimizer_state import LIFE_STEPS, OptimizerState, drawing_node, step_after
from bptcnn.outer import CoordinatorState
from bptcnn.outer.node_record import NodeTotals
from bptcnn.outer.state import Counters, NodeState, Tally
from bptcnn.training.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from bptcnn.training.optimizer_states import SLOW_LINK, OptimizerStates, hands_over, lacking
from bptcnn.training.tensor_files import read_tensors, write_tensors

TINY = Network((2, 2, 1), [Flatten(), Dense(3)], "tiny")


def velocity(seed: int = 0) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(TINY.size).astype(np.float32)


def states() -> dict[str, OptimizerState]:
    return {
        "node0": OptimizerState(7, 2.302585092994046, velocity(0)),
        "far": OptimizerState(3 * LIFE_STEPS),
        "node1": OptimizerState(LIFE_STEPS + 5, None, velocity(1)),
    }


# ---- who starts from what --------------------------------------------------------------------------------------------


def test_a_node_goes_on_from_its_state_until_something_of_it_counts() -> None:
    found = OptimizerStates(states())
    for _ in range(2):  # an agent that ended before it had committed anything
        assert found.start("node0", fresh=True).step == 7
    assert found.start("node0", fresh=False).step == LIFE_STEPS
    assert found.start("node0", fresh=True).step == 2 * LIFE_STEPS
    assert found.start("far", fresh=True).step == 3 * LIFE_STEPS
    assert found.start("new", fresh=True).step == 0
    assert found.start("new", fresh=True).step == LIFE_STEPS


def test_what_a_checkpoint_keeps_is_that_of_the_nodes_which_stood_still() -> None:
    found = OptimizerStates(states())
    for name in ("node0", "node1", "new", "lost"):
        found.start(name, fresh=True)
    handed = OptimizerState(90, 1.5, velocity(5))
    kept = found.at_cut({"node0": handed, "node1": None, "new": OptimizerState(3)})
    assert (kept["node0"].step, kept["node0"].usual_loss) == (90, 1.5)
    assert kept["node0"].velocity is handed.velocity
    assert (kept["node1"].step, kept["node1"].velocity) == (2 * LIFE_STEPS, None), "it handed nothing over"
    assert (kept["new"].step, kept["lost"].step, kept["far"].step) == (3, LIFE_STEPS, 4 * LIFE_STEPS)
    assert found.start("far", fresh=True).step == 4 * LIFE_STEPS, "its state is of an earlier cut"


@pytest.mark.parametrize("step", [LIFE_STEPS, 2**61])
def test_a_step_that_the_node_cannot_have_reached_is_no_state(step: int) -> None:
    found = OptimizerStates({})
    found.start("host", fresh=True)
    assert found.at_cut({"host": OptimizerState(step, 0.0, velocity())})["host"].step == LIFE_STEPS


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_velocity_that_has_diverged_is_not_kept(tmp_path: Path, value: float) -> None:
    """Its node is about to forget it; and a checkpoint with it would be refused."""
    found = OptimizerStates({})
    found.start("node0", fresh=True)
    diverged = velocity()
    diverged[-1] = value
    kept = found.at_cut({"node0": OptimizerState(4, 1.0, diverged)})
    assert (kept["node0"].step, kept["node0"].velocity) == (4, None)
    write_checkpoint(tmp_path / "file", Checkpoint(TINY, velocity(), 1, optimizer=kept))
    read_checkpoint(tmp_path / "file")


LIVES = st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), st.sampled_from(["start", "train", "cut", "resume"])))


@given(actions=LIVES)
def test_no_step_that_counts_is_drawn_by_twice(actions: list[tuple[str, str]]) -> None:
    """Whoever is lost, left out or killed when; what is trained again after a resume is drawn as it was."""
    found, running = OptimizerStates({}), dict[str, int]()
    drawn, checkpointed = set[tuple[str, int]](), set[tuple[str, int]]()
    last: dict[str, OptimizerState] = {}
    for name, action in actions:
        match action:
            case "start":
                running[name] = found.start(name, fresh=not any(who == name for who, _ in drawn - checkpointed)).step
            case "train" if name in running:
                assert (name, running[name]) not in drawn
                drawn.add((name, running[name]))
                running[name] += 1
            case "cut":
                last = found.at_cut({who: OptimizerState(step) for who, step in running.items()})
                checkpointed = set(drawn)
            case "resume":
                found, running, drawn = OptimizerStates(dict(last)), {}, set(checkpointed)


def test_nodes_draw_by_their_names() -> None:
    words = {drawing_node(f"node{index}") for index in range(1000)}
    assert len(words) == 1000
    assert all(-(2**63) <= word < 2**63 for word in words)
    assert drawing_node("node0") == drawing_node("node0")
    assert step_after(0) == step_after(LIFE_STEPS - 1) == LIFE_STEPS


# ---- what is said ----------------------------------------------------------------------------------------------------


def test_what_a_resumed_run_lacks_is_one_line() -> None:
    assert lacking(states(), ["node0", "node1"], 0.9) is None
    assert lacking(states(), ["node0", "far", "new"], 0.0) is None, "without momentum nothing is missing"
    assert lacking(states(), ["node0", "far", "new"], 0.9) == (
        "far, new start without momentum: the checkpoint has none of these nodes"
    )
    old = lacking(None, ["node0"], 0.0)
    assert old is not None
    assert "kept no optimizer states" in old


def test_a_host_hands_over_what_takes_a_minute_at_most() -> None:
    assert hands_over(15_000_000, 1e6)
    assert not hands_over(15_000_001, 1e6)
    assert hands_over(0, 1.0)
    assert hands_over(15 * SLOW_LINK, None)
    assert not hands_over(15 * SLOW_LINK + 1, None), "a link that was not measured is slow"


# ---- in a checkpoint -------------------------------------------------------------------------------------------------


def written(folder: Path) -> Path:
    nodes = (NodeState("node0", NodeTotals(), None),)
    state = CoordinatorState(1, 2, nodes, Counters(), Tally(), np.zeros(2, np.int32), np.zeros(2, np.bool_))
    write_checkpoint(folder / "file", Checkpoint(TINY, velocity(), 1, state, (), optimizer=states()))
    return folder / "file"


def test_round_trip(tmp_path: Path) -> None:
    read = read_checkpoint(written(tmp_path)).optimizer
    assert read is not None
    assert list(read) == list(states())
    for name, state in states().items():
        assert (read[name].step, read[name].usual_loss) == (state.step, state.usual_loss)
        found = read[name].velocity
        assert (found is None) == (state.velocity is None)
        if found is not None and state.velocity is not None:
            assert found.tobytes() == state.velocity.tobytes()
            assert found.dtype == np.float32


def parts(path: Path) -> tuple[dict[str, str], dict[str, npt.NDArray[Any]], list[dict[str, Any]]]:
    """A checkpoint's metadata, its tensors, and its entries of optimizer states."""
    tensors, metadata, _ = read_tensors(path)
    return metadata, tensors, json.loads(metadata["optimizer"])


DAMAGES: dict[str, tuple[dict[str, Any], str]] = {
    "a negative step": ({"step": -1}, "step"),
    "a huge step": ({"step": 2**62}, "step"),
    "a step that is none": ({"step": 1.5}, "step"),
    "a loss that is none": ({"usual_loss": "high"}, "usual_loss"),
    "a negative loss": ({"usual_loss": -1.0}, "usual_loss"),
    "no name": ({"name": ""}, "name"),
    "two of a name": ({"name": "far"}, "two optimizer states"),
    "a velocity that is not told of": ({"velocity": False}, "not told of"),
    "something else": ({"momentum": 0.5}, "momentum"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_entries_are_refused_in_one_line(tmp_path: Path, damage: str) -> None:
    path = written(tmp_path)
    metadata, tensors, entries = parts(path)
    changes, word = DAMAGES[damage]
    entries[0] |= changes
    write_tensors(path, tensors, metadata | {"optimizer": json.dumps(entries)})
    refused(path, word)


@pytest.mark.parametrize("text", ["", "{}", "3", "[3]", "[[]]", "[" * 100_000, '[{"name": "node0"}]', "[1e999]"])
def test_no_list_of_states(tmp_path: Path, text: str) -> None:
    path = written(tmp_path)
    metadata, tensors, _ = parts(path)
    write_tensors(path, tensors, metadata | {"optimizer": text})
    refused(path, "")


TENSORS: dict[str, npt.NDArray[Any] | None] = {
    "missing": None,
    "short": np.zeros(TINY.size - 1, np.float32),
    "long": np.zeros(TINY.size + 1, np.float32),
    "square": np.zeros((TINY.size, 1), np.float32),
    "double": np.zeros(TINY.size, np.float64),
    "not finite": np.full(TINY.size, np.nan, np.float32),
    "infinite": np.full(TINY.size, np.inf, np.float32),
}


@pytest.mark.parametrize("tensor", TENSORS)
def test_damaged_velocities_are_refused_in_one_line(tmp_path: Path, tensor: str) -> None:
    path = written(tmp_path)
    metadata, tensors, _ = parts(path)
    value = TENSORS[tensor]
    if value is None:
        del tensors["optimizer.0.velocity"]
    else:
        tensors["optimizer.0.velocity"] = value
    write_tensors(path, tensors, metadata)
    refused(path, "node0")


def test_a_velocity_of_nobody(tmp_path: Path) -> None:
    path = written(tmp_path)
    metadata, tensors, _ = parts(path)
    write_tensors(path, tensors | {"optimizer.9.velocity": velocity()}, metadata)
    refused(path, "3 velocities")


def refused(path: Path, word: str) -> None:
    with pytest.raises(UserError) as caught:
        read_checkpoint(path)
    assert str(path) in str(caught.value)
    assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_best_checkpoint_is_no_larger_for_it(tmp_path: Path) -> None:
    """What optimizers keep is for going on: only the last checkpoint has it."""
    write_checkpoint(tmp_path / "best", Checkpoint(TINY, velocity(), 1))
    content = (tmp_path / "best").read_bytes()
    assert b"optimizer" not in content[: 8 + struct.unpack("<Q", content[:8])[0]]
