"""The tasks of a step, in program order; what each reads and writes says which must come before it.

Forward and backward tasks of an operation cover the same ranges of images, so a chain over one range stays on the
thread that began it, in its cache.
"""

from collections.abc import Callable, Sequence, Set
from functools import partial

from bptcnn.inner.arena import FLOAT, Span
from bptcnn.inner.executor import end_of_step
from bptcnn.inner.graph import GraphBuilder, Task, TaskGraph
from bptcnn.inner.hazards import Hazards
from bptcnn.inner.plan import Plan, split
from bptcnn.inner.step_settings import BYTES, CORRECT, IMAGES, LABELS, LOSS, ORDER, RATE, SAMPLES
from bptcnn.kernels import loading, loss, update
from bptcnn.networks import Parameter

SPAN = 32768  # weights in one reduction or update task: 128 KiB
NS_PER_MULTIPLY_ADD = 0.01  # first estimates, replaced by measured costs
NS_PER_ELEMENT = 0.2

ImageSpans = Callable[[int, int], Sequence[Span]]
"""What a task over images [first, last) reads or writes."""


class StepBuilder:
    """Builds the task graph of one step: forward, and where the plan is for training, loss, backward and update."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._builder = GraphBuilder()
        self._hazards = Hazards(partial(_join, self._builder))

    def build(self) -> TaskGraph:
        """Return the graph."""
        self._load()
        for op in self.plan.operations:
            op.forward(self)
        if self.plan.training:
            self._loss()
            for op in reversed(self.plan.operations):
                op.backward(self)
        return self._builder.build(end_of_step)

    # ---- what operations add -----------------------------------------------------------------------------------------

    def add(
        self,
        label: str,
        kernel: int,
        record: int,
        ranged: tuple[int, int],
        cost: float,
        reads: Sequence[Span],
        writes: Sequence[Span],
        part: int = 0,
    ) -> int:
        """Add a task over `ranged`; `cost` is a first estimate in nanoseconds."""
        task = Task(label, kernel, record, *ranged, part, cost)
        before = self._hazards.before(reads, writes)
        index = self._builder.add(task, before)
        self._hazards.record(index, reads, writes)
        return index

    def over_images(
        self,
        label: str,
        kernel: int,
        record: int,
        cost: float,
        reads: ImageSpans,
        writes: ImageSpans,
    ) -> None:
        """Add a task per range of images, numbered as parts; `cost` is that of one image."""
        for part, (first, last) in enumerate(self.plan.ranges):
            spans = reads(first, last), writes(first, last)
            self.add(label, kernel, record, (first, last), (last - first) * cost, *spans, part=part)

    def update(self, name: str, parameter: Parameter) -> None:
        """Add the tasks that update a parameter by its gradient."""
        for first, last in split(parameter.size, -(-parameter.size // SPAN)):
            self.update_span(name, parameter, first, last)

    def update_span(self, name: str, parameter: Parameter, begin: int, end: int) -> None:
        """Add the task that updates elements [begin, end), counted from a parameter on, by their gradient."""
        spans = [
            self.plan.parameter_span(vector, parameter, begin, end) for vector in ("gradient", "weights", "velocity")
        ]
        ranged = (parameter.offset + begin, parameter.offset + end)
        record = self._update_record(parameter)
        self.add(f"{name} update", update.sgd, record, ranged, (end - begin) * NS_PER_ELEMENT, spans[:1], spans[1:])

    def _update_record(self, parameter: Parameter) -> int:
        plan, name = self.plan, f"{parameter.name} update"
        if not plan.has_record(name):
            plan.keep(
                name,
                update.UPDATE,
                settings=plan.settings.number(RATE),
                weights=plan.arena.address("weights"),
                gradient=plan.weights_gradient(parameter) - FLOAT * parameter.offset,
                velocity=plan.arena.address("velocity"),
            )
        return plan.record_address(name)

    # ---- what every step has -----------------------------------------------------------------------------------------

    def _load(self) -> None:
        plan, settings = self.plan, self.plan.settings
        target = plan.layout(0)
        record = plan.keep(
            "load",
            loading.LOADING,
            batch=settings.word(IMAGES),
            samples=settings.word(SAMPLES),
            bytes=settings.word(BYTES),
            order=settings.word(ORDER),
            rows=target.shape[0],
            line=target.shape[1] * target.shape[2],
            output=plan.inside(0),
            output_image=target.image,
            output_row=target.row,
        )
        cost = target.elements * NS_PER_ELEMENT
        self.over_images(
            "load", loading.load_images, record, cost, lambda *_: (), lambda first, last: [plan.values(0, first, last)]
        )

    def _loss(self) -> None:
        plan, settings = self.plan, self.plan.settings
        elements = plan.layout(plan.result).elements
        record = plan.keep(
            "loss",
            loss.LOSS,
            batch=settings.word(IMAGES),
            labels=settings.word(LABELS),
            order=settings.word(ORDER),
            logits=plan.inside(plan.result),
            classes=elements,
            gradient=plan.gradient(plan.result),
            loss=settings.number(LOSS),
            correct=settings.word(CORRECT),
        )
        everything = (0, plan.batch)
        reads, writes = [plan.values(plan.result, *everything)], [plan.gradients(plan.result, *everything)]
        self.add("loss", loss.softmax_cross_entropy, record, everything, plan.batch * elements * 10.0, reads, writes)


def _join(builder: GraphBuilder, tasks: Set[int]) -> int:
    return builder.add(Task("join", end_of_step, 0, 0, 0, 0, 0.0), tasks)
