"""A 3x3 convolution with stride 1 by Winograd's algorithm, forward and both gradients.

What a task is depends on how many tiles there are, and how large the filters (see kernels.winograd and
kernels.winograd_gradients):

| | forward, gradient by input | gradient by filter |
|---|---|---|
| over images | a range of images, all channels | the same, as partial sum |
| over images, then channels | a range of images, all channels | transforms likewise; then products by channels |
| over channels | a block of output channels, of many images | as above |
"""

from dataclasses import dataclass

import numpy as np

from bptcnn.inner.arena import FLOAT, Span
from bptcnn.inner.convolution import Convolution
from bptcnn.inner.partials import PartialSums
from bptcnn.inner.plan import Plan, split
from bptcnn.inner.step_settings import IMAGES
from bptcnn.inner.tasks import NS_PER_ELEMENT, NS_PER_MULTIPLY_ADD, ImageSpans, StepBuilder
from bptcnn.kernels import convolution, winograd, winograd_gradients
from bptcnn.kernels.winograd_sizes import BackwardSizes, WinogradSizes

_LEAST_CHANNELS = 32  # with fewer the transforms cost more than they save
_LEAST_PIXELS = 4  # rows and columns of an output: smaller ones fill no tile
import os
_FORCE = os.environ.get("FORCE", "")
_SLAB_BYTES = int(os.environ.get("SLAB", "40")) << 20


def tile_for(op: Convolution) -> int:
    """Return the outputs per row of a tile with which a convolution is computed, 0 for directly."""
    if op.kernel != (3, 3) or op.stride != (1, 1) or max(map(max, op.pads)) > 2:
        return 0
    fits = min(op.conv_shape[:2]) >= _LEAST_PIXELS and min(op.in_shape[2], op.conv_shape[2]) >= _LEAST_CHANNELS
    return 4 if fits else 0


