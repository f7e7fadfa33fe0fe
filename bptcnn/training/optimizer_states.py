"""The nodes' optimizer states in a run, by name: which one an agent starts from, and what a checkpoint keeps of each.

checkpoint ──> OptimizerStates ──start──> agent ──at an epoch's end──> at_cut ──> checkpoint

A state is that of a node which stood still at the cut, nothing older: a node that was lost or away starts without, and
behind all steps that it may have made.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt

from bptcnn.nodes.optimizer_state import LAST_STEP, OptimizerState, step_after
from bptcnn.untrusted import LARGEST_FLOAT, Between, Length, Malformed, build, parse_json

PREFIX = "optimizer."
"""Of tensors in a checkpoint: `optimizer.<index>.velocity`."""
SLOW_LINK = 125_000
"""Bytes/s that a link is taken to have that was not measured: 1 Mbit/s."""
MOST_SECONDS = 60.0
"""That sending a state may take at each epoch's end."""

States = Mapping[str, OptimizerState]


class OptimizerStates:
    """What is known of each node of the run so far, those that take part no more included."""

    def __init__(self, states: dict[str, OptimizerState]) -> None:
        """Go on from a checkpoint's, which are taken out of `states`: velocities are large."""
        self._restored = dict(states)
        states.clear()
        self._next = {name: step_after(state.step) for name, state in self._restored.items()}  # another agent's

    def start(self, name: str, fresh: bool) -> OptimizerState:
        """Return what a new agent starts from; `fresh`: nothing of an earlier one counts that this process started."""
        if not fresh:
            self.forget(name)
        if name in self._restored:
            return self._restored[name]
        step = self._next.get(name, 0)
        self._next[name] = step_after(step)
        return OptimizerState(step)

    def forget(self, name: str) -> None:
        """No other agent will start from this state."""
        self._restored.pop(name, None)

    def at_cut(self, kept: Mapping[str, OptimizerState | None]) -> dict[str, OptimizerState]:
        """Return what the checkpoint keeps, given what live nodes have handed over; restored states are old from here.

        A velocity that is not finite is of a node that has diverged and is about to forget it.
        """
        self._restored.clear()
        states = {name: OptimizerState(step) for name, step in self._next.items()}
        for name, state in kept.items():
            if state is None or step_after(state.step) != self._next[name]:  # nothing, or a host's invention
                continue
            velocity = state.velocity
            if velocity is not None and not np.isfinite(velocity).all():
                velocity = None
            states[name] = OptimizerState(state.step, state.usual_loss, velocity)
        return states


def lacking(states: States | None, names: Iterable[str], momentum: float) -> str | None:
    """Return, in one line, what the nodes of a resumed run start without; None where that is nothing."""
    if states is None:
        return (
            "the checkpoint is of a version that kept no optimizer states: nodes start without momentum and step counts"
        )
    without = [name for name in names if name not in states or states[name].velocity is None]
    if not momentum or not without:
        return None
    start = "starts" if len(without) == 1 else "start"
    return f"{', '.join(without)} {start} without momentum: the checkpoint has none of {_them(without)}"


def _them(names: list[str]) -> str:
    return "this node" if len(names) == 1 else "these nodes"


def hands_over(velocity_size: int, bandwidth: float | None) -> bool:
    """Return whether a host sends its state at epochs' ends; `bandwidth` to it in bytes/s, None: not measured."""
    return 4 * velocity_size <= MOST_SECONDS * (bandwidth or SLOW_LINK)


# ---- in a checkpoint -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Entry:
    name: Annotated[str, Length(1, 1000)]
    step: Annotated[int, Between(0, LAST_STEP)]
    usual_loss: Annotated[float, Between(0.0, LARGEST_FLOAT)] | None
    velocity: bool


def encode_states(states: States) -> tuple[str, dict[str, npt.NDArray[np.float32]]]:
    """Return the text and the tensors that a checkpoint holds of the states."""
    entries, tensors = [], {}
    for index, (name, state) in enumerate(states.items()):
        entries.append(asdict(_Entry(name, state.step, state.usual_loss, state.velocity is not None)))
        if state.velocity is not None:
            tensors[f"{PREFIX}{index}.velocity"] = np.ascontiguousarray(state.velocity)
    return json.dumps(entries), tensors


def decode_states(text: str, tensors: Mapping[str, npt.NDArray[Any]], parameters: int) -> dict[str, OptimizerState]:
    """The inverse, of a checkpoint's tensors, velocities (parameters,); raise Malformed for anything else."""
    entries = parse_json(text)
    if not isinstance(entries, list):
        raise Malformed("the optimizer states are no list")
    states: dict[str, OptimizerState] = {}
    for index, values in enumerate(entries):
        entry = build(_Entry, values, f"optimizer state {index}")
        if entry.name in states:
            raise Malformed(f"there are two optimizer states of {entry.name}")
        velocity = tensors.get(f"{PREFIX}{index}.velocity")
        if (velocity is not None) != entry.velocity:
            raise Malformed(f"the velocity of {entry.name} is {'missing' if entry.velocity else 'not told of'}")
        if velocity is not None and (velocity.shape != (parameters,) or velocity.dtype != np.float32):
            raise Malformed(f"the velocity of {entry.name} is {velocity.dtype} {velocity.shape}, not ({parameters},)")
        if velocity is not None and not np.isfinite(velocity).all():
            raise Malformed(f"the velocity of {entry.name} is not finite")
        states[entry.name] = OptimizerState(entry.step, entry.usual_loss, velocity)
    found = sum(name.startswith(PREFIX) for name in tensors)
    if found != sum(state.velocity is not None for state in states.values()):
        raise Malformed(f"there are {found} velocities of {len(states)} optimizer states")
    return states
