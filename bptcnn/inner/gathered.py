"""A convolution with few output pixels in a step: a dense layer over gathered windows; no filter is packed."""

from dataclasses import dataclass

import numpy as np

from bptcnn.inner.arena import FLOAT
from bptcnn.inner.convolution import Convolution
from bptcnn.inner.plan import Plan, split
from bptcnn.inner.tasks import NS_PER_ELEMENT, NS_PER_MULTIPLY_ADD, SPAN, StepBuilder
from bptcnn.inner.values import Halo, skewed
from bptcnn.kernels import dense, gathering
from bptcnn.kernels.unit import COLUMNS

_MOST_PIXELS = 64  # of a step; more of them are worth packed or transformed filters
_LEAST_FILTER = 32768  # elements; smaller ones are packed in no time
_ELEMENTS = 16384  # that a task gathers or scatters
_WORD = 8  # bytes


def gathers(op: Convolution, batch: int) -> bool:
    """Tell whether a convolution of `batch` images has few pixels and a large filter."""
    rows, columns, _ = op.conv_shape
    return 0 < batch * rows * columns <= _MOST_PIXELS and op.filter.size >= _LEAST_FILTER


@dataclass(frozen=True)
class GatheredConvolution(Convolution):
    """Output pixels of all images are the rows of a matrix, windows its columns; what pads is gathered as zeros."""

    @property
    def undoes(self) -> bool:
        """The backward tasks undo the rectifier in place."""
        return self.rectified

    def halo(self, position: int) -> Halo:
        """Nothing is read around an image."""
        return Halo()

    @property
    def _inputs(self) -> int:
        """Elements of a window."""
        return self.kernel[0] * self.kernel[1] * self.in_shape[2]

    def _pixels(self, plan: Plan) -> int:
        return plan.batch * self.conv_shape[0] * self.conv_shape[1]

    # ---- buffers and records -----------------------------------------------------------------------------------------

    def reserve(self, plan: Plan) -> None:
        """Reserve windows and outputs; for training their gradients and scratch."""
        pixels, filters = self._pixels(plan), self.conv_shape[2]
        plan.arena.reserve((self.name, "pixels"), 1, _WORD)
        plan.arena.reserve((self.name, "windows"), pixels, FLOAT * skewed(self._inputs))
        plan.arena.reserve((self.name, "outputs"), pixels * filters)
        if not plan.training:
            return
        plan.reserve_gradients(self.name, self.filter, self.bias)
        plan.arena.reserve((self.name, "gradient panels"), -(-pixels // COLUMNS) * filters * COLUMNS)
        if plan.wants_gradient(self.inputs[0]):
            plan.arena.reserve((self.name, "window gradients"), pixels * self._inputs)
            plan.arena.reserve((self.name, "scratch"), plan.workers * dense.BLOCK * COLUMNS)

    def record(self, plan: Plan) -> None:
        """Fill the records."""
        arena, filters = plan.arena, self.conv_shape[2]
        fields = plan.image_fields(self)
        gradient = fields.pop("output_gradient")
        plan.keep(
            f"{self.name} gathering",
            gathering.GATHERING,
            **fields,
            pixels=arena.address((self.name, "pixels")),
            **self.sizes,
            windows=arena.address((self.name, "windows")),
            windows_pixel=skewed(self._inputs),
            window_gradients=arena.address((self.name, "window gradients")),
            outputs=arena.address((self.name, "outputs")),
        )
        plan.keep(
            self.name,
            dense.DENSE,
            batch=arena.address((self.name, "pixels")),
            input=arena.address((self.name, "windows")),
            input_image=skewed(self._inputs),
            inputs=self._inputs,
            weights=plan.weights(self.filter),
            outputs=filters,
            bias=plan.weights(self.bias),
            output=arena.address((self.name, "outputs")),
            output_image=filters,
            rectified=self.rectified,
            output_gradient=gradient,
            gradient_panels=arena.address((self.name, "gradient panels")),
            input_gradient=arena.address((self.name, "window gradients")),
            weight_gradient=plan.weights_gradient(self.filter),
            bias_gradient=plan.weights_gradient(self.bias),
            scratch=arena.address((self.name, "scratch")),
            scratch_worker=dense.BLOCK * COLUMNS,
            floor=0.0 if self.rectified else -np.inf,
        )

    # ---- tasks -------------------------------------------------------------------------------------------------------

    def _over_rows(
        self, step: StepBuilder, what: str, kernel: int, rows: int, elements: int, buffers: tuple[str, str]
    ) -> None:
        """Add tasks over rows of images, counted through all of them: from one buffer or value to another."""
        plan = step.plan
        spans = [
            {
                "input": lambda: plan.values(self.inputs[0], 0, plan.batch),
                "output": lambda: plan.values(self.output, 0, plan.batch),
                "input gradient": lambda: plan.gradients(self.inputs[0], 0, plan.batch),
            }.get(buffer, lambda buffer=buffer: plan.arena.whole((self.name, buffer)))()
            for buffer in buffers
        ]
        ranges = split(rows, -(-elements // _ELEMENTS))
        for index, ranged in enumerate(ranges):
            cost, record = elements * NS_PER_ELEMENT / len(ranges), plan.record_address(f"{self.name} gathering")
            step.add(
                f"{self.name} {what}",
                kernel,
                record,
                ranged,
                cost,
                spans[:1],
                [spans[1].striped(index, len(ranges), self.name)],
            )

    def forward(self, step: StepBuilder) -> None:
        """Gather the windows; then one task per panel of output channels; then place the outputs."""
        plan, record = step.plan, step.plan.record_address(self.name)
        rows, pixels, filters = plan.batch * self.conv_shape[0], self._pixels(plan), self.conv_shape[2]
        gather = gathering.gather_windows
        self._over_rows(step, "gather", gather, rows, pixels * self._inputs, ("input", "windows"))
        panels = -(-filters // COLUMNS)
        cost = plan.batch * self.multiply_adds * NS_PER_MULTIPLY_ADD / panels
        reads = [plan.arena.whole((self.name, "windows")), plan.parameter_span("weights", self.filter)]
        made = plan.arena.whole((self.name, "outputs"))
        for panel in range(panels):
            writes = [made.striped(panel, panels, self.name)]
            step.add(f"{self.name} forward", dense.dense, record, (panel, panel + 1), cost, reads, writes)
        self._over_rows(step, "place", gathering.place_outputs, rows, pixels * filters, ("outputs", "output"))

    def backward(self, step: StepBuilder) -> None:
        """Undo the rectifier; then per range of the filter's rows both gradients and the update."""
        plan, record = step.plan, step.plan.record_address(self.name)
        wanted, filters = plan.wants_gradient(self.inputs[0]), self.conv_shape[2]
        elements = self._pixels(plan) * filters
        gradients = plan.gradients(self.output, 0, plan.batch)
        panels, made = plan.arena.whole((self.name, "gradient panels")), plan.arena.whole((self.name, "outputs"))
        writes = [gradients, panels]
        if self.bias:
            writes.append(plan.parameter_span("gradient", self.bias))
        cost = elements * NS_PER_ELEMENT * 2
        step.add(f"{self.name} mask", dense.dense_gradient, record, (0, 1), cost, [made], writes)
        spans = split(self._inputs, -(-self.filter.size // SPAN))
        for index, (first, last) in enumerate(spans):
            cost = (last - first) * elements * NS_PER_MULTIPLY_ADD
            begin, end = first * filters, last * filters
            if wanted:
                reads = [panels, plan.parameter_span("weights", self.filter, begin, end)]
                writes = [plan.arena.whole((self.name, "window gradients")).striped(index, len(spans), self.name)]
                kernel = dense.dense_gradient_by_input
                step.add(f"{self.name} by input", kernel, record, (first, last), cost, reads, writes)
            reads = [gradients, plan.arena.whole((self.name, "windows"))]
            writes = [plan.parameter_span("gradient", self.filter, begin, end)]
            kernel = dense.dense_gradient_by_weight
            step.add(f"{self.name} by weight", kernel, record, (first, last), cost, reads, writes)
            step.update_span(self.name, self.filter, begin, end)
        if self.bias:
            step.update(self.name, self.bias)
        if wanted:
            rows, moved = plan.batch * self.in_shape[0], self._pixels(plan) * self._inputs
            buffers = ("window gradients", "input gradient")
            self._over_rows(step, "scatter", gathering.scatter_windows, rows, moved, buffers)
