"""A 3x3 convolution with stride 1 by Winograd's algorithm, forward and both gradients.

What a task is depends on how many tiles a range of images has, and how large the filters are:

| tiles | forward, gradient by input | gradient by filter |
|---|---|---|
| many | a range of images, all channels | with that by input: partial sums, of a few tiles each |
| some | a range of images, all channels | a block of channels, all images |
| few | a block of output channels, many images | a block of channels, all images |

Tasks over channels find the output gradients held, pooling and rectifier undone. See kernels.winograd and
kernels.winograd_gradients for what the blocks are for.
"""

from collections.abc import Hashable
from dataclasses import dataclass, replace

import numpy as np

from bptcnn.inner.arena import FLOAT, Span
from bptcnn.inner.convolution import Convolution
from bptcnn.inner.partials import PartialSums
from bptcnn.inner.plan import Plan, split
from bptcnn.inner.step_settings import IMAGES
from bptcnn.inner.tasks import NS_PER_ELEMENT, NS_PER_MULTIPLY_ADD, ImageSpans, StepBuilder
from bptcnn.inner.tuning import TasksOver
from bptcnn.kernels import convolution, winograd, winograd_gradients
from bptcnn.kernels.winograd_sizes import BackwardSizes, WinogradSizes

_LEAST_CHANNELS = 32  # with fewer the transforms cost more than they save
_CHANNELS_LIMIT = 16  # below, on any CPU
_LEAST_PIXELS = 4  # rows and columns of an output: smaller ones fill no tile
_PRODUCT_COSTS = {4: 1.0, 5: 1.09}  # by tile: of a product with its share of the transforms (Zen 4)

# What follows was measured on Sapphire Rapids and Zen 5: `python benchmarks/winograd.py`.
_PART_TILES = 128  # of a partial sum, where that leaves a few of them
_MANY_TILES = 100  # of images: then partial sums of them pay
_FEW_TILES = 8  # then all filters would be fetched for hardly any products
_SUMS_SIZE = 64 * 128  # input times output channels: with fewer, a task over channels would be the only one
_FILTERS_SIZE = 128 * 256


def tile_for(op: Convolution) -> int:
    """Return the outputs per row of a tile with which a convolution is mostly best computed, 0 for directly."""
    (rows, columns, outs), channels = op.conv_shape, op.in_shape[2]
    if not may_tile(op) or min(rows, columns) < _LEAST_PIXELS or min(channels, outs) < _LEAST_CHANNELS:
        return 0
    one_tile = max(rows, columns) == _LEAST_PIXELS  # other algorithms go across images, too: these filters are too few
    if one_tile and channels * outs < _FILTERS_SIZE:
        return 0
    return min(_PRODUCT_COSTS, key=lambda tile: _products(op, tile) * _PRODUCT_COSTS[tile])


