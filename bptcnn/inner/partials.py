"""Partial sums of a layer's gradients: a task's own, over its images, added up in fixed order, then the update."""

from dataclasses import dataclass

from bptcnn.inner.arena import FLOAT, Span
from bptcnn.inner.plan import Plan, split
from bptcnn.inner.step_settings import RATE
from bptcnn.inner.tasks import NS_PER_ELEMENT, SPAN, StepBuilder
from bptcnn.kernels import update
from bptcnn.networks import Parameter

MOST_BYTES = 32 << 20
"""Of one layer's partial sums."""

_FEW = 8  # parts that there may be in any case, for the threads


@dataclass(frozen=True)
class PartialSums:
    """Those of operation `name`: a part is the filter's gradient, then the bias's, for `channels` outputs."""

    name: str
    filter: Parameter
    bias: Parameter | None
    channels: int
    wanted: int = 0  # parts; 0: as many as ranges,
    least_images: int = 1  # but of so many images each, where that leaves a few parts

    @property
    def size(self) -> int:
        """Elements of a part, with room for a bias gradient whether there is a bias or not."""
        return self.filter.size + self.channels

    def parts(self, plan: Plan) -> list[tuple[int, int]]:
        """Return the image ranges of the parts: fewer than wanted where they would take much memory."""
        most = max(1, MOST_BYTES // (FLOAT * self.size))
        usual = min(len(plan.ranges), max(_FEW, plan.batch // self.least_images))
        return split(plan.batch, min(self.wanted or usual, most))

    def reserve(self, plan: Plan) -> None:
        """Reserve the parts."""
        needed = plan.needed_backward(self.name)
        plan.arena.reserve((self.name, "partials"), len(self.parts(plan)), FLOAT * self.size, needed)

    def address(self, plan: Plan) -> int:
        """Return the address of the first part, 0 where there is none."""
        return plan.arena.address((self.name, "partials"))

    def span(self, plan: Plan, part: int) -> Span:
        """Return where a part lies."""
        return plan.arena.span((self.name, "partials"), part, part + 1)

    def record(self, plan: Plan) -> None:
        """Fill the record of the reduction."""
        plan.keep(
            f"{self.name} reduction",
            update.REDUCTION,
            partials=self.address(plan),
            parts=len(self.parts(plan)),
            part_size=self.size,
            gradient=plan.weights_gradient(self.filter),
            settings=plan.settings.number(RATE),
            weights=plan.weights(self.filter),
            velocity=plan.arena.address("velocity") + FLOAT * self.filter.offset,
        )

    def reduce(self, step: StepBuilder) -> None:
        """Add the tasks that add up the parts and update filter and bias, which lie one behind the other."""
        plan, parts = step.plan, len(self.parts(step.plan))
        size = self.filter.size + (self.bias.size if self.bias else 0)
        record, sums = plan.record_address(f"{self.name} reduction"), plan.arena.whole((self.name, "partials"))
        for first, last in split(size, -(-size * parts // SPAN)):
            vectors = ("gradient", "weights", "velocity") if plan.keeps_gradient else ("weights", "velocity")
            writes = [plan.parameter_span(vector, self.filter, first, last) for vector in vectors]
            cost = (last - first) * parts * NS_PER_ELEMENT
            step.add(f"{self.name} update", update.reduce_and_update, record, (first, last), cost, [sums], writes)
