"""Activations of a step that ride in no other operation, and dropout."""

from dataclasses import dataclass

from bptcnn.inner.image_operation import ImageOperation
from bptcnn.inner.operation import GradientUse
from bptcnn.inner.plan import Plan
from bptcnn.inner.step_settings import SEED
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
        function = elementwise.FUNCTIONS[self.function]
        plan.keep(self.name, elementwise.ACTIVATION, **_by_rows(self, plan), function=function)


@dataclass(frozen=True)
class Dropping(ImageOperation):
    """Dropout in training: choices follow from seed, node, number of the step, `layer`, image and element."""

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
        drawing = plan.settings.word(SEED)  # node and step lie behind it
        plan.keep(self.name, dropout.DROPOUT, **_by_rows(self, plan), drawing=drawing, layer=self.layer, rate=self.rate)


def _by_rows(op: ImageOperation, plan: Plan) -> dict[str, float]:
    """Return the images' fields and the input's rows; behind Flatten the output has them one behind the other."""
    taken = plan.layout(op.inputs[0])
    fields = {**plan.image_fields(op), "rows": taken.shape[0], "line": taken.shape[1] * taken.shape[2]}
    if plan.layout(op.output).shape != taken.shape:
        fields["output_row"] = fields["line"]
    return fields