def _products(op: Convolution, tile: int) -> int:
    """Return the products of an image and a pair of channels: those outside an image count, too."""
    return -(-op.conv_shape[0] // tile) * -(-op.conv_shape[1] // tile) * (tile + 2) ** 2


def may_tile(op: Convolution) -> bool:
    """Tell whether a convolution may be better computed by Winograd's algorithm."""
    possible = op.kernel == (3, 3) and op.stride == (1, 1) and max(map(max, op.pads)) <= 2
    return possible and min(op.conv_shape[:2]) >= 2 and min(op.in_shape[2], op.conv_shape[2]) >= _CHANNELS_LIMIT


@dataclass(frozen=True)
class WinogradConvolution(Convolution):
    """With tiles of `tile` x `tile` outputs: F(tile x tile, 3 x 3); `over`: how it is divided into tasks."""

    tile: int
    over: TasksOver = "rule"

    @property
    def _tiles(self) -> int:
        """Tiles of an image."""
        return -(-self.conv_shape[0] // self.tile) * -(-self.conv_shape[1] // self.tile)

    def _few_tiles(self, plan: Plan, parts: int, tiles: int, least: int) -> bool:
        """Tell whether `parts` of the images have fewer than `tiles` tiles, and filters `least` pairs of channels."""
        few = self._tiles * plan.batch < tiles * parts
        return few and self.in_shape[2] * self.conv_shape[2] >= least

    def _sums_blocked(self, plan: Plan) -> bool:
        """Tell whether tasks of the gradient by filter go over channels."""
        if self.over != "rule":
            return self.over in ("channels", "channels by filter")
        ranges, parts = len(plan.ranges), len(self.sums.parts(plan))
        few = self._few_tiles(plan, parts, _MANY_TILES, _SUMS_SIZE)
        return few or self._few_tiles(plan, ranges, _MANY_TILES, _FILTERS_SIZE)

    def _passes_blocked(self, plan: Plan) -> bool:
        """Tell whether tasks of the forward pass and of the gradient by input go over channels."""
        if self.over != "rule":
            return self.over == "channels"
        return self._few_tiles(plan, len(plan.ranges), _FEW_TILES, _FILTERS_SIZE)

    def _sizes(self, plan: Plan) -> WinogradSizes:
        rows, columns, channels = self.conv_shape
        pool_rows = self.pool[0] if self.pool else 0
        blocked = self._passes_blocked(plan)
        return WinogradSizes(self.tile, self.in_shape[2], rows, columns, channels, pool_rows, blocked=blocked)

    def _backward_sizes(self, plan: Plan) -> BackwardSizes:
        rows, columns, _ = self.in_shape
        top, left = self.pads[0][0], self.pads[1][0]
        return BackwardSizes(self._sizes(plan), rows, columns, top, left, self._sums_blocked(plan))

    @property
    def sums(self) -> PartialSums:
        """The partial sums of both gradients: each is transformed back, so it should be of a few tiles."""
        return replace(super().sums, least_images=-(-_PART_TILES // self._tiles))

    @property
    def _bias_sums(self) -> PartialSums | None:
        """The partial sums of the bias gradient, where the filters' has none."""
        return PartialSums(self.name, self.bias, None, 0) if self.bias else None

    def _by_filter_scratch(self, plan: Plan) -> int:
        """Return where the gradient by filter has its scratch: behind that by input, where they share tasks."""
        backward = self._backward_sizes(plan)
        return 0 if backward.sums_blocked else backward.by_input.scratch

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
            arena.reserve((self.name, "forward panels"), sizes.filters, needed=plan.needed_forward(self.name))
        if not plan.training:
            return
        if self.pool:
            self._reserve_choice(plan)
        backward, needed = self._backward_sizes(plan), plan.needed_backward(self.name)
        by_input, by_filter = backward.by_input, backward.by_filter
        plan.want_scratch(self._by_filter_scratch(plan) + by_filter.scratch)
        plan.want_scratch(by_input.scratch)
        if plan.wants_gradient(self.inputs[0]) and not sizes.blocked:
            arena.reserve((self.name, "backward panels"), by_input.filters, needed=needed)
        if by_filter.blocked:
            arena.reserve_once(self._held(plan), plan.batch, FLOAT * backward.image, kept=True)
            arena.reserve((self.name, "partials"), len(plan.ranges), FLOAT * self.conv_shape[2], needed)
            plan.reserve_gradients(self.name, self.filter)
        else:
            arena.reserve_once(self._held(plan), plan.workers, FLOAT * backward.scratch, kept=True)
            self.sums.reserve(plan)

    def _held(self, plan: Plan) -> Hashable:
        """Return the name of the buffer where output gradients are held, with zeros around them that nobody overwrites.

        Layers of equal images share one.
        """
        backward = self._backward_sizes(plan)
        worker = 0 if backward.sums_blocked else backward.scratch
        return ("output gradients", worker, backward.image, backward.row, backward.inside, self.conv_shape)

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
        sums = self._bias_sums if self._sums_blocked(plan) else self.sums
        if sums:
            sums.record(plan)

    def _record_backward(self, plan: Plan) -> None:
        backward = self._backward_sizes(plan)
        by_input = plan.wants_gradient(self.inputs[0]) and not backward.layer.blocked
        partials, blocked = self.sums.address(plan), backward.sums_blocked
        plan.keep(
            f"{self.name} backward",
            winograd_gradients.BACKWARD,
            convolution=plan.record_address(f"{self.name} expansion"),
            by_input=plan.record_address(f"{self.name} by input") if by_input else 0,
            by_filter=plan.record_address(f"{self.name} by filter"),
            group=backward.group,
            held=plan.arena.address(self._held(plan)),
            held_worker=0 if blocked else backward.scratch,
            held_image=backward.image,
            inside=backward.inside,
            window=backward.window,
            bias_sums=partials if blocked else partials + FLOAT * self.filter.size,
            bias_sums_step=self.conv_shape[2] if blocked else self.sums.size,
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
            input=plan.arena.address(self._held(plan)) + FLOAT * backward.window,
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
        plan.keep(
            f"{self.name} by filter",
            winograd_gradients.FILTER_SUMS,
            layer=plan.record_address(self.name),
            gradient=plan.arena.address(self._held(plan)) + FLOAT * backward.inside,
            gradient_image=backward.image,
            gradient_row=backward.row,
            block=sizes.block,
            channel_block=sizes.channel_block,
            out_block=sizes.out_block,
            scratch=plan.scratch + FLOAT * self._by_filter_scratch(plan),
            scratch_worker=plan.scratch_worker,
            inputs_row=sizes.inputs_row,
            inputs_point=sizes.inputs_point,
            gradients=sizes.gradients,
            gradients_row=sizes.gradients_row,
            gradients_point=sizes.gradients_point,
            sums=sizes.sums,
            sums_point=sizes.sums_point,
            target=plan.weights_gradient(self.filter) if sizes.blocked else self.sums.address(plan),
            part_size=0 if sizes.blocked else self.sums.size,
        )

    # ---- tasks -------------------------------------------------------------------------------------------------------

    def forward(self, step: StepBuilder) -> None:
        """By ranges of images and blocks of output channels."""
        plan = step.plan

        def reads(first: int, last: int) -> list[Span]:
            return [plan.values(self.inputs[0], first, last)]

        def writes(first: int, last: int) -> list[Span]:
            return [plan.values(self.output, first, last), *self._choices(plan, first, last)]

        sizes = self._sizes(plan)
        if not sizes.blocked:
            self._pack(step, backward=False)
        self._convolve(step, "forward", self.name, sizes, reads, writes)

    def _convolve(
        self, step: StepBuilder, what: str, name: str, sizes: WinogradSizes, reads: ImageSpans, writes: ImageSpans
    ) -> None:
        plan, blocks = step.plan, sizes.out_blocks
        if sizes.blocked:
            ranges = split(plan.batch, -(-plan.batch * self._tiles // sizes.block))
            filters = plan.parameter_span("weights", self.filter)
        else:
            ranges = plan.ranges
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
                    [span.striped(block, blocks, self.name) for span in writes(first, last)],
                    block,
                )

    def backward(self, step: StepBuilder) -> None:
        """By ranges of images; what they leave to tasks over channels, by blocks of those."""
        plan = step.plan
        backward, wanted = self._backward_sizes(plan), plan.wants_gradient(self.inputs[0])
        if not backward.sums_blocked:
            super().backward(step)
            return
        self._over_images(step, wanted and not backward.layer.blocked)
        if wanted and backward.layer.blocked:

            def reads(first: int, last: int) -> list[Span]:
                return [plan.arena.span(self._held(plan), first, last)]

            def writes(first: int, last: int) -> list[Span]:
                return [plan.gradients(self.inputs[0], first, last)]

            self._convolve(step, "by input", f"{self.name} by input", backward.by_input, reads, writes)
        self._by_filter(step, backward.by_filter.blocks)
        if self._bias_sums:
            self._bias_sums.reduce(step)
        step.update(self.name, self.filter)

    def _over_images(self, step: StepBuilder, by_input: bool) -> None:
        """Add the tasks that undo pooling and rectifier, and those that take the gradient by input, too."""
        plan, (source,) = step.plan, self.inputs
        cost = self.conv_shape[0] * self.conv_shape[1] * self.conv_shape[2] * NS_PER_ELEMENT
        if by_input:
            self._pack(step, backward=True)
            cost += self.multiply_adds * NS_PER_MULTIPLY_ADD
        record, kernel = plan.record_address(f"{self.name} backward"), winograd_gradients.winograd_backward
        for part, (first, last) in enumerate(plan.ranges):
            reads = [plan.gradients(self.output, first, last), plan.values(self.output, first, last)]
            reads += self._choices(plan, first, last)
            held = plan.arena.span(self._held(plan), first, last)
            writes = [held, plan.arena.span((self.name, "partials"), part, part + 1)]
            if by_input:
                reads.append(plan.arena.whole((self.name, "backward panels")))
                writes.append(plan.gradients(source, first, last))
            step.add(f"{self.name} backward", kernel, record, (first, last), (last - first) * cost, reads, writes, part)

    def _by_filter(self, step: StepBuilder, blocks: int) -> None:
        plan, everything = step.plan, (0, step.plan.batch)
        reads = [plan.arena.whole(self._held(plan)), plan.values(self.inputs[0], *everything)]
        gradient = plan.parameter_span("gradient", self.filter)
        cost = plan.batch * self.multiply_adds * NS_PER_MULTIPLY_ADD / blocks
        record, kernel = plan.record_address(f"{self.name} by filter"), winograd_gradients.winograd_by_filter
        for block in range(blocks):
            writes = [gradient.striped(block, blocks, self.name)]
            step.add(f"{self.name} by filter", kernel, record, everything, cost, reads, writes, block)


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
