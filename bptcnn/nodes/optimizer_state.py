"""What a node's next step depends on beside weights and samples: in checkpoints, so that a resumed run is the run.

    node ── Exchange.keep, at a pause ──> its `Node` on the driver's side ──> checkpoint
    node <── Exchange.restore, at its start ── its `Node` <── launcher <────── checkpoint

Dropout draws by the run's seed, the node (`drawing_node`) and the number of the step. An agent that goes on from a
state numbers its steps on; one that starts without takes numbers that nobody of this name has drawn by: a stretch of
LIFE_STEPS for each agent. Imports nothing that compiles.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

LIFE_STEPS = 1 << 40
"""More than an agent makes: thirty years of a step a millisecond."""
LAST_STEP = (1 << 62) - LIFE_STEPS
"""No agent starts beyond it."""


@dataclass(frozen=True, eq=False)
class OptimizerState:
    """The number of the node's next step, the loss that its divergence is judged by, and its momentum.

    `usual_loss`: as `divergence.LossBound` has it, None before the first step. `velocity`: float32 (parameters,), None
    where it is 0, or not known.
    """

    step: int
    usual_loss: float | None = None
    velocity: npt.NDArray[np.float32] | None = None


def step_after(step: int) -> int:
    """Return the first number of the stretch behind that of `step`: where an agent starts that knows no more."""
    return (step // LIFE_STEPS + 1) * LIFE_STEPS


def drawing_node(name: str) -> int:
    """Return the word, int64, by which a node of this name draws: a node keeps its name, but not always its index."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little", signed=True)
