"""Activations of a step that ride in no other operation, and dropout."""

from dataclasses import dataclass

from bptcnn.inner.image_operation import ImageOperation
from bptcnn.inner.operation import GradientUse
from bptcnn.inner.plan import Plan
from bptcnn.inner.step_settings import STEP
from bptcnn.kernels import dropout, elementwise


@dataclass(frozen=True)
class ActivationFunction(ImageOperation):
    """One of kernels.elementwise.FUNCTIONS, of every element."""

    function: str

    @property
    def kernels(self) -> tuple[int, int]:
        """The kernels' addresses, forward and backward."""
        return elementwise.activate, elementwise.activate_backward

    def gradient_use(self, position: int) -> GradientUse:
        """Element by element."""
        return "turns"

    def record(self, plan: Plan) -> None:
        """Fill the record."""
        taken = plan.layout(self.inputs[0])
        plan.keep(
            self.name,
            elementwise.ACTIVATION,
            **plan.image_fields(self),
            function=elementwise.FUNCTIONS[self.function],
            rows=taken.shape[0],
            line=taken.shape[1] * taken.shape[2],
        )


@dataclass(frozen=True)
class Dropping(ImageOperation):
    """Dropout in training: choices follow from the number of the step, `layer` and the element."""

    rate: float
    layer: int

    @property
    def kernels(self) -> tuple[int, int]:
        """The kernels' addresses, forward and backward."""
        return dropout.dropout, dropout.dropout_backward

    def gradient_use(self, position: int) -> GradientUse:
        """Element by element."""
        return "turns"

    def record(self, plan: Plan) -> None:
        """Fill the record."""
        taken = plan.layout(self.inputs[0])
        plan.keep(
            self.name,
            dropout.DROPOUT,
            **plan.image_fields(self),
            rows=taken.shape[0],
            line=taken.shape[1] * taken.shape[2],
            step=plan.settings.word(STEP),
            layer=self.layer,
            rate=self.rate,
        )
