"""A step checked layer by layer: the float64 reference computes each layer from what the step itself gave that layer.

So nothing adds up from layer to layer: neither what rounding to bfloat16 changes, nor what normalisation over few
elements, rectifiers and poolings make of that.
"""

from dataclasses import dataclass, field, replace

import numpy as np
import reference
from kernels.stepping import Case
from reference_arithmetic import Array, activation_gradient, loss_gradient
from replaying import choices, made_values, value_gradients

from bptcnn.inner.activation import Dropping
from bptcnn.inner.subnetwork import Subnetwork

LEAST = 1e-30


@dataclass(frozen=True)
class LayerError:
    """How far a layer's "value", "gradient" by that, or "parameters" are from the reference: the relative norm."""

    layer: str
    what: str
    error: float


@dataclass
class ByLayer:
    """The last step of a `lasting` subnetwork without shared gradients, and where it differs from the reference.

    What is computed together with the layer behind it is compared there. A value's gradient is compared at the layer
    that made it; the gradients of a layer's parameters are compared as one vector.
    """

    step: Subnetwork
    case: Case
    errors: list[LayerError] = field(default_factory=list)

    def __post_init__(self) -> None:
        images = len(self.case.samples)
        made, given = made_values(self.step, images), value_gradients(self.step, images)
        self._made = {value: found.astype(np.float64) for value, found in made.items()}
        self._given = {value: found.astype(np.float64) for value, found in given.items()}
        self._backward(self._forward())

    def __getitem__(self, layer: str) -> list[LayerError]:
        """Return the errors of a layer."""
        return [error for error in self.errors if error.layer == layer]

    def _forward(self) -> list[reference.Applied]:
        weights, tape, masks = self.case.weights.astype(np.float64), list[reference.Applied](), self._masks()
        decided, values = replace(choices(self.step, len(self.case.samples)), bfloat16=()), [self._made[0]]
        for index, application in enumerate(self.case.network.applications):
            inputs = tuple(values[value] for value in application.inputs)
            parameters = [weights[p.offset : p.offset + p.size].reshape(p.shape) for p in application.parameters]
            linear, back = reference.apply(application, inputs, parameters, True, masks, decided)
            positive = decided.positive(application.name, linear)
            tape.append(reference.Applied(application, inputs, linear, positive, back))
            if index + 1 in self._made:
                self._compare(application.name, "value", self._made[index + 1], tape[-1].value)
            values.append(self._made.get(index + 1, tape[-1].value))
        return tape

    def _backward(self, tape: list[reference.Applied]) -> None:
        by_value = {len(tape): loss_gradient(self._made[len(tape)], self.case.labels)[1]}
        for index in reversed(range(len(tape))):
            applied, d = tape[index], by_value.pop(index + 1)
            slope = activation_gradient(applied.linear, applied.activation, applied.positive)
            if index + 1 in self._given:
                # where the rectifier let nothing through, some layers have already set the gradient to 0
                counts = slope != 0
                self._compare(applied.application.name, "gradient", self._given[index + 1] * counts, d * counts)
                d = self._given[index + 1]
            by_inputs, by_parameters = applied.back(d * slope)
            for value, part in zip(applied.application.inputs, by_inputs, strict=True):
                by_value[value] = by_value.get(value, np.zeros(1)) + part
            if by_parameters:
                first, last = applied.application.parameters[0], applied.application.parameters[-1]
                own = self.step.gradient[first.offset : last.offset + last.size].astype(np.float64)
                expected = np.concatenate([part.ravel() for part in by_parameters])
                self._compare(applied.application.name, "parameters", own, expected)

    def _masks(self) -> dict[str, Array]:
        """What the step's dropouts multiplied by, as seen from what became 0 of the values or of their gradients."""
        masks = {}
        for op in self.step._plan.operations:
            if isinstance(op, Dropping):
                shape = self._made[op.output].shape
                passed = self._given.get(op.inputs[0], np.zeros(shape))
                kept = (self._made[op.output] != 0) | (passed.reshape(shape) != 0)
                masks[op.name] = kept / (1 - op.rate)
        return masks

    def _compare(self, layer: str, what: str, found: Array, expected: Array) -> None:
        error = np.linalg.norm(found - expected) / max(float(np.linalg.norm(expected)), LEAST)
        self.errors.append(LayerError(layer, what, float(error)))
