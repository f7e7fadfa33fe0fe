"""Convolutions by kernels of their own, with any dilation: what depthwise and grouped ones have in common."""

from abc import abstractmethod
from dataclasses import dataclass

import numpy as np

from bptcnn.inner.arena import Span
from bptcnn.inner.operation import Operation
from bptcnn.inner.partials import PartialSums
from bptcnn.inner.plan import Plan
from bptcnn.inner.tasks import NS_PER_ELEMENT, StepBuilder
from bptcnn.inner.values import Halo, window_halo, window_sizes
from bptcnn.networks import Parameter
from bptcnn.networks.layers import Pair


@dataclass(frozen=True)
class WindowedConvolution(Operation):
    """Convolution, bias, rectifier; forward and backward tasks over ranges of images."""

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
    @abstractmethod
    def kernels(self) -> tuple[int, int]:
        """The kernels of the forward and the backward tasks."""

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of one image's forward pass; each gradient takes as many."""
        return self.out_shape[0] * self.out_shape[1] * self.filter.size

    @property
    def sums(self) -> PartialSums:
        """The partial sums of the filter and bias gradients."""
        return PartialSums(self.name, self.filter, self.bias, self.out_shape[2])

    def halo(self, position: int) -> Halo:
        """The padding."""
        size, out_size = (self.in_shape[0], self.in_shape[1]), (self.out_shape[0], self.out_shape[1])
        rows, columns = ((self.kernel[axis] - 1) * self.dilation[axis] + 1 for axis in (0, 1))
        return window_halo(size, (rows, columns), self.stride, self.pads, out_size, 0.0)

    def fields(self, plan: Plan) -> dict[str, float]:
        """Return what the records of all such convolutions say."""
        before = (self.pads[0][0], self.pads[1][0])
        return {
            **plan.image_fields(self, before),
            **window_sizes(self.in_shape, self.out_shape, self.kernel, self.stride, self.pads),
            "dilation_rows": self.dilation[0],
            "dilation_columns": self.dilation[1],
            "filters": plan.weights(self.filter),
            "bias": plan.weights(self.bias),
            "rectified": self.rectified,
            "gradient_scratch": plan.arena.address((self.name, "gradient scratch")),
            "partials": self.sums.address(plan),
            "part_size": self.sums.size,
            "floor": 0.0 if self.rectified else -np.inf,
        }

    def reserve_backward(self, plan: Plan, scratch: int) -> None:
        """Reserve `scratch` elements per worker and partial sums."""
        plan.arena.reserve((self.name, "gradient scratch"), plan.workers * scratch, kept=True)
        self.sums.reserve(plan)

    def forward(self, step: StepBuilder) -> None:
        """Convolve ranges of images."""
        plan, record = step.plan, step.plan.record_address(self.name)
        filters = plan.parameter_span("weights", self.filter)

        def reads(first: int, last: int) -> list[Span]:
            return [plan.values(self.inputs[0], first, last), filters]

        def writes(first: int, last: int) -> list[Span]:
            return [plan.values(self.output, first, last)]

        step.over_images(f"{self.name} forward", self.kernels[0], record, self._cost(), reads, writes)

    def backward(self, step: StepBuilder) -> None:
        """Both gradients by ranges of images, then the reduction with the weight update."""
        plan, record = step.plan, step.plan.record_address(self.name)
        (source,) = self.inputs
        for part, (first, last) in enumerate(self.sums.parts(plan)):
            reads = [plan.gradients(self.output, first, last), plan.values(source, first, last)]
            reads += [plan.values(self.output, first, last), *self.read_backward(plan)]
            writes = [self.sums.span(plan, part)]
            if plan.wants_gradient(source):
                writes.append(plan.gradients(source, first, last))
            cost = (last - first) * self._cost() * 3
            step.add(f"{self.name} backward", self.kernels[1], record, (first, last), cost, reads, writes, part)
        self.sums.reduce(step)

    def read_backward(self, plan: Plan) -> list[Span]:
        """Return what the backward tasks read beside images: the filters."""
        return [plan.parameter_span("weights", self.filter)]

    def _cost(self) -> float:
        return self.multiply_adds * NS_PER_ELEMENT / 4
