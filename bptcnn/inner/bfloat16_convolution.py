"""A convolution with bfloat16 products: rows of products are images, tasks go over rows of pixels and channels."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bptcnn.inner.arena import FLOAT, Span
from bptcnn.inner.convolution import Convolution
from bptcnn.inner.partials import MOST_BYTES, PartialSums
from bptcnn.inner.plan import Plan, split
from bptcnn.inner.tasks import NS_PER_ELEMENT, NS_PER_MULTIPLY_ADD, StepBuilder
from bptcnn.inner.values import Halo
from bptcnn.kernels import bfloat16_convolution as kernels
from bptcnn.kernels.bfloat16_blocks import BLOCK, BLOCK_BYTES

_LEAST_CHANNELS = 16  # with fewer, blocks are mostly empty
_TASKS = 16  # of a pass: enough to balance
_SLICE_BYTES = 256 << 10  # of packed filters in a task: an eighth of a second-level cache
_PART_BLOCKS = 256  # of each side in a product of the gradient by filter: both together take half of that cache
_ONE = 0x3F80  # in bfloat16
_SPEED_UP = 6  # over float32


def suits_bfloat16(in_shape: tuple[int, int, int], out_shape: tuple[int, int, int]) -> bool:
    """Tell whether a convolution is worth bfloat16's blocks."""
    return min(in_shape[2], out_shape[2]) >= _LEAST_CHANNELS


@dataclass(frozen=True)
class _CountedSums(PartialSums):
    """Partial sums of parts that are not ranges of images only."""

    count: int = 0

    def parts(self, plan: Plan) -> list[tuple[int, int]]:
        """Return the numbers of the parts."""
        return [(part, part + 1) for part in range(self.count)]


@dataclass(frozen=True)
class _Parts:
    """The gradient by filter is summed over `groups` x `bands` parts: `group` blocks of images, a band of rows each."""

    group: int
    groups: int
    bands: int

    @property
    def count(self) -> int:
        return self.groups * self.bands


