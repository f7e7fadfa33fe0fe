"""The convolution of a step: with bias, rectifier and pooling, where it has them; its gradients and weight update."""

from dataclasses import dataclass

import numpy as np

from bptcnn.inner.arena import Span
from bptcnn.inner.operation import Operation
from bptcnn.inner.partials import PartialSums
from bptcnn.inner.plan import Plan
from bptcnn.inner.tasks import NS_PER_ELEMENT, NS_PER_MULTIPLY_ADD, StepBuilder
from bptcnn.inner.values import Halo, window_halo, window_sizes
from bptcnn.kernels import convolution, convolution_gradients, pooled_gradients
from bptcnn.kernels.convolution import pixels_abreast
from bptcnn.kernels.convolution_gradients import folds
from bptcnn.kernels.unit import COLUMNS
from bptcnn.networks import Parameter
from bptcnn.networks.layers import Pair


@dataclass(frozen=True)
class Convolution(Operation):
    """Convolution, bias, rectifier and pooling (rows, columns)."""

    in_shape: tuple[int, int, int]
    kernel: Pair
    stride: Pair
    pads: tuple[Pair, Pair]
    conv_shape: tuple[int, int, int]  # before pooling
    out_shape: tuple[int, int, int]
    pool: Pair | None
    rectified: bool
    filter: Parameter
    bias: Parameter | None
    parts: int  # partial sums of the gradients; 0: mostly one for each range of images

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of one image's forward pass; each gradient takes as many."""
        rows, columns, filters = self.conv_shape
        return rows * columns * filters * self.kernel[0] * self.kernel[1] * self.in_shape[2]

    @property
    def direct(self) -> bool:
        """Whether no other algorithm, a subclass, computes it; only then few channels or filters are special."""
        return type(self) is Convolution

    @property
    def folded(self) -> bool:
        """Whether the gradient by input goes by window rows."""
        return self.direct and folds(self.in_shape[2], self.kernel[1])

    @property
    def follows_choices(self) -> bool:
        """Whether the gradient by weight goes from choice to choice of the pooling."""
        if self.pool is None or not self.direct:
            return False
        rows, columns, filters = self.conv_shape
        pooled = self.out_shape[0] * self.out_shape[1]
        return pooled_gradients.follows_choices(self.kernel[0], self._window_row, filters, rows * columns, pooled)

    @property
    def abreast(self) -> int:
        """Output pixels that share a row of the tile in the forward pass."""
        _, columns, filters = self.conv_shape
        if not self.direct:
            return 1
        return pixels_abreast(self.kernel[1], self.in_shape[2], self.stride[1], filters, columns)

    @property
    def sizes(self) -> dict[str, int]:
        """What records say of input, window, and output before pooling."""
        windows = window_sizes(self.in_shape, self.conv_shape, self.kernel, self.stride, self.pads)
        return {**windows, "out_channels": self.conv_shape[2]}

    @property
    def _window_row(self) -> int:
        """Elements of a row of the filter window."""
        return self.kernel[1] * self.in_shape[2]

    @property
    def forward_panels(self) -> int:
        """Panels of packed filters for the forward pass."""
        return -(-self.abreast * self.conv_shape[2] // COLUMNS)

    @property
    def backward_panels(self) -> int:
        """Panels of packed filters for the gradient by input."""
        columns = self.in_shape[2] * (self.kernel[1] if self.folded else 1)
        return -(-columns // COLUMNS)

    @property
    def sums(self) -> PartialSums:
        """The partial sums of the filter and bias gradients."""
        return PartialSums(self.name, self.filter, self.bias, self.conv_shape[2], self.parts)

    @property
    def kernels(self) -> tuple[int, int]:
        """The kernels of the forward and the backward tasks."""
        return convolution.convolve, convolution_gradients.convolve_backward

    @property
    def packing(self) -> tuple[int, int]:
        """The kernels that pack filters, for forward and backward."""
        return convolution.pack_forward, convolution_gradients.pack_backward

    def record_name(self, what: str) -> str:
        """Return the name of the record for "forward", "backward", "pack forward" or "pack backward"."""
        return self.name

    def halo(self, position: int) -> Halo:
        """The padding."""
        return window_halo(
            (self.in_shape[0], self.in_shape[1]),
            self.kernel,
            self.stride,
            self.pads,
            (self.conv_shape[0], self.conv_shape[1]),
            0.0,
        )

    # ---- buffers and records -----------------------------------------------------------------------------------------

    def reserve(self, plan: Plan) -> None:
        """Reserve packed filters, choices, scratch and partial sums."""
        arena, wanted = plan.arena, plan.wants_gradient(self.inputs[0])
        _, columns, channels = self.conv_shape
        window = self.kernel[0] * self.kernel[1]
        depth = (self.kernel[1] + (self.abreast - 1) * self.stride[1]) * self.in_shape[2]
        biases = self.abreast > 1
        size = (self.kernel[0] * depth + biases) * COLUMNS * self.forward_panels
        arena.reserve((self.name, "forward panels"), size, needed=plan.needed_forward(self.name))
        if self.pool:
            arena.reserve((self.name, "scratch"), plan.workers * self.pool[0] * columns * channels)
        if not plan.training:
            return
        if self.pool:
            self._reserve_choice(plan)
        if wanted:
            taps = self.kernel[0] if self.folded else window
            size = taps * channels * COLUMNS * self.backward_panels
            arena.reserve((self.name, "backward panels"), size, needed=plan.needed_backward(self.name))
        if wanted and self.folded:
            arena.reserve((self.name, "folding"), plan.workers * self._folding_size())
        if self.follows_choices:
            arena.reserve((self.name, "chosen sums"), plan.workers * self._chosen_sums_size())
        halo = _gradient_halo(self)
        arena.reserve((self.name, "gradient scratch"), plan.workers * halo.rows * halo.columns * channels, kept=True)
        self.sums.reserve(plan)

    def _reserve_choice(self, plan: Plan) -> None:
        elements = plan.layout(self.output).elements
        plan.arena.reserve((self.name, "choice"), plan.batch, elements, plan.needed_between(self.name))

    def _folding_size(self) -> int:
        """Elements of a worker's scratch for folding: an image of window rows, and one of the input."""
        rows, _, channels = self.in_shape
        outputs, window = self.conv_shape[1], self._window_row
        reach = max((outputs - 1) * self.stride[1] * channels + window, (self.pads[1][0] + self.in_shape[1]) * channels)
        return rows * (outputs * window + reach)

    def _chosen_sums_size(self) -> int:
        """Elements of a worker's sums of chosen gradients: whole cache lines."""
        size = pooled_gradients.sums_size(self.conv_shape[2], self.kernel[0], self._window_row)
        return -(-size // 16) * 16

    def _choice_places(self, plan: Plan) -> int:
        """Return the address of the table of what lies where under a window of the pooling."""
        assert self.pool is not None
        row = self.stride[0] * plan.layout(self.inputs[0]).row
        pixel = self.stride[1] * self.in_shape[2]
        return plan.table(pooled_gradients.choice_places(self.pool[1], row, pixel, self.pool[0] * self.pool[1]))

    def record(self, plan: Plan) -> None:
        """Fill the records of the convolution and of its reduction."""
        plan.keep(self.name, convolution.CONVOLUTION, **self.fields(plan))
        if plan.training:
            self.sums.record(plan)

    def fields(self, plan: Plan) -> dict[str, float]:
        """Return what the CONVOLUTION record says."""
        arena, halo = plan.arena, _gradient_halo(self)
        gradient_row = halo.columns * self.conv_shape[2]
        window_row, follows = np.arange(self._window_row), self.follows_choices
        input_row = plan.layout(self.inputs[0]).row
        return {
            **plan.image_fields(self, (self.pads[0][0], self.pads[1][0])),
            **self.sizes,
            "tap_offsets": plan.table(np.arange(self.kernel[0])[:, None] * input_row + window_row),
            "filters": plan.weights(self.filter),
            "abreast": self.abreast,
            "forward_panels": arena.address((self.name, "forward panels")),
            "backward_panels": arena.address((self.name, "backward panels")),
            "bias": plan.weights(self.bias),
            "pool_rows": self.pool[0] if self.pool else 0,
            "pool_columns": self.pool[1] if self.pool else 0,
            "pooled_rows": self.out_shape[0],
            "pooled_columns": self.out_shape[1],
            "choice": arena.address((self.name, "choice")),
            "rectified": self.rectified,
            "scratch": arena.address((self.name, "scratch")),
            "scratch_worker": self.pool[0] * self.conv_shape[1] * self.conv_shape[2] if self.pool else 0,
            "folded": self.folded,
            "folding": arena.address((self.name, "folding")),
            "folding_worker": self._folding_size(),
            "gradient_scratch": arena.address((self.name, "gradient scratch")),
            "gradient_scratch_worker": halo.rows * gradient_row,
            "halo_top": halo.top,
            "halo_left": halo.left,
            "gradient_row": gradient_row,
            "window_line": pooled_gradients.window_line(self._window_row) if follows else 0,
            "places": self._choice_places(plan) if follows else 0,
            "chosen_sums": arena.address((self.name, "chosen sums")),
            "chosen_sums_worker": self._chosen_sums_size() if follows else 0,
            "partials": self.sums.address(plan),
            "part_size": self.sums.size,
            "floor": 0.0 if self.rectified else -np.inf,
        }

    # ---- tasks -------------------------------------------------------------------------------------------------------

    def forward(self, step: StepBuilder) -> None:
        """Pack the filters, then convolve ranges of images."""
        plan, record = step.plan, step.plan.record_address(self.record_name("forward"))
        self._pack(step, backward=False)
        panels = plan.arena.whole((self.name, "forward panels"))

        def reads(first: int, last: int) -> list[Span]:
            return [plan.values(self.inputs[0], first, last), panels]

        def writes(first: int, last: int) -> list[Span]:
            return [plan.values(self.output, first, last), *self._choices(plan, first, last)]

        cost = self.multiply_adds * NS_PER_MULTIPLY_ADD
        step.over_images(f"{self.name} forward", self.kernels[0], record, cost, reads, writes)

    def backward(self, step: StepBuilder) -> None:
        """Both gradients by ranges of images, then the reduction with the weight update."""
        plan, record = step.plan, step.plan.record_address(self.record_name("backward"))
        (source,), wanted = self.inputs, plan.wants_gradient(self.inputs[0])
        if wanted:
            self._pack(step, backward=True)
        cost = self.multiply_adds * NS_PER_MULTIPLY_ADD * (2 if wanted else 1)
        for part, (first, last) in enumerate(self.sums.parts(plan)):
            reads = [plan.gradients(self.output, first, last), plan.values(source, first, last)]
            reads += [plan.values(self.output, first, last), *self._choices(plan, first, last)]
            reads += self.read_with_gradient(plan)
            writes = [self.sums.span(plan, part)]
            if wanted:
                reads.append(plan.arena.whole((self.name, "backward panels")))
                writes.append(plan.gradients(source, first, last))
            kernel = self.kernels[1]
            step.add(f"{self.name} backward", kernel, record, (first, last), (last - first) * cost, reads, writes, part)
        self.sums.reduce(step)

    def _pack(self, step: StepBuilder, backward: bool) -> None:
        plan, what = step.plan, "backward" if backward else "forward"
        record = plan.record_address(self.record_name(f"pack {what}"))
        kernel = self.packing[backward]
        panels = self.backward_panels if backward else self.forward_panels
        cost = self.filter.size * NS_PER_ELEMENT / panels
        reads = [plan.parameter_span("weights", self.filter)]
        packed = plan.arena.whole((self.name, f"{what} panels"))
        for panel in range(panels):
            writes = [packed.striped(panel, panels, self.name)]
            step.add(f"{self.name} pack {what}", kernel, record, (panel, panel + 1), cost, reads, writes)

    def read_with_gradient(self, plan: Plan) -> list[Span]:
        """Return what the backward tasks read of operations behind, with the output's gradient."""
        return []

    def _choices(self, plan: Plan, first: int, last: int) -> list[Span]:
        return [plan.arena.span((self.name, "choice"), first, last)] if self.pool and plan.training else []


@dataclass(frozen=True)
class _GradientHalo:
    """Layout of one image of a convolution's output gradient, as the gradient by input reads it."""

    top: int
    left: int
    rows: int
    columns: int


def _gradient_halo(op: Convolution) -> _GradientHalo:
    """Return the halo in which every phase of the gradient by input finds zeros around the output gradient."""
    (top, bottom), (left, right) = (
        _reach(op.in_shape[axis], op.kernel[axis], op.stride[axis], op.pads[axis][0], op.conv_shape[axis])
        for axis in (0, 1)
    )
    return _GradientHalo(top, left, top + op.conv_shape[0] + bottom, left + op.conv_shape[1] + right)


def _reach(size: int, kernel: int, stride: int, pad: int, outputs: int) -> tuple[int, int]:
    """How far the phases (see kernels.convolution_gradients) read before the first and behind the last output."""
    before = after = 0
    for phase in range(min(stride, kernel)):
        taps = -(-(kernel - phase) // stride)
        first = -(-max(0, pad - phase) // stride)
        last = (size - 1 + pad - phase) // stride
        before = max(before, taps - 1 - first)
        after = max(after, last - (outputs - 1))
    return before, after
