"""A convolution of small images: tiles over the images of the batch, tasks over channels; no partial sums."""

from dataclasses import dataclass

from bptcnn.inner.arena import FLOAT, Span
from bptcnn.inner.convolution import Convolution
from bptcnn.inner.plan import Plan, split
from bptcnn.inner.tasks import NS_PER_ELEMENT, NS_PER_MULTIPLY_ADD, SPAN, StepBuilder
from bptcnn.inner.values import Halo, skewed
from bptcnn.kernels import convolution, small_images
from bptcnn.kernels.unit import COLUMNS

_MOST_PIXELS = 16  # of an output image: rows of a tile over pixels would be mostly empty
_PIXELS_LIMIT = 64  # beyond, there are enough of them on any CPU
_LEAST_CHANNELS = 64  # with fewer, tasks over channels are too few


def crosses_images(in_shape: tuple[int, int, int], out_shape: tuple[int, int, int]) -> bool:
    """Tell whether a convolution is mostly better computed across images."""
    return out_shape[0] * out_shape[1] <= _MOST_PIXELS and may_cross_images(in_shape, out_shape)


def may_cross_images(in_shape: tuple[int, int, int], out_shape: tuple[int, int, int]) -> bool:
    """Tell whether a convolution may be better computed across images."""
    rows, columns, channels = out_shape
    return rows * columns <= _PIXELS_LIMIT and min(channels, in_shape[2]) >= _LEAST_CHANNELS


@dataclass(frozen=True)
class SmallImagesConvolution(Convolution):
    """Across images; what pads is left out, so there is no halo."""

    def halo(self, position: int) -> Halo:
        """Nothing is read around an image."""
        return Halo()

    @property
    def across_images(self) -> bool:
        """Always."""
        return True

    @property
    def _gradient_image(self) -> int:
        rows, columns, channels = self.conv_shape
        return skewed(rows * columns * channels)

    def reserve(self, plan: Plan) -> None:
        """Reserve packed filters, and the output gradient with the rectifier undone."""
        window = self.kernel[0] * self.kernel[1]
        size = window * self.in_shape[2] * COLUMNS * self.forward_panels
        plan.arena.reserve((self.name, "forward panels"), size, needed=plan.needed_forward(self.name))
        if not plan.training:
            return
        if plan.wants_gradient(self.inputs[0]):
            size = window * self.conv_shape[2] * COLUMNS * self.backward_panels
            plan.arena.reserve((self.name, "backward panels"), size, needed=plan.needed_backward(self.name))
        needed = plan.needed_backward(self.name)
        plan.arena.reserve((self.name, "gradient"), plan.batch, FLOAT * self._gradient_image, needed)
        plan.reserve_gradients(self.name, self.filter, self.bias)

    def record(self, plan: Plan) -> None:
        """Fill the records."""
        plan.keep(self.name, convolution.CONVOLUTION, **self.fields(plan))
        plan.keep(
            f"{self.name} across",
            small_images.SMALL_IMAGES,
            convolution=plan.record_address(self.name),
            gradient=plan.arena.address((self.name, "gradient")),
            gradient_image=self._gradient_image,
            filter_gradient=plan.weights_gradient(self.filter),
            bias_gradient=plan.weights_gradient(self.bias),
        )

    def forward(self, step: StepBuilder) -> None:
        """Pack the filters; then one task per panel of output channels, over all images."""
        plan, record = step.plan, step.plan.record_address(f"{self.name} across")
        self._pack(step, backward=False)
        panels = self.forward_panels
        cost = plan.batch * self.multiply_adds * NS_PER_MULTIPLY_ADD / panels
        reads = [plan.values(self.inputs[0], 0, plan.batch), plan.arena.whole((self.name, "forward panels"))]
        made, kernel = plan.values(self.output, 0, plan.batch), small_images.convolve_small
        for panel in range(panels):
            writes = [made.striped(panel, panels, self.name)]
            step.add(f"{self.name} forward", kernel, record, (panel, panel + 1), cost, reads, writes)

    def backward(self, step: StepBuilder) -> None:
        """Undo the rectifier; then both gradients by channels, and the update."""
        plan, everything = step.plan, (0, step.plan.batch)
        spread = plan.arena.whole((self.name, "gradient"))
        given, made = plan.gradients(self.output, *everything), plan.values(self.output, *everything)
        panels = self.forward_panels
        cost = plan.batch * plan.layout(self.output).elements * NS_PER_ELEMENT / panels
        for panel in range(panels):
            writes = [spread.striped(panel, panels, self.name)]
            if self.bias:
                writes.append(plan.parameter_span("gradient", self.bias).striped(panel, panels, self.name))
            self._add(step, "spread", small_images.spread_gradient, (panel, panel + 1), cost, [given, made], writes)
        if plan.wants_gradient(self.inputs[0]):
            self._by_input(step, spread)
        self._by_weight(step, spread)
        if self.bias:
            step.update(self.name, self.bias)

    def _by_input(self, step: StepBuilder, spread: Span) -> None:
        plan, panels = step.plan, self.backward_panels
        self._pack(step, backward=True)
        cost = plan.batch * self.multiply_adds * NS_PER_MULTIPLY_ADD / panels
        reads = [spread, plan.arena.whole((self.name, "backward panels"))]
        wanted = plan.gradients(self.inputs[0], 0, plan.batch)
        for panel in range(panels):
            writes = [wanted.striped(panel, panels, self.name)]
            self._add(step, "by input", small_images.small_by_input, (panel, panel + 1), cost, reads, writes)

    def _by_weight(self, step: StepBuilder, spread: Span) -> None:
        plan, columns = step.plan, self.conv_shape[2]
        rows = self.filter.size // columns
        reads = [spread, plan.values(self.inputs[0], 0, plan.batch)]
        cost = plan.batch * self.multiply_adds * NS_PER_MULTIPLY_ADD / rows
        for first, last in split(rows, -(-self.filter.size // SPAN)):
            begin, end = first * columns, last * columns
            writes = [plan.parameter_span("gradient", self.filter, begin, end)]
            kernel = small_images.small_by_weight
            self._add(step, "by weight", kernel, (first, last), (last - first) * cost, reads, writes)
            step.update_span(self.name, self.filter, begin, end)

    def _add(
        self,
        step: StepBuilder,
        what: str,
        kernel: int,
        ranged: tuple[int, int],
        cost: float,
        reads: list[Span],
        writes: list[Span],
    ) -> None:
        record = step.plan.record_address(f"{self.name} across")
        step.add(f"{self.name} {what}", kernel, record, ranged, cost, reads, writes)
