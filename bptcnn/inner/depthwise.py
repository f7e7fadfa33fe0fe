"""The depthwise convolution of a step: with bias and rectifier, where it has them; its gradients and weight update."""

from dataclasses import dataclass

from bptcnn.inner.arena import Span
from bptcnn.inner.plan import Plan
from bptcnn.inner.turning import turning_fields, turning_reads
from bptcnn.inner.windowed import WindowedConvolution
from bptcnn.kernels import depthwise


@dataclass(frozen=True)
class Depthwise(WindowedConvolution):
    """One filter (rows, columns) per channel, bias, rectifier."""

    @property
    def kernels(self) -> tuple[int, int]:
        """The kernels of the forward and the backward tasks."""
        return depthwise.depthwise, depthwise.depthwise_backward

    @property
    def turns_on_loading(self) -> bool:
        """While the output's gradient is copied into its halo."""
        return not self.rectified

    @property
    def _scratch(self) -> depthwise.ScratchImage:
        size, out_size = (self.in_shape[0], self.in_shape[1]), (self.out_shape[0], self.out_shape[1])
        before = (self.pads[0][0], self.pads[1][0])
        return depthwise.scratch_image(size, out_size, self.kernel, self.stride, self.dilation, before)

    def reserve(self, plan: Plan) -> None:
        """Reserve a scratch image per worker and partial sums."""
        if plan.training:
            scratch = self._scratch
            self.reserve_backward(plan, scratch.rows * scratch.columns * self.out_shape[2])

    def read_backward(self, plan: Plan) -> list[Span]:
        """Return the filters, and what turning the gradient reads."""
        return [*super().read_backward(plan), *turning_reads(plan, self.output)]

    def record(self, plan: Plan) -> None:
        """Fill the records of the convolution and of its reduction."""
        scratch = self._scratch
        gradient_row = scratch.columns * self.out_shape[2]
        plan.keep(
            self.name,
            depthwise.DEPTHWISE,
            **self.fields(plan),
            gradient_scratch_worker=scratch.rows * gradient_row,
            halo_top=scratch.top,
            halo_left=scratch.left,
            gradient_row=gradient_row,
            **turning_fields(plan, self.output),
        )
        if plan.training:
            self.sums.record(plan)
