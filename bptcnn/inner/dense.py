"""The dense layer of a step: with bias and rectifier, where it has them; its gradients, and its weight update."""

from dataclasses import dataclass

import numpy as np

from bptcnn.inner.operation import Operation
from bptcnn.inner.plan import Plan, split
from bptcnn.inner.step_settings import IMAGES
from bptcnn.inner.tasks import NS_PER_ELEMENT, NS_PER_MULTIPLY_ADD, SPAN, StepBuilder
from bptcnn.kernels import dense
from bptcnn.kernels.unit import COLUMNS
from bptcnn.networks import Parameter


@dataclass(frozen=True)
class FullyConnected(Operation):
    """Dense layer with bias and rectifier."""

    inner: int  # inputs of a unit
    units: int
    rectified: bool
    weights: Parameter
    bias: Parameter | None

    @property
    def undoes(self) -> bool:
        """The backward tasks undo the rectifier in place."""
        return self.rectified

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of one image's forward pass; each gradient takes as many."""
        return self.inner * self.units

    @property
    def across_images(self) -> bool:
        """The rows of a tile are images."""
        return True

    def dense(self, position: int) -> bool:
        """An image's inputs lie one behind the other."""
        return True

    def reserve(self, plan: Plan) -> None:
        """Reserve the transposed gradient, scratch, and the parameters' gradients."""
        if plan.training:
            panels = -(-plan.batch // COLUMNS)
            plan.arena.reserve((self.name, "gradient panels"), panels * self.units * COLUMNS)
            plan.arena.reserve((self.name, "scratch"), plan.workers * dense.BLOCK * COLUMNS)
            plan.reserve_gradients(self.name, self.weights, self.bias)

    def record(self, plan: Plan) -> None:
        """Fill the record."""
        plan.keep(
            self.name,
            dense.DENSE,
            batch=plan.settings.word(IMAGES),
            input=plan.inside(self.inputs[0]),
            input_image=plan.layout(self.inputs[0]).image,
            inputs=self.inner,
            weights=plan.weights(self.weights),
            outputs=self.units,
            bias=plan.weights(self.bias),
            output=plan.inside(self.output),
            output_image=plan.layout(self.output).image,
            rectified=self.rectified,
            output_gradient=plan.gradient(self.output),
            gradient_panels=plan.arena.address((self.name, "gradient panels")),
            input_gradient=plan.gradient(self.inputs[0]),
            accumulate=plan.training and plan.accumulates(self, 0),
            weight_gradient=plan.weights_gradient(self.weights),
            bias_gradient=plan.weights_gradient(self.bias),
            scratch=plan.arena.address((self.name, "scratch")),
            scratch_worker=dense.BLOCK * COLUMNS,
            floor=0.0 if self.rectified else -np.inf,
        )

    def forward(self, step: StepBuilder) -> None:
        """One task per panel of outputs, over all images."""
        plan, record = step.plan, step.plan.record_address(self.name)
        panels = -(-self.units // COLUMNS)
        cost = plan.batch * self.multiply_adds * NS_PER_MULTIPLY_ADD / panels
        reads = [plan.values(self.inputs[0], 0, plan.batch), plan.parameter_span("weights", self.weights)]
        made = plan.values(self.output, 0, plan.batch)
        for panel in range(panels):
            writes = [made.striped(panel, panels, self.name)]
            step.add(f"{self.name} forward", dense.dense, record, (panel, panel + 1), cost, reads, writes)

    def backward(self, step: StepBuilder) -> None:
        """Undo the rectifier; then per range of inputs both gradients and the update."""
        plan, record = step.plan, step.plan.record_address(self.name)
        wanted = plan.wants_gradient(self.inputs[0])
        elements = plan.batch * self.units
        gradients = plan.gradients(self.output, 0, plan.batch)
        panels = plan.arena.whole((self.name, "gradient panels"))
        writes = [gradients, panels]
        if self.bias:
            writes.append(plan.parameter_span("gradient", self.bias))
        reads = [plan.values(self.output, 0, plan.batch)]
        step.add(
            f"{self.name} mask", dense.dense_gradient, record, (0, 1), elements * NS_PER_ELEMENT * 2, reads, writes
        )
        rows = max(1, SPAN // self.units)
        spans = split(self.inner, -(-self.inner // rows))
        for index, (first, last) in enumerate(spans):
            cost = (last - first) * elements * NS_PER_MULTIPLY_ADD
            begin, end = first * self.units, last * self.units
            if wanted:
                reads = [panels, plan.parameter_span("weights", self.weights, begin, end)]
                writes = [plan.gradients(self.inputs[0], 0, plan.batch).striped(index, len(spans), self.name)]
                kernel = dense.dense_gradient_by_input
                step.add(f"{self.name} by input", kernel, record, (first, last), cost, reads, writes)
            reads = [gradients, plan.values(self.inputs[0], 0, plan.batch)]
            writes = [plan.parameter_span("gradient", self.weights, begin, end)]
            kernel = dense.dense_gradient_by_weight
            step.add(f"{self.name} by weight", kernel, record, (first, last), cost, reads, writes)
            step.update_span(self.name, self.weights, begin, end)
        if self.bias:
            step.update(self.name, self.bias)
