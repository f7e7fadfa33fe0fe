"""Addition of two values, and gradients that are passed on as they are."""

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
    def undoes(self) -> bool:
        """Whether there is a rectifier to undo."""
        return self.rectified

    def gradient_use(self, position: int) -> GradientUse:
        """Both get the gradient as it is."""
        return "passes"

    def reserve(self, plan: Plan) -> None:
        """Nothing."""

    def record(self, plan: Plan) -> None:
        """Fill the record."""
        one, other, made = (plan.layout(value) for value in (*self.inputs, self.output))
        plan.keep(
            self.name,
            addition.ADDITION,
            batch=plan.settings.word(IMAGES),
            input=plan.inside(self.inputs[0]),
            input_image=one.image,
            input_row=one.row,
            addend=plan.inside(self.inputs[1]),
            addend_image=other.image,
            addend_row=other.row,
            rows=made.shape[0],
            line=made.shape[1] * made.shape[2],
            output=plan.inside(self.output),
            output_image=made.image,
            output_row=made.row,
            output_gradient=plan.gradient(self.output),
            rectified=self.rectified,
        )

    def forward(self, step: StepBuilder) -> None:
        """Add by ranges of images."""
        plan = step.plan

        def reads(first: int, last: int) -> list[Span]:
            return [plan.values(value, first, last) for value in self.inputs]

        def writes(first: int, last: int) -> list[Span]:
            return [plan.values(self.output, first, last)]

        record, cost = plan.record_address(self.name), _cost(plan, self)
        step.over_images(f"{self.name} forward", addition.add, record, cost, reads, writes)

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
        for position in self.gradient_order():
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


def _cost(plan: Plan, op: Operation) -> float:
    return plan.layout(op.output).elements * NS_PER_ELEMENT