@dataclass(frozen=True)
class Bfloat16Convolution(Convolution):
    """Across images, without pooling; what pads is left out, so there is no halo."""

    def halo(self, position: int) -> Halo:
        """Nothing is read around an image."""
        return Halo()

    @property
    def _taps(self) -> int:
        return self.kernel[0] * self.kernel[1]

    @property
    def _in_blocks(self) -> int:
        return -(-self.in_shape[2] // BLOCK)

    @property
    def _out_blocks(self) -> int:
        return -(-self.conv_shape[2] // BLOCK)

    def _slices(self, panels: int) -> int:
        """Into how many tasks panels are divided: those of one stay in the cache."""
        size = self._taps * self._in_blocks * self._out_blocks * BLOCK_BYTES
        return min(panels, -(-size // _SLICE_BYTES))

    def _parts(self, plan: Plan) -> _Parts:
        blocks, (rows, columns, _) = _image_blocks(plan), self.conv_shape
        bands = max(1, min(rows, rows * columns // _PART_BLOCKS))
        group = max(1, min(blocks, _PART_BLOCKS * bands // (rows * columns)))
        most = max(1, MOST_BYTES // (FLOAT * (self.filter.size + self.conv_shape[2])))
        bands = min(bands, most)
        group = max(group, -(-blocks // (most // bands)))
        return _Parts(group, -(-blocks // group), bands)

    def _sums(self, plan: Plan) -> PartialSums:
        about = self.name, self.filter, self.bias, self.conv_shape[2]
        return _CountedSums(*about, count=self._parts(plan).count)

    # ---- buffers and records -----------------------------------------------------------------------------------------

    def reserve(self, plan: Plan) -> None:
        """Reserve blocks of filters, input and output gradient, and partial sums."""
        arena, images, wanted = plan.arena, _image_blocks(plan), plan.wants_gradient(self.inputs[0])
        (in_rows, in_columns, _), (out_rows, out_columns, _) = self.in_shape, self.conv_shape
        in_row = in_columns * images * self._in_blocks * BLOCK_BYTES
        out_row = out_columns * images * self._out_blocks * BLOCK_BYTES
        filters = self._taps * self._in_blocks * self._out_blocks
        arena.reserve((self.name, "packed input"), in_rows, in_row)
        arena.reserve((self.name, "forward panels"), filters, BLOCK_BYTES)
        entries = self._taps * max(self._in_blocks, self._out_blocks)
        if plan.training:
            arena.reserve((self.name, "turned input"), in_rows * in_row, 1)
            arena.reserve((self.name, "gradient columns"), out_rows * out_row, 1)
            arena.reserve((self.name, "ones"), 1, BLOCK_BYTES, kept=True)
            if wanted:
                arena.reserve((self.name, "packed gradient"), out_rows, out_row)
                arena.reserve((self.name, "backward panels"), filters, BLOCK_BYTES)
            parts = self._parts(plan)
            entries = max(entries, parts.group * -(-out_rows // parts.bands) * out_columns)
            self._sums(plan).reserve(plan)
        plan.want_scratch(kernels.SUMS + 4 * entries)  # an entry is two int64

    def record(self, plan: Plan) -> None:
        """Fill the records of the convolution and of its reduction."""
        arena, parts, sums = plan.arena, self._parts(plan), self._sums(plan)
        plan.keep(
            self.name,
            kernels.BFLOAT16_CONVOLUTION,
            **plan.image_fields(self),
            **self.sizes,
            filters=plan.weights(self.filter),
            bias=plan.weights(self.bias),
            rectified=self.rectified,
            image_blocks=_image_blocks(plan),
            packed_input=arena.address((self.name, "packed input")),
            packed_gradient=arena.address((self.name, "packed gradient")),
            turned_input=arena.address((self.name, "turned input")),
            gradient_columns=arena.address((self.name, "gradient columns")),
            ones=arena.address((self.name, "ones")),
            forward_panels=arena.address((self.name, "forward panels")),
            backward_panels=arena.address((self.name, "backward panels")),
            forward_slices=self._slices(self._out_blocks),
            backward_slices=self._slices(self._in_blocks),
            bands=parts.bands,
            group=parts.group,
            partials=sums.address(plan),
            part_size=sums.size,
            scratch=plan.scratch,
            scratch_worker=plan.scratch_worker,
            floor=0.0 if self.rectified else -np.inf,
        )
        if plan.training:
            arena.view((self.name, "ones"), BLOCK * BLOCK, np.uint16)[:] = _ONE
            sums.record(plan)

    # ---- tasks -------------------------------------------------------------------------------------------------------

    def forward(self, step: StepBuilder) -> None:
        """Pack filters and input; then convolve by bands of rows and slices of output channels."""
        plan, (rows, _, _) = step.plan, self.conv_shape
        self._pack_filters(step)
        packed = (self.name, "packed input")
        self._pack_rows(
            step,
            "pack input forward",
            kernels.pack_input,
            self.in_shape,
            self._input(plan),
            lambda first, last: [plan.arena.span(packed, first, last)],
        )
        panels, made = plan.arena.whole((self.name, "forward panels")), plan.values(self.output, 0, plan.batch)

        def reads(first: int, last: int) -> list[Span]:
            top, bottom = first * self.stride[0], (last - 1) * self.stride[0] + self.kernel[0]
            seen = [max(0, min(self.in_shape[0], row - self.pads[0][0])) for row in (top, bottom)]
            return [panels, plan.arena.span(packed, *seen)]

        slices = self._slices(self._out_blocks)
        self._multiply(step, "forward", kernels.convolve_blocks, rows, slices, reads, made)

    def backward(self, step: StepBuilder) -> None:
        """Pack the output gradient and the input, turned; then both gradients, the reduction, the update."""
        plan, wanted = step.plan, step.plan.wants_gradient(self.inputs[0])
        given = plan.gradients(self.output, 0, plan.batch), plan.values(self.output, 0, plan.batch)
        columns, turned = (plan.arena.whole((self.name, what)) for what in ("gradient columns", "turned input"))

        def packed(first: int, last: int) -> list[Span]:
            spans = [columns.striped(first, self.conv_shape[0], self.name)]
            return [*spans, plan.arena.span((self.name, "packed gradient"), first, last)] if wanted else spans

        self._pack_rows(step, "pack gradient", kernels.pack_gradient, self.conv_shape, list(given), packed)
        if wanted:
            self._by_input(step)

        def rows(first: int, _: int) -> list[Span]:
            return [turned.striped(first, self.in_shape[0], self.name)]

        self._pack_rows(step, "turn", kernels.turn_input, self.in_shape, self._input(plan), rows)
        self._by_filter(step)

    def _pack_filters(self, step: StepBuilder) -> None:
        """Add the tasks that pack the filters, for forward and by input at once."""
        plan, rows = step.plan, self._taps * self._in_blocks
        record, reads = plan.record_address(self.name), [plan.parameter_span("weights", self.filter)]
        wanted = plan.wants_gradient(self.inputs[0])
        buffers = ["forward panels", "backward panels"] if wanted else ["forward panels"]
        for first, last in split(rows, _TASKS):
            writes = [plan.arena.whole((self.name, buffer)).striped(first, rows, self.name) for buffer in buffers]
            cost = (last - first) * self.filter.size / rows * NS_PER_ELEMENT
            step.add(f"{self.name} pack forward", kernels.pack_filters, record, (first, last), cost, reads, writes)

    def _input(self, plan: Plan) -> list[Span]:
        return [plan.values(self.inputs[0], 0, plan.batch)]

    def _pack_rows(
        self,
        step: StepBuilder,
        what: str,
        kernel: int,
        shape: tuple[int, int, int],
        reads: list[Span],
        writes: Callable[[int, int], list[Span]],
    ) -> None:
        """Add the tasks that pack images of a shape by rows."""
        plan, (rows, columns, channels) = step.plan, shape
        record, cost = plan.record_address(self.name), plan.batch * columns * channels * NS_PER_ELEMENT
        for first, last in split(rows, _TASKS):
            spans = writes(first, last)
            step.add(f"{self.name} {what}", kernel, record, (first, last), (last - first) * cost, reads, spans)

    def _multiply(
        self,
        step: StepBuilder,
        what: str,
        kernel: int,
        rows: int,
        slices: int,
        reads: Callable[[int, int], list[Span]],
        made: Span,
    ) -> None:
        """Add the tasks over bands of rows and slices of channels that write `made`."""
        record, bands = step.plan.record_address(self.name), split(rows, -(-_TASKS // slices))
        tasks = len(bands) * slices
        for index in range(tasks):
            band, part = bands[index // slices], index % slices
            cost = self._cost(step.plan) / tasks
            step.add(
                f"{self.name} {what}",
                kernel,
                record,
                band,
                cost,
                reads(*band),
                [made.striped(index, tasks, self.name)],
                part,
            )

    def _by_input(self, step: StepBuilder) -> None:
        plan = step.plan
        panels = plan.arena.whole((self.name, "backward panels"))

        def reads(first: int, last: int) -> list[Span]:
            top, bottom = first + self.pads[0][0] - self.kernel[0] + 1, last + self.pads[0][0]
            seen = [max(0, min(self.conv_shape[0], -(-row // self.stride[0]))) for row in (top, bottom)]
            return [panels, plan.arena.span((self.name, "packed gradient"), *seen)]

        wanted, slices = plan.gradients(self.inputs[0], 0, plan.batch), self._slices(self._in_blocks)
        kernel = kernels.gradient_by_input_blocks
        self._multiply(step, "by input", kernel, self.in_shape[0], slices, reads, wanted)

    def _by_filter(self, step: StepBuilder) -> None:
        plan, sums = step.plan, self._sums(step.plan)
        record, kernel = plan.record_address(self.name), kernels.gradient_by_filter_blocks
        reads = [plan.arena.whole((self.name, buffer)) for buffer in ("turned input", "gradient columns")]
        ranges = split(self._out_blocks, -(-_TASKS // len(sums.parts(plan))))
        cost = self._cost(plan) / (len(sums.parts(plan)) * len(ranges))
        for part in range(len(sums.parts(plan))):
            for index, panels in enumerate(ranges):
                writes = [sums.span(plan, part).striped(index, len(ranges), self.name)]
                step.add(f"{self.name} by filter", kernel, record, panels, cost, reads, writes, part)
        sums.reduce(step)

    def _cost(self, plan: Plan) -> float:
        return plan.batch * self.multiply_adds * NS_PER_MULTIPLY_ADD / _SPEED_UP


def _image_blocks(plan: Plan) -> int:
    return -(-plan.batch // BLOCK)
