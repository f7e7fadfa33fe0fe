"""Convolutions with groups or dilation: with bias and rectifier, where they have them; gradients and weight update."""

from dataclasses import dataclass

from bptcnn.inner.arena import Span
from bptcnn.inner.plan import Plan
from bptcnn.inner.tasks import NS_PER_ELEMENT, StepBuilder
from bptcnn.inner.windowed import WindowedConvolution
from bptcnn.kernels import grouped


@dataclass(frozen=True)
class GroupedConvolution(WindowedConvolution):
    """Each of `groups` groups of output channels sees its own group of input channels."""

    groups: int

    @property
    def kernels(self) -> tuple[int, int]:
        """The kernels of the forward and the backward tasks."""
        return grouped.grouped, grouped.grouped_backward

    @property
    def _scratch(self) -> int:
        rows, columns, channels = self.out_shape
        return rows * columns * channels

    def reserve(self, plan: Plan) -> None:
        """Reserve transposed filters, a scratch image per worker, and partial sums."""
        if plan.training:
            plan.arena.reserve((self.name, "transposed"), self.filter.size)
            self.reserve_backward(plan, self._scratch)

    def record(self, plan: Plan) -> None:
        """Fill the records of the convolution and of its reduction."""
        taken, channels = plan.layout(self.inputs[0]), self.in_shape[2]
        taps = grouped.tap_offsets(self.kernel, self.dilation, channels, self.groups, taken.row)
        plan.keep(
            self.name,
            grouped.GROUPED,
            **self.fields(plan),
            groups=self.groups,
            out_channels=self.out_shape[2],
            tap_offsets=plan.table(taps),
            transposed=plan.arena.address((self.name, "transposed")),
            gradient_scratch_worker=self._scratch,
        )
        if plan.training:
            self.sums.record(plan)

    def backward(self, step: StepBuilder) -> None:
        """Transpose the filters, where somebody wants the gradient by input; then as all such convolutions."""
        plan, taps = step.plan, self.kernel[0] * self.kernel[1]
        if plan.wants_gradient(self.inputs[0]):
            step.add(
                f"{self.name} pack backward",
                grouped.transpose_grouped,
                plan.record_address(self.name),
                (0, taps),
                self.filter.size * NS_PER_ELEMENT,
                [plan.parameter_span("weights", self.filter)],
                [plan.arena.whole((self.name, "transposed"))],
            )
        super().backward(step)

    def read_backward(self, plan: Plan) -> list[Span]:
        """Return what the backward tasks read beside images: the transposed filters."""
        return [plan.arena.whole((self.name, "transposed"))]
