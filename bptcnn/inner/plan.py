"""The plan of a step: which value lies where, which gradients share memory, and the records that kernels read.

Which images make a task follows from network, batch size and tuning only, never from the number of threads, and so
does the number of partial sums: a run repeats bit for bit on any number.
"""

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bptcnn.inner.arena import FLOAT, Arena, Span, Turns
from bptcnn.inner.operation import Operation
from bptcnn.inner.sharing import GradientSharing
from bptcnn.inner.step_settings import IMAGES, StepSettings
from bptcnn.inner.values import Layout, layout_for
from bptcnn.networks import Parameter
from bptcnn.networks.layers import Pair

if TYPE_CHECKING:
    from bptcnn.inner.lowering import Lowered


class Plan:
    """Buffers and records of `lowered` at one batch size; `training` adds those of the backward pass.

    With `keeps_gradient` the parameters' gradient is a vector that lasts; else parts of it, until their update.
    """

    def __init__(
        self,
        lowered: "Lowered",
        batch: int,
        workers: int,
        training: bool,
        settings: StepSettings,
        keeps_gradient: bool = False,
        arena: Arena | None = None,
    ) -> None:
        self.operations = lowered.operations
        self.result = lowered.result
        self.batch = batch
        self.workers = workers
        self.training = training
        self.keeps_gradient = training and keeps_gradient
        self.settings = settings
        self.ranges = split(batch, lowered.ranges)
        self.arena = arena or Arena()
        self._records: dict[str, npt.NDArray[np.void]] = {}
        self._tables: list[npt.NDArray[np.int64]] = []
        skewed = {v for op in self.operations if op.across_images for v in (*op.inputs, op.output)} - {self.result}
        self._layouts = {
            value: layout_for(shape, [op.halo(p) for op, p in lowered.readers(value)], packed=value not in skewed)
            for value, shape in lowered.shapes.items()
        }
        self._sharing = GradientSharing(self.operations)
        self._index = {op.name: index for index, op in enumerate(self.operations)}
        self.scratch_worker = 0  # elements
        self._reserve(lowered.size)

    def _reserve(self, size: int) -> None:
        for name, lasts in (("weights", True), ("gradient", self.keeps_gradient), ("velocity", self.training)):
            if lasts:
                self.arena.reserve(name, size, kept=True)
        for value, layout in self._layouts.items():
            needed = self._value_needed(value)
            haloed = not layout.halo.empty
            self.arena.reserve(
                ("value", value), self.batch, FLOAT * layout.image, needed, FLOAT * layout.behind, haloed
            )
        if self.training:
            for value, layout in self._layouts.items():
                if value != 0 and self._sharing.owner(value) == value:
                    needed = self._sharing.needed(value)
                    self.arena.reserve(("gradient", value), self.batch, FLOAT * layout.elements, needed)
            for value in self._layouts:
                if value != 0 and self._sharing.owner(value) != value:
                    self.arena.share(("gradient", value), ("gradient", self._sharing.owner(value)))
        for op in self.operations:
            op.reserve(self)
        self.arena.reserve("scratch", self.workers, FLOAT * self.scratch_worker)
        self.arena.overlay()

    def _value_needed(self, value: int) -> Turns | None:
        """For good where a halo must keep its fill, and what the caller gives and gets."""
        lasting = value in (0, self.result) or not self._layouts[value].halo.empty
        return None if lasting else self._sharing.value_needed(value, self.training)

    def needed_forward(self, name: str) -> Turns:
        """Return when an operation needs a buffer for its forward tasks, with a turn before for those that fill it."""
        return Turns(self._index[name] - 1, self._index[name])

    def needed_backward(self, name: str) -> Turns:
        """Return when an operation needs a buffer for its backward tasks, with a turn more for the last to end."""
        turn = 2 * len(self.operations) - self._index[name]
        return Turns(turn, turn + 1)

    def needed_between(self, name: str) -> Turns:
        """Return when an operation needs what its forward tasks leave to its backward tasks."""
        return Turns(self._index[name], 2 * len(self.operations) - self._index[name])

    def want_scratch(self, elements: int) -> None:
        """Have every worker's scratch hold so many elements: what one task leaves there, the next may overwrite."""
        self.scratch_worker = max(self.scratch_worker, -(-elements // 16) * 16)

    @property
    def scratch(self) -> int:
        """The address of the first worker's scratch; the next one's is `scratch_worker` elements behind."""
        return self.arena.address("scratch")

    def allocate(self) -> None:
        """Get the memory and fill all records; raise UserError where there is too little."""
        self.arena.allocate()
        for value, layout in self._layouts.items():
            if layout.halo.fill:
                whole = self.arena.view(("value", value), self.batch * layout.image + layout.behind)
                whole[:] = layout.halo.fill
        for op in self.operations:
            op.record(self)

    # ---- values and their gradients ----------------------------------------------------------------------------------

    def inside(self, value: int) -> int:
        """Return the address of pixel (0, 0) of a value's first image, behind the halo."""
        return self.arena.address(("value", value)) + FLOAT * self._layouts[value].inside

    def values(self, value: int, first: int, last: int) -> Span:
        """Return where images [first, last) of a value lie."""
        return self.arena.span(("value", value), first, last)

    def gradients(self, value: int, first: int, last: int) -> Span:
        """Return where the gradients of images [first, last) of a value lie."""
        return self.arena.span(("gradient", value), first, last)

    def gradient(self, value: int) -> int:
        """Return the address of a value's gradient, (images, rows, columns, channels) without halo; 0 for none."""
        return self.arena.address(("gradient", value))

    def wants_gradient(self, value: int) -> bool:
        """Tell whether somebody needs the gradient of a value: not of the network's input."""
        return self.training and value != 0

    def accumulates(self, op: Operation, position: int) -> bool:
        """Tell whether the gradient of an input has been begun when the backward tasks of `op` add theirs."""
        return self._sharing.accumulates(op, position)

    def in_place(self, op: Operation, position: int) -> bool:
        """Tell whether the gradient of an input takes the place of the output's."""
        return self._sharing.in_place(op, position)

    def turned_by_producer(self, op: Operation) -> bool:
        """Tell whether the gradient of input 0 is left to whoever made it: see Operation.turns_on_loading."""
        return self._sharing.turned_by_producer(op)

    def to_turn(self, value: int) -> Operation | None:
        """Return the operation behind a value whose gradient is left to the one that makes it, if there is one."""
        return next((op for op in self.operations if op.inputs[0] == value and self.turned_by_producer(op)), None)

    # ---- parameters --------------------------------------------------------------------------------------------------

    def weights(self, parameter: Parameter | None) -> int:
        """Return the address of a parameter in the weight vector, 0 for none."""
        return 0 if parameter is None else self.arena.address("weights") + FLOAT * parameter.offset

    def reserve_gradients(self, name: str, *parameters: Parameter | None) -> None:
        """Reserve where an operation's tasks leave gradients of its parameters for the update, unless all are kept."""
        for parameter in parameters:
            if parameter is not None and self.training and not self.keeps_gradient:
                needed = self.needed_backward(name)
                self.arena.reserve(("gradient", parameter.name), parameter.size, needed=needed)

    def weights_gradient(self, parameter: Parameter | None) -> int:
        """Return the address of a parameter's gradient, 0 where there is none."""
        if parameter is None:
            return 0
        if self.keeps_gradient:
            return self.arena.address("gradient") + FLOAT * parameter.offset
        return self.arena.address(("gradient", parameter.name))

    def parameter_span(
        self, vector: str, parameter: Parameter, begin: int | None = None, end: int | None = None
    ) -> Span:
        """Return where a parameter lies in "weights", "gradient" or "velocity", or elements [begin, end) from it on.

        Spans from different parameters never meet: an operation names its elements from one and the same parameter on.
        """
        first, last = (0, parameter.size) if begin is None or end is None else (begin, end)
        if vector == "gradient" and not self.keeps_gradient:
            return self.arena.span(("gradient", parameter.name), first, last)
        return Span((vector, parameter.name), first, last)

    # ---- records -----------------------------------------------------------------------------------------------------

    def keep(self, name: str, dtype: np.dtype[np.void], **values: float) -> int:
        """Fill a record that `record_address` finds by name; return its address."""
        record = np.zeros(1, dtype)
        for field, value in values.items():
            record[0][field] = value
        self._records[name] = record
        return int(record.ctypes.data)

    def has_record(self, name: str) -> bool:
        """Tell whether a record of that name is filled."""
        return name in self._records

    def record_address(self, name: str) -> int:
        """Return the address of a record."""
        return int(self._records[name].ctypes.data)

    def table(self, offsets: npt.ArrayLike) -> int:
        """Keep a table of int64 numbers; return its address."""
        table = np.ascontiguousarray(offsets, np.int64).ravel()
        self._tables.append(table)
        return int(table.ctypes.data)

    def image_fields(self, op: Operation, pads: Pair = (0, 0)) -> dict[str, float]:
        """Return what records say that take images from input 0 to the output, and the gradient back.

        `pads`: rows and columns before pixel (0, 0) from which the input counts.
        """
        source, taken, made = op.inputs[0], self.layout(op.inputs[0]), self.layout(op.output)
        return {
            "batch": self.settings.word(IMAGES),
            "input": self.arena.address(("value", source)) + FLOAT * taken.before(pads),
            "input_image": taken.image,
            "input_row": taken.row,
            "output": self.inside(op.output),
            "output_image": made.image,
            "output_row": made.row,
            "output_gradient": self.gradient(op.output),
            "input_gradient": self.gradient(source),
            "accumulate": self.accumulates(op, 0),
        }

    @property
    def logits(self) -> npt.NDArray[np.float32]:
        """What the network puts out, (batch, classes)."""
        layout = self._layouts[self.result]
        return self.arena.view(("value", self.result), self.batch * layout.elements).reshape(self.batch, -1)

    def layout(self, value: int) -> Layout:
        """Return how a value lies in memory."""
        return self._layouts[value]


def split(total: int, parts: int) -> list[tuple[int, int]]:
    """Divide [0, total) into at most `parts` nearly equal ranges."""
    parts = max(1, min(parts, total))
    return [(total * i // parts, total * (i + 1) // parts) for i in range(parts)]
