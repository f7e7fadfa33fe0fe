"""Values joined along their channels."""

from dataclasses import dataclass

from bptcnn.inner.arena import Span
from bptcnn.inner.operation import Operation
from bptcnn.inner.plan import Plan
from bptcnn.inner.step_settings import IMAGES
from bptcnn.inner.tasks import NS_PER_ELEMENT, ImageSpans, StepBuilder
from bptcnn.kernels import joining


@dataclass(frozen=True)
class Joining(Operation):
    """All inputs, side by side in the output's channels; a single one: a copy for readers that want another halo."""

    def reserve(self, plan: Plan) -> None:
        """Nothing."""

    def record(self, plan: Plan) -> None:
        """Fill a record per input."""
        made, offset = plan.layout(self.output), 0
        for position, value in enumerate(self.inputs):
            taken = plan.layout(value)
            plan.keep(
                self._part(position),
                joining.JOINING,
                batch=plan.settings.word(IMAGES),
                input=plan.inside(value),
                input_image=taken.image,
                input_row=taken.row,
                channels=taken.shape[2],
                height=taken.shape[0],
                width=taken.shape[1],
                output=plan.inside(self.output),
                output_image=made.image,
                output_row=made.row,
                out_channels=made.shape[2],
                offset=offset,
                output_gradient=plan.gradient(self.output),
                input_gradient=plan.gradient(value),
                accumulate=plan.accumulates(self, position),
            )
            offset += taken.shape[2]

    def forward(self, step: StepBuilder) -> None:
        """Copy ranges of images, input by input."""
        plan = step.plan
        for position, value in enumerate(self.inputs):

            def reads(first: int, last: int, value: int = value) -> list[Span]:
                return [plan.values(value, first, last)]

            def writes(first: int, last: int, position: int = position) -> list[Span]:
                return [plan.values(self.output, first, last).striped(position, len(self.inputs), self.name)]

            self._add(step, position, "forward", joining.join, reads, writes)

    def backward(self, step: StepBuilder) -> None:
        """Give each input its channels of the gradient."""
        plan = step.plan
        for position, value in enumerate(self.inputs):
            if not plan.wants_gradient(value):
                continue

            def reads(first: int, last: int) -> list[Span]:
                return [plan.gradients(self.output, first, last)]

            def writes(first: int, last: int, value: int = value) -> list[Span]:
                return [plan.gradients(value, first, last)]

            self._add(step, position, "backward", joining.join_backward, reads, writes)

    def _part(self, position: int) -> str:
        return f"{self.name} input {position}"

    def _add(
        self, step: StepBuilder, position: int, what: str, kernel: int, reads: ImageSpans, writes: ImageSpans
    ) -> None:
        cost = step.plan.layout(self.inputs[position]).elements * NS_PER_ELEMENT
        record = step.plan.record_address(self._part(position))
        step.over_images(f"{self.name} {what}", kernel, record, cost, reads, writes)
