"""The depthwise convolution of a step: with bias and rectifier, where it has them; its gradients and weight update."""

from dataclasses import dataclass

import numpy as np

from bptcnn.inner.arena import FLOAT, Span
from bptcnn.inner.operation import Operation
from bptcnn.inner.partials import PartialSums
from bptcnn.inner.plan import Plan
from bptcnn.inner.step_settings import IMAGES
from bptcnn.inner.tasks import NS_PER_ELEMENT, StepBuilder
from bptcnn.inner.values import Halo, window_halo
from bptcnn.kernels import depthwise
from bptcnn.networks import Parameter
from bptcnn.networks.layers import Pair


@dataclass(frozen=True)
class Depthwise(Operation):
    """One filter (rows, columns) per channel, bias, rectifier."""

    in_shape: tuple[int, int, int]
    out_shape: tuple[int, int, int]
    kernel: Pair
    stride: Pair
    dilation: Pair
    pads: tuple[Pair, Pair]
    rectified: bool
    filter: Parameter
    bias: Parameter | None

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of one image's forward pass; each gradient takes as many."""
        return self.out_shape[0] * self.out_shape[1] * self.filter.size

    @property
    def sums(self) -> PartialSums:
        """The partial sums of the filter and bias gradients."""
        return PartialSums(self.name, self.filter, self.bias, self.out_shape[2])

    @property
    def _scratch(self) -> depthwise.ScratchImage:
        size, out_size = (self.in_shape[0], self.in_shape[1]), (self.out_shape[0], self.out_shape[1])
        before = (self.pads[0][0], self.pads[1][0])
        return depthwise.scratch_image(size, out_size, self.kernel, self.stride, self.dilation, before)

    def halo(self, position: int) -> Halo:
        """The padding."""
        size, out_size = (self.in_shape[0], self.in_shape[1]), (self.out_shape[0], self.out_shape[1])
        rows, columns = ((self.kernel[axis] - 1) * self.dilation[axis] + 1 for axis in (0, 1))
        return window_halo(size, (rows, columns), self.stride, self.pads, out_size, 0.0)

    def reserve(self, plan: Plan) -> None:
        """Reserve a scratch image per worker and partial sums."""
        if plan.training:
            scratch = self._scratch
            size = scratch.rows * scratch.columns * self.out_shape[2]
            plan.arena.reserve((self.name, "gradient scratch"), plan.workers * size)
            self.sums.reserve(plan)

    def record(self, plan: Plan) -> None:
        """Fill the records of the convolution and of its reduction."""
        taken, made, scratch = plan.layout(self.inputs[0]), plan.layout(self.output), self._scratch
        before = (self.pads[0][0], self.pads[1][0])
        gradient_row = scratch.columns * self.out_shape[2]
        plan.keep(
            self.name,
            depthwise.DEPTHWISE,
            batch=plan.settings.word(IMAGES),
            input=plan.arena.address(("value", self.inputs[0])) + FLOAT * taken.before(before),
            input_image=taken.image,
            input_row=taken.row,
            channels=self.in_shape[2],
            height=self.in_shape[0],
            width=self.in_shape[1],
            kernel_rows=self.kernel[0],
            kernel_columns=self.kernel[1],
            stride_rows=self.stride[0],
            stride_columns=self.stride[1],
            dilation_rows=self.dilation[0],
            dilation_columns=self.dilation[1],
            padding_top=before[0],
            padding_left=before[1],
            filters=plan.weights(self.filter),
            bias=plan.weights(self.bias),
            out_rows=self.out_shape[0],
            out_columns=self.out_shape[1],
            output=plan.inside(self.output),
            output_image=made.image,
            output_row=made.row,
            rectified=self.rectified,
            output_gradient=plan.gradient(self.output),
            input_gradient=plan.gradient(self.inputs[0]),
            accumulate=plan.accumulates(self, 0),
            gradient_scratch=plan.arena.address((self.name, "gradient scratch")),
            gradient_scratch_worker=scratch.rows * gradient_row,
            halo_top=scratch.top,
            halo_left=scratch.left,
            gradient_row=gradient_row,
            partials=self.sums.address(plan),
            part_size=self.sums.size,
            floor=0.0 if self.rectified else -np.inf,
        )
        if plan.training:
            self.sums.record(plan)

    def forward(self, step: StepBuilder) -> None:
        """Convolve ranges of images."""
        plan, record = step.plan, step.plan.record_address(self.name)
        filters = plan.parameter_span("weights", self.filter)

        def reads(first: int, last: int) -> list[Span]:
            return [plan.values(self.inputs[0], first, last), filters]

        def writes(first: int, last: int) -> list[Span]:
            return [plan.values(self.output, first, last)]

        step.over_images(f"{self.name} forward", depthwise.depthwise, record, self._cost(), reads, writes)

    def backward(self, step: StepBuilder) -> None:
        """Both gradients by ranges of images, then the reduction with the weight update."""
        plan, record = step.plan, step.plan.record_address(self.name)
        (source,), kernel = self.inputs, depthwise.depthwise_backward
        for part, (first, last) in enumerate(self.sums.parts(plan)):
            reads = [plan.gradients(self.output, first, last), plan.values(source, first, last)]
            reads += [plan.values(self.output, first, last), plan.parameter_span("weights", self.filter)]
            writes = [self.sums.span(plan, part)]
            if plan.wants_gradient(source):
                writes.append(plan.gradients(source, first, last))
            cost = (last - first) * self._cost() * 3
            step.add(f"{self.name} backward", kernel, record, (first, last), cost, reads, writes, part)
        self.sums.reduce(step)

    def _cost(self) -> float:
        return self.multiply_adds * NS_PER_ELEMENT / 4