@dataclass(frozen=True)
class WinogradConvolution(Convolution):
    """With tiles of `tile` x `tile` outputs (2 or 4): F(tile x tile, 3 x 3)."""

    tile: int

    @property
    def _tiles(self) -> int:
        """Tiles of an image."""
        return -(-self.conv_shape[0] // self.tile) * -(-self.conv_shape[1] // self.tile)

    def _over_channels(self, plan: Plan) -> bool:
        """Whether forward and by input are blocked by output channels."""
        if _FORCE: return _FORCE[0] == "1"
        return False

    def _slabs(self, plan: Plan) -> list[tuple[int, int]]:
        """The slabs of images whose transformed tiles are held for the gradient by filter; none: partial sums."""
        if _FORCE and _FORCE[1] == "0": return []
        channels = self.in_shape[2] + self.conv_shape[2]
        most = max(1, _SLAB_BYTES // (FLOAT * (self.tile + 2) ** 2 * self._tiles * channels))
        size = -(-plan.batch // -(-plan.batch // most))
        return [(first, min(first + size, plan.batch)) for first in range(0, plan.batch, size)]

    def _sizes(self, plan: Plan) -> WinogradSizes:
        rows, columns, channels = self.conv_shape
        pool_rows = self.pool[0] if self.pool else 0
        blocked = self._over_channels(plan)
        return WinogradSizes(self.tile, self.in_shape[2], rows, columns, channels, pool_rows, blocked=blocked)

    def _backward_sizes(self, plan: Plan) -> BackwardSizes:
        rows, columns, _ = self.in_shape
        sizes, slabs = self._sizes(plan), self._slabs(plan)
        slab = slabs[0][1] if slabs else 0
        return BackwardSizes(sizes, rows, columns, self.pads[0][0], self.pads[1][0], sizes.blocked, slab)

    def _bias_sums(self, plan: Plan) -> PartialSums | None:
        """The partial sums of the bias gradient, where the filters' has none."""
        return PartialSums(self.name, self.bias, None, 0, tuple(self._slab_ranges(plan))) if self.bias else None

    def _slab_ranges(self, plan: Plan) -> list[tuple[int, int]]:
        """The image ranges of the tasks that fill the slabs."""
        slabs = self._slabs(plan)
        each = -(-len(plan.ranges) // len(slabs))
        return [(begin + a, begin + b) for begin, end in slabs for a, b in split(end - begin, each)]

    @property
    def folded(self) -> bool:
        """Never."""
        return False

    @property
    def kernels(self) -> tuple[int, int]:
        """The kernels of the forward and the backward tasks."""
        return winograd.winograd, winograd_gradients.winograd_backward

    @property
    def packing(self) -> tuple[int, int]:
        """The kernels that pack filters, for forward and backward."""
        return winograd.transform_filters, winograd.transform_filters

    def record_name(self, what: str) -> str:
        """Return the name of the record for "forward", "backward", "pack forward" or "pack backward"."""
        return {"backward": f"{self.name} backward", "pack backward": f"{self.name} by input"}.get(what, self.name)

    def reserve(self, plan: Plan) -> None:
        """Reserve transformed filters, choices, scratch and partial sums."""
        arena, sizes = plan.arena, self._sizes(plan)
        plan.want_scratch(sizes.scratch)
        if not sizes.blocked:
            arena.reserve((self.name, "forward panels"), sizes.filters)
        if not plan.training:
            return
        if self.pool:
            arena.reserve((self.name, "choice"), plan.batch, plan.layout(self.output).elements)
        backward = self._backward_sizes(plan)
        by_input, by_filter = backward.by_input, backward.by_filter
        plan.want_scratch(by_input.scratch + by_filter.scratch)
        if sizes.blocked:
            arena.reserve((self.name, "spread"), plan.batch, FLOAT * backward.image)
        else:
            arena.reserve((self.name, "gradient scratch"), plan.workers * backward.scratch)
            if plan.wants_gradient(self.inputs[0]):
                arena.reserve((self.name, "backward panels"), by_input.filters)
        if by_filter.slab:
            plan.want_exchange(by_filter.transformed)
            arena.reserve((self.name, "partials"), len(self._slab_ranges(plan)), FLOAT * self.conv_shape[2])
        else:
            self.sums.reserve(plan)

    def record(self, plan: Plan) -> None:
        """Fill the records of forward pass, both gradients, and reduction."""
        self._record_forward(plan)
        if not plan.training:
            return
        self._record_expansion(plan)
        if plan.wants_gradient(self.inputs[0]):
            self._record_by_input(plan)
        self._record_by_filter(plan)
        self._record_backward(plan)
        sums = self._bias_sums(plan) if self._slabs(plan) else self.sums
        if sums:
            sums.record(plan)

    def _record_backward(self, plan: Plan) -> None:
        backward = self._backward_sizes(plan)
        by_input = plan.wants_gradient(self.inputs[0]) and not backward.blocked
        partials, slab = self.sums.address(plan), backward.slab
        plan.keep(
            f"{self.name} backward",
            winograd_gradients.BACKWARD,
            convolution=plan.record_address(f"{self.name} expansion"),
            by_input=plan.record_address(f"{self.name} by input") if by_input else 0,
            by_filter=plan.record_address(f"{self.name} by filter"),
            group=backward.group,
            held=plan.arena.address((self.name, "spread" if backward.blocked else "gradient scratch")),
            held_worker=0 if backward.blocked else backward.scratch,
            held_image=backward.image,
            inside=backward.inside,
            window=backward.window,
            bias_sums=partials if slab else partials + FLOAT * self.filter.size,
            bias_sums_step=self.conv_shape[2] if slab else self.sums.size,
        )

    def _record_forward(self, plan: Plan) -> None:
        (source,), target, sizes = self.inputs, self.output, self._sizes(plan)
        taken, made = plan.layout(source), plan.layout(target)
        plan.keep(
            self.name,
            winograd.WINOGRAD,
            **_scratch(plan, sizes),
            batch=plan.settings.word(IMAGES),
            size=self.tile,
            input=plan.arena.address(("value", source)) + FLOAT * taken.before((self.pads[0][0], self.pads[1][0])),
            input_image=taken.image,
            input_row=taken.row,
            channels=self.in_shape[2],
            reach_rows=self.conv_shape[0] + 2,
            reach_columns=self.conv_shape[1] + 2,
            filters=plan.weights(self.filter),
            panels=plan.arena.address((self.name, "forward panels")),
            panels_point=sizes.panels_point,
            bias=plan.weights(self.bias),
            out_channels=self.conv_shape[2],
            out_rows=self.conv_shape[0],
            out_columns=self.conv_shape[1],
            output=plan.inside(target),
            output_image=made.image,
            output_row=made.row,
            pool_rows=self.pool[0] if self.pool else 0,
            pool_columns=self.pool[1] if self.pool else 0,
            pooled_rows=self.out_shape[0],
            pooled_columns=self.out_shape[1],
            choice=plan.arena.address((self.name, "choice")),
            rectified=self.rectified,
            floor=0.0 if self.rectified else -np.inf,
        )

    def _record_expansion(self, plan: Plan) -> None:
        """What undoes pooling and rectifier needs to know."""
        made = plan.layout(self.output)
        plan.keep(
            f"{self.name} expansion",
            convolution.CONVOLUTION,
            batch=plan.settings.word(IMAGES),
            out_channels=self.conv_shape[2],
            out_rows=self.conv_shape[0],
            out_columns=self.conv_shape[1],
            output=plan.inside(self.output),
            output_image=made.image,
            output_row=made.row,
            pool_rows=self.pool[0] if self.pool else 0,
            pool_columns=self.pool[1] if self.pool else 0,
            pooled_rows=self.out_shape[0],
            pooled_columns=self.out_shape[1],
            choice=plan.arena.address((self.name, "choice")),
            rectified=self.rectified,
            output_gradient=plan.gradient(self.output),
            gradient_row=self._backward_sizes(plan).row,
        )

    def _record_by_input(self, plan: Plan) -> None:
        backward = self._backward_sizes(plan)
        sizes, (rows, columns, channels) = backward.by_input, self.in_shape
        plan.keep(
            f"{self.name} by input",
            winograd.WINOGRAD,
            **_scratch(plan, sizes),
            batch=plan.settings.word(IMAGES),
            size=self.tile,
            input=plan.arena.address((self.name, "spread")) + FLOAT * backward.window,
            input_image=backward.image,
            input_row=backward.row,
            channels=self.conv_shape[2],
            reach_rows=sizes.tile_rows * self.tile + 2,
            reach_columns=sizes.tile_columns * self.tile + 2,
            filters=plan.weights(self.filter),
            rotated=1,
            panels=plan.arena.address((self.name, "backward panels")),
            panels_point=sizes.panels_point,
            out_channels=channels,
            out_rows=rows,
            out_columns=columns,
            output=plan.gradient(self.inputs[0]),
            output_image=rows * columns * channels,
            output_row=columns * channels,
            accumulate=plan.accumulates(self, 0),
            floor=-np.inf,
        )

    def _record_by_filter(self, plan: Plan) -> None:
        backward = self._backward_sizes(plan)
        sizes = backward.by_filter
        transformed = plan.arena.address("exchange") if sizes.slab else 0
        plan.keep(
            f"{self.name} by filter",
            winograd_gradients.FILTER_SUMS,
            layer=plan.record_address(self.name),
            gradient_image=backward.image,
            gradient_row=backward.row,
            block=sizes.block,
            channel_block=sizes.channel_block,
            out_block=sizes.out_block,
            slab=sizes.slab,
            inputs=transformed,
            inputs_row=sizes.inputs_row,
            inputs_point=sizes.inputs_point,
            gradients=transformed + FLOAT * sizes.gradients if sizes.slab else sizes.gradients,
            gradients_row=sizes.gradients_row,
            gradients_point=sizes.gradients_point,
            scratch=plan.scratch + FLOAT * backward.by_input.scratch,
            scratch_worker=plan.scratch_worker,
            sums=sizes.sums,
            sums_point=sizes.sums_point,
            edge=sizes.edge,
            target=plan.weights_gradient(self.filter) if sizes.slab else self.sums.address(plan),
            part_size=0 if sizes.slab else self.sums.size,
        )

    # ---- tasks -------------------------------------------------------------------------------------------------------

    def forward(self, step: StepBuilder) -> None:
        """By ranges of images and blocks of output channels."""
        plan = step.plan

        def reads(first: int, last: int) -> list[Span]:
            return [plan.values(self.inputs[0], first, last)]

        def writes(first: int, last: int) -> list[Span]:
            return [plan.values(self.output, first, last), *self._choices(plan, first, last)]

        self._convolve(step, "forward", self.name, self._sizes(plan), reads, writes)

    def _convolve(
        self, step: StepBuilder, what: str, name: str, sizes: WinogradSizes, reads: ImageSpans, writes: ImageSpans
    ) -> None:
        plan, ranges, blocks = step.plan, step.plan.ranges, sizes.out_blocks
        if sizes.blocked:  # tasks transform the filters themselves: few ranges, each a block of tiles
            ranges = split(plan.batch, min(len(ranges), -(-plan.batch * self._tiles // sizes.block)))
            filters = plan.parameter_span("weights", self.filter)
        else:
            self._pack(step, backward=what != "forward")
            filters = plan.arena.whole((self.name, "forward panels"))
        cost = self.multiply_adds * NS_PER_MULTIPLY_ADD / blocks
        for block in range(blocks):
            for first, last in ranges:
                step.add(
                    f"{self.name} {what}",
                    winograd.winograd,
                    plan.record_address(name),
                    (first, last),
                    (last - first) * cost,
                    [*reads(first, last), filters],
                    [span.striped(block, blocks) for span in writes(first, last)],
                    block,
                )

    def backward(self, step: StepBuilder) -> None:
        """As partial sums by ranges of images; or for slab after slab by ranges of images, then by channels."""
        plan, slabs = step.plan, self._slabs(step.plan)
        backward, wanted = self._backward_sizes(plan), plan.wants_gradient(self.inputs[0])
        if not slabs:
            super().backward(step)
            return
        if wanted and not backward.blocked:
            self._pack(step, backward=True)
        ranges = self._slab_ranges(plan)
        for slab in slabs:
            filling = [(part, found) for part, found in enumerate(ranges) if slab[0] <= found[0] < slab[1]]
            for index, (part, (first, last)) in enumerate(filling):
                self._over_images(step, part, first, last, (index, len(filling)))
            self._by_filter(step, slab)
        if wanted and backward.blocked:

            def reads(first: int, last: int) -> list[Span]:
                return [plan.arena.span((self.name, "spread"), first, last)]

            def writes(first: int, last: int) -> list[Span]:
                return [plan.gradients(self.inputs[0], first, last)]

            self._convolve(step, "by input", f"{self.name} by input", backward.by_input, reads, writes)
        sums = self._bias_sums(plan)
        if sums:
            sums.reduce(step)
        step.update(self.name, self.filter)

    def _over_images(self, step: StepBuilder, part: int, first: int, last: int, stripe: tuple[int, int]) -> None:
        """Add the task that transforms images [first, last), and takes the gradient by input where it is not blocked."""
        plan, (source,), blocked = step.plan, self.inputs, self._over_channels(step.plan)
        reads = [plan.gradients(self.output, first, last), plan.values(source, first, last)]
        reads += [plan.values(self.output, first, last), *self._choices(plan, first, last)]
        partials = plan.arena.span((self.name, "partials"), part, part + 1)
        writes = [partials, plan.arena.whole("exchange").striped(*stripe)]
        cost = self.conv_shape[0] * self.conv_shape[1] * self.conv_shape[2] * NS_PER_ELEMENT
        if blocked:
            writes.append(plan.arena.span((self.name, "spread"), first, last))
        elif plan.wants_gradient(source):
            reads.append(plan.arena.whole((self.name, "backward panels")))
            writes.append(plan.gradients(source, first, last))
            cost += self.multiply_adds * NS_PER_MULTIPLY_ADD
        record, kernel = plan.record_address(f"{self.name} backward"), winograd_gradients.winograd_backward
        step.add(f"{self.name} backward", kernel, record, (first, last), (last - first) * cost, reads, writes, part)

    def _by_filter(self, step: StepBuilder, slab: tuple[int, int]) -> None:
        plan, blocks = step.plan, self._backward_sizes(step.plan).by_filter.blocks
        gradient = plan.parameter_span("gradient", self.filter)
        cost = (slab[1] - slab[0]) * self.multiply_adds * NS_PER_MULTIPLY_ADD / blocks
        record, kernel = plan.record_address(f"{self.name} by filter"), winograd_gradients.winograd_by_filter
        for block in range(blocks):
            reads, writes = [plan.arena.whole("exchange")], [gradient.striped(block, blocks)]
            step.add(f"{self.name} by filter", kernel, record, slab, cost, reads, writes, block)


def _scratch(plan: Plan, sizes: WinogradSizes) -> dict[str, int]:
    """Return the fields that say how a worker's scratch is divided."""
    return {
        "block": sizes.block,
        "channel_block": sizes.channel_block,
        "out_block": sizes.out_block,
        "scratch": plan.scratch,
        "scratch_worker": plan.scratch_worker,
        "inputs_row": sizes.inputs_row,
        "inputs_point": sizes.inputs_point,
        "products": sizes.products,
        "products_point": sizes.products_point,
        "edge": sizes.edge,
        "band": sizes.band,
        "own_panels": sizes.own_panels,
    }
