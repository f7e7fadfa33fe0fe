"""Addition of two values, and gradients that are passed on as they are."""

from collections.abc import Sequence
from dataclasses import dataclass

from bptcnn.inner.arena import Span
from bptcnn.inner.operation import GradientUse, Operation
from bptcnn.inner.plan import Plan
from bptcnn.inner.step_settings import IMAGES
from bptcnn.inner.tasks import NS_PER_ELEMENT, StepBuilder
from bptcnn.kernels import addition


@dataclass(frozen=True)
class Addition(Operation):
    """The sum of two values, then the rectifier."""

    rectified: bool

    @property
    def undoes(self) -> bool:  # type: ignore[override]
        """Whether there is a rectifier to undo."""
        return self.rectified

    def gradient_use(self, position: int) -> GradientUse:
        """Both get the gradient as it is."""
        return "passes"

    def reserve(self, plan: Plan) -> None:
        """Nothing."""

    def record(self, plan: Plan) -> None:
        """Fill the record."""
        _keep(plan, self.name, self.inputs, self.output, self.rectified)

    def forward(self, step: StepBuilder) -> None:
        """Add by ranges of images."""
        _forward(step, self, addition.add)

    def backward(self, step: StepBuilder) -> None:
        """Undo the rectifier in place, then pass the gradient on."""
        plan = step.plan
        if self.rectified:
            step.over_images(
                f"{self.name} backward",
                addition.undo_rectifier,
                plan.record_address(self.name),
                _cost(plan, self),
                lambda first, last: [plan.values(self.output, first, last)],
                lambda first, last: [plan.gradients(self.output, first, last)],
            )
        for position in range(len(self.inputs)):
            pass_gradient(step, self, position)


def pass_gradient(step: StepBuilder, op: Operation, position: int) -> None:
    """Give an input the output's gradient: nothing to do where it lies in the same memory, unless it is added."""
    plan, value = step.plan, op.inputs[position]
    if not plan.wants_gradient(value):
        return
    accumulate = plan.accumulates(op, position)
    if plan.in_place(op, position) and not accumulate:
        return
    record = plan.keep(
        f"{op.name} passing {position}",
        addition.PASSING,
        batch=plan.settings.word(IMAGES),
        elements=plan.layout(value).elements,
        output_gradient=plan.gradient(op.output),
        input_gradient=plan.gradient(value),
        accumulate=accumulate,
    )
    step.over_images(
        f"{op.name} backward",
        addition.pass_gradient,
        record,
        _cost(plan, op),
        lambda first, last: [plan.gradients(op.output, first, last)],
        lambda first, last: [plan.gradients(value, first, last)],
    )


def _keep(plan: Plan, name: str, inputs: Sequence[int], output: int, rectified: bool) -> None:
    one, made = plan.layout(inputs[0]), plan.layout(output)
    other = plan.layout(inputs[1]) if len(inputs) > 1 else one
    plan.keep(
        name,
        addition.ADDITION,
        batch=plan.settings.word(IMAGES),
        input=plan.inside(inputs[0]),
        input_image=one.image,
        input_row=one.row,
        addend=plan.inside(inputs[1]) if len(inputs) > 1 else 0,
        addend_image=other.image,
        addend_row=other.row,
        rows=made.shape[0],
        line=made.shape[1] * made.shape[2],
        output=plan.inside(output),
        output_image=made.image,
        output_row=made.row,
        output_gradient=plan.gradient(output),
        rectified=rectified,
    )


def _forward(step: StepBuilder, op: Operation, kernel: int) -> None:
    plan = step.plan

    def reads(first: int, last: int) -> list[Span]:
        return [plan.values(value, first, last) for value in op.inputs]

    def writes(first: int, last: int) -> list[Span]:
        return [plan.values(op.output, first, last)]

    step.over_images(f"{op.name} forward", kernel, plan.record_address(op.name), _cost(plan, op), reads, writes)


def _cost(plan: Plan, op: Operation) -> float:
    return plan.layout(op.output).elements * NS_PER_ELEMENT
