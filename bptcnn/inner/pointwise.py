"""A convolution by 1x1 filters, stride 1: a product of matrices whose rows are the pixels of many images."""

from dataclasses import dataclass

from bptcnn.inner.arena import Span
from bptcnn.inner.convolution import Convolution
from bptcnn.inner.plan import Plan, split
from bptcnn.inner.tasks import NS_PER_ELEMENT, NS_PER_MULTIPLY_ADD, SPAN, StepBuilder
from bptcnn.inner.turning import turning_fields, turning_reads
from bptcnn.kernels import convolution, pointwise
from bptcnn.kernels.unit import COLUMNS, ROWS

_LEAST_PIXELS = 64  # of a task: the filter is read for each
_LEAST_PIXELS_SUMMED = 512  # of a partial sum: it is cleared, added to and added up
_TASKS = 16  # of a pass, where pixels alone give fewer


def is_pointwise(op: Convolution) -> bool:
    """Tell whether a convolution may be one of these: 1x1, nothing rides along, channels fill the register tile."""
    plain = op.kernel == op.stride == (1, 1) and not any(map(any, op.pads)) and op.pool is None
    return plain and op.in_shape[2] % COLUMNS == 0 and op.conv_shape[2] % COLUMNS == 0


@dataclass(frozen=True)
class PointwiseConvolution(Convolution):
    """By ranges of images, which share the channels among several tasks where there are few pixels."""

    @property
    def turns_on_loading(self) -> bool:
        """While the output's gradient is copied into panels."""
        return not self.rectified

    def _pixels(self) -> int:
        return self.conv_shape[0] * self.conv_shape[1]

    def _sums_up(self, plan: Plan) -> bool:
        """Whether the filter's gradient is taken as partial sums, each with the gradient by input of its images."""
        parts = self.sums.parts(plan)
        return plan.batch * self._pixels() >= _LEAST_PIXELS_SUMMED * len(parts)

    def _ranges(self, plan: Plan) -> list[tuple[int, int]]:
        most = max(1, plan.batch * self._pixels() // _LEAST_PIXELS)
        return plan.ranges if len(plan.ranges) <= most else split(plan.batch, most)

    def _groups(self, plan: Plan, panels: int) -> int:
        """How many tasks share a range's panels."""
        return min(panels, -(-_TASKS // len(self._ranges(plan))))

    def _spread_rows(self, plan: Plan) -> int:
        return plan.batch * self._pixels() + ROWS

    # ---- buffers and records -----------------------------------------------------------------------------------------

    def reserve(self, plan: Plan) -> None:
        """Reserve packed filters, panels of pixels, and partial sums or panels of the output gradient."""
        arena, (inputs, outputs) = plan.arena, (self.in_shape[2], self.conv_shape[2])
        arena.reserve((self.name, "forward panels"), inputs * outputs, needed=plan.needed_forward(self.name))
        plan.want_scratch(pointwise.BLOCK * (inputs + outputs))
        if not plan.training:
            return
        if plan.wants_gradient(self.inputs[0]):
            arena.reserve((self.name, "backward panels"), inputs * outputs, needed=plan.needed_backward(self.name))
        if self._sums_up(plan):
            self.sums.reserve(plan)
        else:
            rows, needed = self._spread_rows(plan), plan.needed_backward(self.name)
            arena.reserve((self.name, "spread"), rows * outputs, needed=needed)
            plan.reserve_gradients(self.name, self.filter, self.bias)

    def record(self, plan: Plan) -> None:
        """Fill the records."""
        scratch = {"scratch": plan.scratch, "scratch_worker": plan.scratch_worker}
        plan.keep(f"{self.name} convolution", convolution.CONVOLUTION, **self.fields(plan) | scratch)
        plan.keep(
            self.name,
            pointwise.POINTWISE,
            convolution=plan.record_address(f"{self.name} convolution"),
            spread=plan.arena.address((self.name, "spread")),
            spread_rows=self._spread_rows(plan),
            filter_gradient=plan.weights_gradient(self.filter),
            bias_gradient=plan.weights_gradient(self.bias),
            **turning_fields(plan, self.output),
            groups=self._groups(plan, self.forward_panels),
            input_groups=self._groups(plan, self.backward_panels),
        )
        if plan.training and self._sums_up(plan):
            self.sums.record(plan)

    @property
    def kernels(self) -> tuple[int, int]:
        """The kernels of the forward and, with partial sums, the backward tasks."""
        return pointwise.pointwise, pointwise.pointwise_backward

    @property
    def packing(self) -> tuple[int, int]:
        """The kernels that pack filters, for forward and backward."""
        return convolution.pack_forward, pointwise.pack_transposed

    def record_name(self, what: str) -> str:
        """Return the name of the record for "forward", "backward", "pack forward" or "pack backward"."""
        return f"{self.name} convolution" if what.startswith("pack") else self.name

    # ---- tasks -------------------------------------------------------------------------------------------------------

    def forward(self, step: StepBuilder) -> None:
        """Pack the filters, then convolve ranges of images."""
        plan = step.plan
        self._pack(step, backward=False)
        panels = plan.arena.whole((self.name, "forward panels"))
        for first, last in self._ranges(plan):
            reads = [plan.values(self.inputs[0], first, last), panels]
            made = plan.values(self.output, first, last)
            self._share(step, "forward", self.kernels[0], (first, last), reads, made, self.forward_panels)

    def backward(self, step: StepBuilder) -> None:
        """Both gradients by ranges of images; or spread the output's, then the one by ranges, the other by channels."""
        if self._sums_up(step.plan):
            super().backward(step)
            return
        plan, record = step.plan, step.plan.record_address(self.name)
        spread = plan.arena.whole((self.name, "spread"))
        cost = self._pixels() * self.conv_shape[2] * NS_PER_ELEMENT
        for index, (first, last) in enumerate(plan.ranges):
            reads = [plan.gradients(self.output, first, last), plan.values(self.output, first, last)]
            reads += self.read_with_gradient(plan)
            writes = [spread.striped(index, len(plan.ranges), self.name)]
            step.add(f"{self.name} spread", pointwise.spread, record, (first, last), cost, reads, writes)
        if plan.wants_gradient(self.inputs[0]):
            self._pack(step, backward=True)
            panels = plan.arena.whole((self.name, "backward panels"))
            for first, last in self._ranges(plan):
                wanted = plan.gradients(self.inputs[0], first, last)
                kernel, reads = pointwise.pointwise_by_input, [spread, panels]
                self._share(step, "by input", kernel, (first, last), reads, wanted, self.backward_panels)
        self._by_weight(step, spread)

    def read_with_gradient(self, plan: Plan) -> list[Span]:
        """Return the terms of the batch normalisation behind, where its gradient is turned on loading."""
        return turning_reads(plan, self.output)

    def _share(
        self,
        step: StepBuilder,
        what: str,
        kernel: int,
        images: tuple[int, int],
        reads: list[Span],
        writes: Span,
        panels: int,
    ) -> None:
        """Add the tasks that share a range of images."""
        groups, record = self._groups(step.plan, panels), step.plan.record_address(self.name)
        cost = (images[1] - images[0]) * self.multiply_adds * NS_PER_MULTIPLY_ADD / groups
        for group in range(groups):
            spans = reads, [writes.striped(group, groups, self.name)]
            step.add(f"{self.name} {what}", kernel, record, images, cost, *spans, part=group)

    def _by_weight(self, step: StepBuilder, spread: Span) -> None:
        plan, (panels, outputs) = step.plan, (self.backward_panels, self.conv_shape[2])
        record, cost = plan.record_address(self.name), plan.batch * self.multiply_adds * NS_PER_MULTIPLY_ADD / panels
        reads = [spread, plan.values(self.inputs[0], 0, plan.batch)]
        for first, last in split(panels, -(-self.filter.size // SPAN)):
            begin, end = first * COLUMNS * outputs, last * COLUMNS * outputs
            writes = [plan.parameter_span("gradient", self.filter, begin, end)]
            if self.bias and first == 0:
                writes.append(plan.parameter_span("gradient", self.bias))
            kernel, ranged = pointwise.pointwise_by_weight, (first, last)
            step.add(f"{self.name} by weight", kernel, record, ranged, (last - first) * cost, reads, writes)
            step.update_span(self.name, self.filter, begin, end)
        if self.bias:
            step.update(self.name, self.bias)
