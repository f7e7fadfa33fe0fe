"""The zoo's gradients by every algorithm, against the float64 reference that decides as the step did.

Rounding flips rectifiers and poolings that nearly tie, in every step of a network of some size: by that alone bfloat16
moves the gradient of resnet18 by a fifth. So the reference is told what the step decided; each decision must have been
close enough for rounding.
"""

from dataclasses import dataclass
from typing import get_args

import numpy as np
import pytest
import reference
from kernels.stepping import Case
from reference_arithmetic import Array, activate, pool
from replaying import choices, lasting

from bptcnn.inner.algorithms import WINOGRAD as WINOGRAD_TILES
from bptcnn.inner.depthwise import Depthwise
from bptcnn.inner.executor import Executor
from bptcnn.inner.lowering import Decision, lower
from bptcnn.inner.plan import Plan
from bptcnn.inner.pointwise import PointwiseConvolution
from bptcnn.inner.step_settings import StepSettings
from bptcnn.inner.subnetwork import Subnetwork
from bptcnn.inner.tuning import BY_RULE, Algorithm, Choice, TasksOver, Tuning
from bptcnn.kernels.unit import MATRIX_UNIT
from bptcnn.networks import ZOO, MaxPool2D, Network
from bptcnn.precision import Precision

DIRECT, WINOGRAD, BFLOAT16 = 1e-4, 1e-3, 2e-2  # relative norms
SIDES = {"cnn2": 14, "lenet5": 16, "vgg11": 32, "resnet18": 16, "mobilenet": 32}
BLOCKS = 7
"""Of mobilenet's 13 with bfloat16: normalisation after normalisation enlarges what rounding the operands moves, in
float64 too, some twofold by every three blocks, to more than a tenth in the last ones."""


@dataclass(frozen=True)
class Way:
    """A network of the zoo, and the algorithm of all convolutions that may go by it; the others go directly."""

    name: str
    algorithm: Algorithm | None  # None: by rule
    over: TasksOver = "rule"

    @property
    def precision(self) -> Precision:
        return "bf16" if self.algorithm == "bfloat16" else "float32"

    @property
    def bound(self) -> float:
        if self.algorithm == "bfloat16":
            return BFLOAT16
        return WINOGRAD if self.algorithm in (None, *WINOGRAD_TILES) else DIRECT

    @property
    def images(self) -> int:
        """Images and batch size: few are gathered; with many, batch normalisation enlarges bfloat16's errors less."""
        return {"bfloat16": 24, "gathered": 4}.get(self.algorithm or "", 6)

    @property
    def batch(self) -> int:
        return self.images + {"bfloat16": 8, "gathered": 0}.get(self.algorithm or "", 1)

    @property
    def network(self) -> Network:
        whole = ZOO[self.name]((SIDES[self.name], SIDES[self.name], 3), 5)
        if self.name != "mobilenet" or self.algorithm != "bfloat16":
            return whole
        return Network(whole.input_shape, [*whole.layers[: 2 + 4 * BLOCKS], *whole.layers[-2:]])

    @property
    def tuning(self) -> Tuning:
        """What forces the algorithm."""
        if self.algorithm is None:
            return BY_RULE
        able = {d.choice.shape: self.algorithm in d.algorithms for d in self._decisions}
        found = [Choice(shape, self.algorithm if one else "direct", 0, self.over) for shape, one in able.items()]
        return Tuning(choices=tuple(found))

    @property
    def exists(self) -> bool:
        """Whether some convolution may go by the algorithm on this CPU; only Winograd's has divisions."""
        if (self.algorithm in WINOGRAD_TILES) != (self.over != "rule") or (
            self.algorithm == "bfloat16" and not MATRIX_UNIT
        ):
            return False
        return self.algorithm is None or any(self.algorithm in d.algorithms for d in self._decisions)

    @property
    def _decisions(self) -> tuple[Decision, ...]:
        return lower(self.network, True, batch=self.batch, precision=self.precision).decisions


EVERY = [
    Way(name, algorithm, over)
    for name in SIDES
    for algorithm in (None, *get_args(Algorithm))
    for over in get_args(TasksOver)
]
WAYS = [way for way in EVERY if way.exists]


def relative(found: Array, expected: Array) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("way", WAYS, ids=lambda way: f"{way.name}-{way.algorithm}-{way.over}".replace(" ", "-"))
def test_networks(executor: Executor, way: Way) -> None:
    network, tuning = way.network, way.tuning
    case = Case.draw(network, way.images, 0)
    usual = Subnetwork(network, way.batch, executor, tuning=tuning, precision=way.precision, keeps_gradient=True)
    usual.weights[:] = case.weights
    result = usual.step(case.samples, case.labels)
    kept = lasting(network, way.batch, executor, tuning, way.precision)
    kept.weights[:] = case.weights
    kept.step(case.samples, case.labels)
    assert kept.gradient.tobytes() == usual.gradient.tobytes(), "what keeps its values is no longer the same step"
    decided = choices(kept, way.images)
    logits, tape = reference.forward(network, case.weights, case.samples, choices=decided)
    loss, expected = reference.backward(network, logits, tape, case.labels)
    assert relative(usual.gradient, expected) <= way.bound
    assert abs(result.loss - loss) <= way.bound * max(1.0, abs(loss))
    check_decisions(tape, way.bound)


def check_decisions(tape: list[reference.Applied], bound: float) -> None:
    """Each layer makes of its inputs what it would have made by its own decisions, up to `bound`."""
    for applied in tape:
        name, layer = applied.application.name, applied.application.layer
        if applied.activation == "relu":
            assert relative(applied.value, activate(applied.linear, "relu")) <= bound, name
        elif isinstance(layer, MaxPool2D):
            (x,) = applied.inputs
            largest, _ = pool(x, layer.window, layer.stride, layer.pads(x.shape[1:]))
            assert relative(applied.value, largest) <= bound, name


def test_every_algorithm_and_division_is_among_them() -> None:
    lacking = set() if MATRIX_UNIT else {"bfloat16"}
    assert {way.algorithm for way in WAYS} == {*get_args(Algorithm), None} - lacking
    assert {way.over for way in WAYS} == set(get_args(TasksOver))


@pytest.mark.parametrize("algorithm", ["pointwise", None])
def test_gradients_turned_on_loading_are_among_them(algorithm: Algorithm | None) -> None:
    way = Way("mobilenet", algorithm)
    lowered = lower(way.network, True, tuning=way.tuning, batch=way.batch)
    plan = Plan(lowered, way.batch, 1, True, StepSettings.create())
    turning = [op for op in lowered.operations if plan.to_turn(op.output)]
    for kind in (Depthwise, PointwiseConvolution):
        assert sum(isinstance(op, kind) for op in turning) >= 3, kind
