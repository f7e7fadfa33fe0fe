"""The batch normalisation of a step, with the addition and the rectifier that follow it, where they do."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bptcnn.inner.addition import pass_gradient
from bptcnn.inner.arena import FLOAT, Span
from bptcnn.inner.operation import GradientUse, Operation
from bptcnn.inner.plan import Plan, split
from bptcnn.inner.step_settings import RATE
from bptcnn.inner.tasks import NS_PER_ELEMENT, StepBuilder
from bptcnn.kernels import normalisation
from bptcnn.networks import Parameter

_GROUP = 128  # channels whose statistics one task puts together


@dataclass(frozen=True)
class Normalisation(Operation):
    """Batch normalisation of input 0, plus input 1 if there is one, then the rectifier.

    `vectors`: of vectors, which behind Flatten lie as images of several rows.
    """

    rectified: bool
    vectors: bool
    momentum: float
    epsilon: float
    scale: Parameter
    offset: Parameter
    mean: Parameter
    log_variance: Parameter

    @property
    def undoes(self) -> bool:
        """The sums of the backward pass undo the rectifier for what is added; else both sweeps do for themselves."""
        return self.rectified and len(self.inputs) > 1

    @property
    def reads_output_back(self) -> bool:
        """Other rectifiers are undone by what the input says."""
        return self.undoes

    def reads_back(self, position: int) -> bool:
        """What is added is not needed again."""
        return position == 0

    @property
    def leaves_turning(self) -> bool:
        """Its gradient is a sum of three terms per element."""
        return True

    def dense(self, position: int) -> bool:
        """A vector's elements lie one behind the other."""
        return self.vectors

    def gradient_use(self, position: int) -> GradientUse:
        """What is added gets the gradient as it is."""
        return "turns" if position == 0 else "passes"

    def gradient_order(self) -> Sequence[int]:
        """What is added comes first: the gradient of input 0 may take the place of the output's."""
        return range(len(self.inputs))[::-1]

    def reserve(self, plan: Plan) -> None:
        """Reserve sums and terms."""
        channels = self.scale.size
        plan.arena.reserve((self.name, "sums"), len(plan.ranges), FLOAT * normalisation.SUMS * channels)
        plan.arena.reserve((self.name, "forward terms"), normalisation.FORWARD_TERMS * channels)
        plan.arena.reserve((self.name, "backward terms"), 3 * channels)
        plan.reserve_gradients(self.name, self.scale, self.offset)

    def record(self, plan: Plan) -> None:
        """Fill the record."""
        rows, columns, channels = plan.layout(self.output).shape
        adds, more = len(self.inputs) > 1, plan.layout(self.inputs[-1])
        plan.keep(
            self.name,
            normalisation.NORMALISATION,
            **plan.image_fields(self),
            rows=rows,
            columns=columns,
            channels=channels,
            addend=plan.inside(self.inputs[1]) if adds else 0,
            addend_image=more.image,
            addend_row=more.row,
            rectified=self.rectified,
            scale=plan.weights(self.scale),
            offset=plan.weights(self.offset),
            mean=plan.weights(self.mean),
            log_variance=plan.weights(self.log_variance),
            scale_gradient=plan.weights_gradient(self.scale),
            offset_gradient=plan.weights_gradient(self.offset),
            ranges=plan.table(plan.ranges),
            parts=len(plan.ranges),
            sums=plan.arena.address((self.name, "sums")),
            forward_terms=plan.arena.address((self.name, "forward terms")),
            backward_terms=plan.arena.address((self.name, "backward terms")),
            settings=plan.settings.number(RATE),
            momentum=self.momentum,
            epsilon=self.epsilon,
        )

    def forward(self, step: StepBuilder) -> None:
        """Statistics by ranges of images, put together, then applied."""
        plan, record, cost = step.plan, step.plan.record_address(self.name), self._cost(step.plan)
        terms = plan.arena.whole((self.name, "forward terms"))
        sums = []
        if plan.training:
            taken = self._images(plan.values, 0, plan)
            step.over_images(
                f"{self.name} forward sums", normalisation.statistics, record, cost, taken, self._sums(plan)
            )
            sums = [plan.arena.whole((self.name, "sums"))]
        kernel = normalisation.finish_statistics if plan.training else normalisation.use_running_statistics
        groups = split(self.scale.size, -(-self.scale.size // _GROUP))
        for index, (first, last) in enumerate(groups):
            parameters, running = (
                [plan.parameter_span("weights", parameter, first, last) for parameter in pair]
                for pair in ((self.scale, self.offset), (self.mean, self.log_variance))
            )
            own = [terms.striped(index, len(groups), self.name)]
            reads, writes = (parameters, [*own, *running]) if plan.training else ([*parameters, *running], own)
            step.add(f"{self.name} forward terms", kernel, record, (first, last), 1e3, [*sums, *reads], writes)

        def needed(first: int, last: int) -> list[Span]:
            return [terms, *(plan.values(value, first, last) for value in self.inputs)]

        made = self._images(plan.values, None, plan)
        step.over_images(f"{self.name} forward", normalisation.normalise, record, 2 * cost, needed, made)

    def backward(self, step: StepBuilder) -> None:
        """Sums by ranges of images, put together, then the gradient by the input."""
        plan, record, cost = step.plan, step.plan.record_address(self.name), self._cost(step.plan)
        forward, backward = (plan.arena.whole((self.name, f"{what} terms")) for what in ("forward", "backward"))

        def read(first: int, last: int) -> list[Span]:
            taken = [forward, plan.values(self.inputs[0], first, last)]
            return [*taken, (plan.values if self.undoes else plan.gradients)(self.output, first, last)]

        def summed(first: int, last: int) -> list[Span]:
            undone = [plan.gradients(self.output, first, last)] if self.undoes else []
            return [*self._sums(plan)(first, last), *undone]

        step.over_images(f"{self.name} backward sums", normalisation.gradient_sums, record, 2 * cost, read, summed)
        gradients = [plan.parameter_span("gradient", p) for p in (self.scale, self.offset)]
        sums = plan.arena.whole((self.name, "sums"))
        everything = (0, self.scale.size)
        step.add(
            f"{self.name} backward terms",
            normalisation.finish_gradients,
            record,
            everything,
            1e3,
            [sums, forward],
            [backward, *gradients],
        )
        for parameter in (self.scale, self.offset):
            step.update(self.name, parameter)
        if len(self.inputs) > 1:
            pass_gradient(step, self, 1)
        if not plan.wants_gradient(self.inputs[0]) or plan.turned_by_producer(self):
            return

        def needed(first: int, last: int) -> list[Span]:
            terms = [forward, backward]
            return [*terms, plan.gradients(self.output, first, last), plan.values(self.inputs[0], first, last)]

        wanted = self._images(plan.gradients, 0, plan)
        step.over_images(f"{self.name} backward", normalisation.normalise_backward, record, 2 * cost, needed, wanted)

    def _cost(self, plan: Plan) -> float:
        return plan.layout(self.inputs[0]).elements * NS_PER_ELEMENT

    def _images(
        self, spans: Callable[[int, int, int], Span], position: int | None, plan: Plan
    ) -> Callable[[int, int], list[Span]]:
        value = self.output if position is None else self.inputs[position]
        return lambda first, last: [spans(value, first, last)]

    def _sums(self, plan: Plan) -> Callable[[int, int], list[Span]]:
        part = {images: index for index, images in enumerate(plan.ranges)}
        return lambda first, last: [plan.arena.span((self.name, "sums"), part[first, last], part[first, last] + 1)]
