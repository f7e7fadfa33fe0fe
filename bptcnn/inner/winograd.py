"""A 3x3 convolution with stride 1 by Winograd's algorithm, forward and both gradients."""

from dataclasses import dataclass

import numpy as np

from bptcnn.inner.arena import FLOAT
from bptcnn.inner.convolution import Convolution
from bptcnn.inner.plan import Plan
from bptcnn.inner.step_settings import IMAGES
from bptcnn.kernels import convolution, winograd, winograd_gradients
from bptcnn.kernels.winograd_sizes import BackwardSizes, FilterSumsSizes, WinogradSizes

_LEAST_CHANNELS = 32  # with fewer the transforms cost more than they save
_CHANNELS_LIMIT = 16  # below, on any CPU
_LEAST_PIXELS = 4  # rows and columns of an output: smaller ones fill no tile


def tile_for(op: Convolution) -> int:
    """Return the outputs per row of a tile with which a convolution is mostly best computed, 0 for directly."""
    fits = min(op.conv_shape[:2]) >= _LEAST_PIXELS and min(op.in_shape[2], op.conv_shape[2]) >= _LEAST_CHANNELS
    return 4 if may_tile(op) and fits else 0


def may_tile(op: Convolution) -> bool:
    """Tell whether a convolution may be better computed by Winograd's algorithm."""
    possible = op.kernel == (3, 3) and op.stride == (1, 1) and max(map(max, op.pads)) <= 2
    return possible and min(op.conv_shape[:2]) >= 2 and min(op.in_shape[2], op.conv_shape[2]) >= _CHANNELS_LIMIT


@dataclass(frozen=True)
class WinogradConvolution(Convolution):
    """With tiles of `tile` x `tile` outputs (2 or 4): F(tile x tile, 3 x 3)."""

    tile: int

    @property
    def _sizes(self) -> WinogradSizes:
        rows, columns, channels = self.conv_shape
        return WinogradSizes(self.tile, self.in_shape[2], rows, columns, channels, self.pool[0] if self.pool else 0)

    @property
    def _backward_sizes(self) -> BackwardSizes:
        return BackwardSizes(self._sizes, self.in_shape[0], self.in_shape[1], self.pads[0][0], self.pads[1][0])

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
        arena, sizes = plan.arena, self._sizes
        arena.reserve((self.name, "forward panels"), sizes.filters, needed=plan.needed_forward(self.name))
        plan.want_scratch(sizes.scratch)
        if not plan.training:
            return
        if self.pool:
            self._reserve_choice(plan)
        backward, summed = self._backward_sizes, FilterSumsSizes(sizes)
        by_input = backward.by_input
        if plan.wants_gradient(self.inputs[0]):
            arena.reserve((self.name, "backward panels"), by_input.filters, needed=plan.needed_backward(self.name))
        plan.want_scratch(by_input.scratch + summed.scratch)
        arena.reserve((self.name, "gradient scratch"), plan.workers * backward.scratch)
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
        backward = self._backward_sizes
        wanted = plan.wants_gradient(self.inputs[0])
        plan.keep(
            f"{self.name} backward",
            winograd_gradients.BACKWARD,
            convolution=plan.record_address(f"{self.name} expansion"),
            by_input=plan.record_address(f"{self.name} by input") if wanted else 0,
            by_filter=plan.record_address(f"{self.name} by filter"),
            group=backward.group,
            scratch=plan.arena.address((self.name, "gradient scratch")),
            scratch_worker=backward.scratch,
            scratch_image=backward.image,
            inside=backward.inside,
            window=backward.window,
        )
        self.sums.record(plan)

    def _record_forward(self, plan: Plan) -> None:
        (source,), target, sizes = self.inputs, self.output, self._sizes
        taken, made = plan.layout(source), plan.layout(target)
        rows, columns = (self.conv_shape[axis] + 2 for axis in (0, 1))
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
            reach_rows=rows,
            reach_columns=columns,
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
            gradient_row=self._backward_sizes.row,
        )

    def _record_by_input(self, plan: Plan) -> None:
        backward = self._backward_sizes
        sizes, (rows, columns, channels) = backward.by_input, self.in_shape
        plan.keep(
            f"{self.name} by input",
            winograd.WINOGRAD,
            **_scratch(plan, sizes),
            batch=plan.settings.word(IMAGES),
            size=self.tile,
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
        backward, sizes = self._backward_sizes, FilterSumsSizes(self._sizes)
        plan.keep(
            f"{self.name} by filter",
            winograd_gradients.FILTER_SUMS,
            layer=plan.record_address(self.name),
            gradient_image=backward.image,
            gradient_row=backward.row,
            block=sizes.block,
            scratch=plan.scratch + FLOAT * backward.by_input.scratch,
            scratch_worker=plan.scratch_worker,
            inputs_row=sizes.inputs_row,
            inputs_point=sizes.inputs_point,
            gradients=sizes.gradients,
            gradients_row=sizes.gradients_row,
            gradients_point=sizes.gradients_point,
            sums=sizes.sums,
            sums_point=sizes.sums_point,
            edge=sizes.edge,
            partials=self.sums.address(plan),
            part_size=self.sums.size,
        )


def _scratch(plan: Plan, sizes: WinogradSizes) -> dict[str, int]:
    """Return the fields that say how a worker's scratch is divided."""
    return {
        "block": sizes.block,
        "scratch": plan.scratch,
        "scratch_worker": plan.scratch_worker,
        "inputs_row": sizes.inputs_row,
        "inputs_point": sizes.inputs_point,
        "products": sizes.products,
        "products_point": sizes.products_point,
        "edge": sizes.edge,
        "band": sizes.band,
    }
