"""Operations over images that one kernel computes forward and one backward, without parameters."""

from abc import abstractmethod
from dataclasses import dataclass

from bptcnn.inner.arena import Span
from bptcnn.inner.operation import Operation
from bptcnn.inner.plan import Plan
from bptcnn.inner.tasks import NS_PER_ELEMENT, StepBuilder


@dataclass(frozen=True)
class ImageOperation(Operation):
    """From input 0 to the output; the backward kernel reads the output's gradient and, if it likes, the input."""

    @property
    @abstractmethod
    def kernels(self) -> tuple[int, int]:
        """The kernels' addresses, forward and backward."""

    def reserve(self, plan: Plan) -> None:
        """Nothing."""

    def forward(self, step: StepBuilder) -> None:
        """By ranges of images."""
        plan, value = step.plan, self.inputs[0]

        def reads(first: int, last: int) -> list[Span]:
            return [plan.values(value, first, last)]

        def writes(first: int, last: int) -> list[Span]:
            return [plan.values(self.output, first, last)]

        record, cost = plan.record_address(self.name), plan.layout(value).elements * NS_PER_ELEMENT
        step.over_images(f"{self.name} forward", self.kernels[0], record, cost, reads, writes)

    def backward(self, step: StepBuilder) -> None:
        """By ranges of images."""
        plan, value = step.plan, self.inputs[0]
        if not plan.wants_gradient(value):
            return

        def reads(first: int, last: int) -> list[Span]:
            return [plan.gradients(self.output, first, last), plan.values(value, first, last)]

        def writes(first: int, last: int) -> list[Span]:
            return [plan.gradients(value, first, last)]

        record, cost = plan.record_address(self.name), plan.layout(value).elements * NS_PER_ELEMENT
        step.over_images(f"{self.name} backward", self.kernels[1], record, cost, reads, writes)
