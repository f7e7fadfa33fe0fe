"""Max pooling of a step on its own: windows that overlap, leave gaps, are padded, or follow something else than a
convolution."""

from dataclasses import dataclass

import numpy as np

from bptcnn.inner.arena import Span
from bptcnn.inner.operation import Operation
from bptcnn.inner.plan import Plan
from bptcnn.inner.tasks import NS_PER_ELEMENT, StepBuilder
from bptcnn.inner.values import Halo, window_halo
from bptcnn.kernels import pooling
from bptcnn.networks.layers import Pair


@dataclass(frozen=True)
class Pooling(Operation):
    """Max pooling; `in_shape` and `out_shape` are (rows, columns, channels)."""

    in_shape: tuple[int, int, int]
    out_shape: tuple[int, int, int]
    window: Pair
    stride: Pair
    pads: tuple[Pair, Pair]

    def halo(self, position: int) -> Halo:
        """What pads a window never wins."""
        size, outputs = (self.in_shape[0], self.in_shape[1]), (self.out_shape[0], self.out_shape[1])
        return window_halo(size, self.window, self.stride, self.pads, outputs, -np.inf)

    @property
    def _padded(self) -> tuple[int, int]:
        """Rows and columns of an image with its halo."""
        halo = self.halo(0)
        return halo.top + self.in_shape[0] + halo.bottom, halo.left + self.in_shape[1] + halo.right

    def _needs_scratch(self, plan: Plan) -> bool:
        """Whether the gradient cannot be written straight to where it belongs."""
        return plan.wants_gradient(self.inputs[0]) and (plan.accumulates(self, 0) or not self.halo(0).empty)

    def reserve(self, plan: Plan) -> None:
        """Reserve choices, and scratch where it is needed."""
        if not plan.training:
            return
        elements = plan.layout(self.output).elements
        plan.arena.reserve((self.name, "choice"), plan.batch, elements, plan.needed_between(self.name))
        if self._needs_scratch(plan):
            rows, columns = self._padded
            plan.arena.reserve((self.name, "scratch"), plan.workers * rows * columns * self.in_shape[2])

    def record(self, plan: Plan) -> None:
        """Fill the record."""
        pads = self.pads[0][0], self.pads[1][0]
        rows, columns = self._padded
        plan.keep(
            self.name,
            pooling.POOLING,
            **plan.image_fields(self, pads),
            channels=self.in_shape[2],
            height=self.in_shape[0],
            width=self.in_shape[1],
            window_rows=self.window[0],
            window_columns=self.window[1],
            stride_rows=self.stride[0],
            stride_columns=self.stride[1],
            out_rows=self.out_shape[0],
            out_columns=self.out_shape[1],
            choice=plan.arena.address((self.name, "choice")),
            scratch=plan.arena.address((self.name, "scratch")),
            scratch_worker=rows * columns * self.in_shape[2],
            padded_rows=rows,
            padded_columns=columns,
            padding_top=pads[0],
            padding_left=pads[1],
        )

    def forward(self, step: StepBuilder) -> None:
        """Pool ranges of images."""
        plan = step.plan

        def writes(first: int, last: int) -> list[Span]:
            chosen = [plan.arena.span((self.name, "choice"), first, last)] if plan.training else []
            return [plan.values(self.output, first, last), *chosen]

        step.over_images(
            f"{self.name} forward",
            pooling.pool,
            plan.record_address(self.name),
            plan.layout(self.inputs[0]).elements * NS_PER_ELEMENT,
            lambda first, last: [plan.values(self.inputs[0], first, last)],
            writes,
        )

    def backward(self, step: StepBuilder) -> None:
        """Send the gradient to the chosen elements."""
        plan = step.plan
        if not plan.wants_gradient(self.inputs[0]):
            return

        def reads(first: int, last: int) -> list[Span]:
            return [plan.gradients(self.output, first, last), plan.arena.span((self.name, "choice"), first, last)]

        step.over_images(
            f"{self.name} backward",
            pooling.pool_backward,
            plan.record_address(self.name),
            plan.layout(self.inputs[0]).elements * NS_PER_ELEMENT,
            reads,
            lambda first, last: [plan.gradients(self.inputs[0], first, last)],
        )
