"""The plan of a step: buffers in one arena, a record per operation, and the task graph over them.

Forward and backward tasks of a convolution cover the same ranges of images, so a chain over one range stays on the
thread that began it. Ranges and partial sums depend on the network and the batch size only, never on the number of
threads: a run repeats bit for bit on any number.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bptcnn.inner.buffers import Arena, activation_for, gradient_halo
from bptcnn.inner.executor import end_of_step
from bptcnn.inner.graph import GraphBuilder, Task, TaskGraph
from bptcnn.inner.operations import Convolution, FullyConnected, Operation, Pooling, operations
from bptcnn.kernels import convolution, dense, loading, loss, pooling, update
from bptcnn.kernels.unit import COLUMNS, ROWS
from bptcnn.networks import Network

_RANGES = 16  # tasks over the images of a batch: enough to balance, long enough to hide scheduling
_PARTIAL_BYTES = 32 << 20  # most memory for one layer's partial sums
_SPAN = 32768  # weights in one reduction or update task: 128 KiB
_NS_PER_MULTIPLY_ADD = 0.01  # first estimates, replaced by measured costs
_NS_PER_ELEMENT = 0.2

FLOAT = 4  # bytes


@dataclass(frozen=True)
class Settings:
    """What changes from step to step, as words and numbers that kernels read through their addresses."""

    words: npt.NDArray[np.int64]  # images, samples address, samples are bytes, order address, labels address, correct
    numbers: npt.NDArray[np.float32]  # learning rate (NaN: no update), momentum, weight decay, loss

    @classmethod
    def create(cls) -> "Settings":
        """Return settings of a step that does nothing yet."""
        return cls(np.zeros(6, np.int64), np.full(4, np.nan, np.float32))

    def word(self, index: int) -> int:
        """Address of a word."""
        return int(self.words.ctypes.data) + 8 * index

    def number(self, index: int) -> int:
        """Address of a number."""
        return int(self.numbers.ctypes.data) + FLOAT * index


IMAGES, SAMPLES, BYTES, ORDER, LABELS, CORRECT = range(6)
RATE, MOMENTUM, DECAY, LOSS = range(4)


@dataclass(frozen=True)
class Vectors:
    """Addresses of the flat vectors; 0 for gradient and velocity in a plan that does not train."""

    weights: int
    gradient: int
    velocity: int


class Plan:
    """Buffers, records and the graph of one network at one batch size; `training` adds the backward pass."""

    def __init__(self, network: Network, batch: int, workers: int, training: bool) -> None:
        self.operations = operations(network)
        self.batch = batch
        self.workers = workers
        self.training = training
        self.settings = Settings.create()
        self.arena = Arena()
        self.ranges = _split(batch, min(batch, _RANGES))
        shapes = [network.input_shape, *(_out_shape(op) for op in self.operations)]
        self.activations = [
            activation_for(shape, self.operations[i] if i < len(self.operations) else None)
            for i, shape in enumerate(shapes)
        ]
        self._offsets: dict[tuple[str, int], int] = {}
        self._reserve(network)
        self._base = self.arena.allocate()
        self.vectors = Vectors(*(self.address(name, 0) for name in ("weights", "gradient", "velocity")))
        self._records: list[npt.NDArray[np.void]] = []
        self._tables: list[npt.NDArray[np.int64]] = []
        self.graph = self._build(network)

    def address(self, name: str, index: int) -> int:
        """Return the address of a reserved buffer, or 0 where this plan has none."""
        offset = self._offsets.get((name, index))
        return 0 if offset is None else self._base + offset

    @property
    def logits(self) -> npt.NDArray[np.float32]:
        """The last activation, (batch, classes)."""
        last = len(self.operations)
        flat = self.arena.view(self.address("activation", last), self.batch * self.activations[last].elements)
        return flat.view(np.float32).reshape(self.batch, -1)

    # -- buffers ------------------------------------------------------------------------------------------------------

    def _put(self, name: str, index: int, size: int) -> None:
        self._offsets[name, index] = self.arena.reserve(size)

    def _reserve(self, network: Network) -> None:
        self._put("weights", 0, FLOAT * network.size)
        if self.training:
            self._put("gradient", 0, FLOAT * network.size)
            self._put("velocity", 0, FLOAT * network.size)
        for index, activation in enumerate(self.activations):
            self._put("activation", index, FLOAT * self.batch * activation.image)
            if self.training and index > 0:
                self._put("activation gradient", index, FLOAT * self.batch * activation.elements)
        for index, op in enumerate(self.operations):
            if isinstance(op, Convolution):
                self._reserve_convolution(index, op)
            elif self.training and isinstance(op, Pooling):
                self._put("choice", index, self.batch * self.activations[index + 1].elements)
            elif self.training and isinstance(op, FullyConnected):
                panels = -(-self.batch // COLUMNS)
                self._put("gradient panels", index, FLOAT * panels * op.outputs * COLUMNS)
                self._put("scratch", index, FLOAT * self.workers * dense.BLOCK * COLUMNS)

    def _reserve_convolution(self, index: int, op: Convolution) -> None:
        _, columns, channels = op.conv_shape
        window = op.kernel[0] * op.kernel[1]
        self._put("forward panels", index, FLOAT * window * op.in_shape[2] * _rounded(channels))
        if op.pool:
            self._put("scratch", index, FLOAT * self.workers * op.pool[0] * columns * channels)
        if not self.training:
            return
        if op.pool:
            self._put("choice", index, self.batch * self.activations[index + 1].elements)
        if index > 0:
            self._put("backward panels", index, FLOAT * window * channels * _rounded(op.in_shape[2]))
        halo = gradient_halo(op)
        self._put("gradient scratch", index, FLOAT * self.workers * halo.rows * halo.columns * channels)
        self._put("partials", index, FLOAT * len(self.parts(op)) * _part_size(op))

    def parts(self, op: Convolution) -> list[tuple[int, int]]:
        """Return the image ranges of a convolution's backward tasks: fewer where partial sums take much memory."""
        most = max(1, _PARTIAL_BYTES // (FLOAT * _part_size(op)))
        return self.ranges if len(self.ranges) <= most else _split(self.batch, most)

    # -- records ------------------------------------------------------------------------------------------------------

    def _record(self, dtype: np.dtype[np.void], **values: float) -> int:
        """Keep a record of an operation; return its address."""
        record = np.zeros(1, dtype)
        for name, value in values.items():
            record[0][name] = value
        self._records.append(record)
        return int(record.ctypes.data)

    def _table(self, offsets: npt.ArrayLike) -> int:
        """Keep a table of row offsets; return its address."""
        table = np.ascontiguousarray(offsets, np.int64).ravel()
        self._tables.append(table)
        return int(table.ctypes.data)

    def _inside(self, index: int) -> int:
        return self.address("activation", index) + FLOAT * self.activations[index].inside

    def _convolution_record(self, index: int, op: Convolution) -> int:
        source, target = self.activations[index], self.activations[index + 1]
        halo = gradient_halo(op)
        gradient_row = halo.columns * op.conv_shape[2]
        window_row = np.arange(op.kernel[1] * op.in_shape[2])
        return self._record(
            convolution.CONVOLUTION,
            batch=self.settings.word(IMAGES),
            input=self.address("activation", index),
            input_image=source.image,
            input_row=source.row,
            channels=op.in_shape[2],
            height=op.in_shape[0],
            width=op.in_shape[1],
            kernel_rows=op.kernel[0],
            kernel_columns=op.kernel[1],
            stride_rows=op.stride[0],
            stride_columns=op.stride[1],
            padding_top=op.pads[0][0],
            padding_left=op.pads[1][0],
            pixel_offsets=self._table(np.arange(ROWS) * op.stride[1] * op.in_shape[2]),
            gradient_offsets=self._table(np.arange(ROWS) * op.conv_shape[2]),
            tap_offsets=self._table(np.arange(op.kernel[0])[:, None] * source.row + window_row),
            filters=self.vectors.weights + FLOAT * op.filter.offset,
            forward_panels=self.address("forward panels", index),
            backward_panels=self.address("backward panels", index),
            bias=self.vectors.weights + FLOAT * op.bias.offset if op.bias else 0,
            out_channels=op.conv_shape[2],
            out_rows=op.conv_shape[0],
            out_columns=op.conv_shape[1],
            output=self._inside(index + 1),
            output_image=target.image,
            output_row=target.row,
            pool_rows=op.pool[0] if op.pool else 0,
            pool_columns=op.pool[1] if op.pool else 0,
            pooled_rows=op.out_shape[0],
            pooled_columns=op.out_shape[1],
            choice=self.address("choice", index),
            rectified=op.rectified,
            scratch=self.address("scratch", index),
            scratch_worker=op.pool[0] * op.conv_shape[1] * op.conv_shape[2] if op.pool else 0,
            output_gradient=self.address("activation gradient", index + 1),
            input_gradient=self.address("activation gradient", index),
            gradient_scratch=self.address("gradient scratch", index),
            gradient_scratch_worker=halo.rows * gradient_row,
            halo_top=halo.top,
            halo_left=halo.left,
            gradient_row=gradient_row,
            partials=self.address("partials", index),
            part_size=_part_size(op),
            floor=0.0 if op.rectified else -np.inf,
        )

    def _pooling_record(self, index: int, op: Pooling) -> int:
        source, target = self.activations[index], self.activations[index + 1]
        return self._record(
            pooling.POOLING,
            batch=self.settings.word(IMAGES),
            input=self._inside(index),
            input_image=source.image,
            input_row=source.row,
            channels=op.in_shape[2],
            height=op.in_shape[0],
            width=op.in_shape[1],
            window_rows=op.window[0],
            window_columns=op.window[1],
            stride_rows=op.stride[0],
            stride_columns=op.stride[1],
            output=self._inside(index + 1),
            output_image=target.image,
            output_row=target.row,
            out_rows=op.out_shape[0],
            out_columns=op.out_shape[1],
            choice=self.address("choice", index),
            output_gradient=self.address("activation gradient", index + 1),
            input_gradient=self.address("activation gradient", index),
        )

    def _dense_record(self, index: int, op: FullyConnected) -> int:
        gradient = self.vectors.gradient
        return self._record(
            dense.DENSE,
            batch=self.settings.word(IMAGES),
            input=self._inside(index),
            inputs=op.inputs,
            weights=self.vectors.weights + FLOAT * op.weights.offset,
            outputs=op.outputs,
            bias=self.vectors.weights + FLOAT * op.bias.offset if op.bias else 0,
            output=self._inside(index + 1),
            rectified=op.rectified,
            output_gradient=self.address("activation gradient", index + 1),
            gradient_panels=self.address("gradient panels", index),
            input_gradient=self.address("activation gradient", index),
            weight_gradient=gradient + FLOAT * op.weights.offset,
            bias_gradient=gradient + FLOAT * op.bias.offset if op.bias else 0,
            scratch=self.address("scratch", index),
            image_offsets=self._table(np.arange(ROWS) * op.inputs),
            unit_offsets=self._table(np.arange(ROWS)),
            weight_offsets=self._table(np.arange(ROWS) * op.outputs),
            scratch_worker=dense.BLOCK * COLUMNS,
            floor=0.0 if op.rectified else -np.inf,
        )

    # -- tasks --------------------------------------------------------------------------------------------------------

    def _build(self, network: Network) -> TaskGraph:
        builder = GraphBuilder()
        records = [self._operation_record(index, op) for index, op in enumerate(self.operations)]
        done = self._add_loading(builder)
        for index, op in enumerate(self.operations):
            done = self._add_forward(builder, records[index], index, op, done)
        if self.training:
            self._add_backward(builder, records, self._add_loss(builder, network, done))
        return builder.build(end_of_step)

    def _operation_record(self, index: int, op: Operation) -> int:
        if isinstance(op, Convolution):
            return self._convolution_record(index, op)
        return self._pooling_record(index, op) if isinstance(op, Pooling) else self._dense_record(index, op)

    def _add_loading(self, builder: GraphBuilder) -> "Done":
        target = self.activations[0]
        record = self._record(
            loading.LOADING,
            batch=self.settings.word(IMAGES),
            samples=self.settings.word(SAMPLES),
            bytes=self.settings.word(BYTES),
            order=self.settings.word(ORDER),
            rows=target.shape[0],
            line=target.shape[1] * target.shape[2],
            output=self._inside(0),
            output_image=target.image,
            output_row=target.row,
        )
        done = Done()
        for first, last in self.ranges:
            cost = (last - first) * target.elements * _NS_PER_ELEMENT
            task = Task("load", loading.load_images, record, first, last, 0, cost)
            done.add(first, last, builder.add(task, ()))
        return done

    def _add_forward(self, builder: GraphBuilder, record: int, index: int, op: Operation, ready: "Done") -> "Done":
        done = Done()
        if isinstance(op, FullyConnected):
            cost = self.batch * op.multiply_adds * _NS_PER_MULTIPLY_ADD
            panels = -(-op.outputs // COLUMNS)
            for first in range(panels):
                task = Task(f"{op.name} forward", dense.dense, record, first, first + 1, 0, cost / panels)
                done.add(0, self.batch, builder.add(task, ready.all()))
            return done
        packing: list[int] = []
        if isinstance(op, Convolution):
            kernel = convolution.convolve
            cost = op.multiply_adds * _NS_PER_MULTIPLY_ADD
            packing = self._add_packing(builder, record, op, backward=False)
        else:
            kernel, cost = pooling.pool, self.activations[index].elements * _NS_PER_ELEMENT
        for first, last in self.ranges:
            task = Task(f"{op.name} forward", kernel, record, first, last, 0, (last - first) * cost)
            done.add(first, last, builder.add(task, [*ready.over(first, last), *packing]))
        return done

    def _add_packing(self, builder: GraphBuilder, record: int, op: Convolution, backward: bool) -> list[int]:
        kernel = convolution.pack_backward if backward else convolution.pack_forward
        panels = -(-(op.in_shape[2] if backward else op.conv_shape[2]) // COLUMNS)
        cost = op.filter.size * _NS_PER_ELEMENT / panels
        label = f"{op.name} pack {'backward' if backward else 'forward'}"
        return [builder.add(Task(label, kernel, record, p, p + 1, 0, cost), ()) for p in range(panels)]

    def _add_loss(self, builder: GraphBuilder, network: Network, ready: "Done") -> "Done":
        last = len(self.operations)
        record = self._record(
            loss.LOSS,
            batch=self.settings.word(IMAGES),
            labels=self.settings.word(LABELS),
            order=self.settings.word(ORDER),
            logits=self.address("activation", last),
            classes=network.classes,
            gradient=self.address("activation gradient", last),
            loss=self.settings.number(LOSS),
            correct=self.settings.word(CORRECT),
        )
        cost = self.batch * network.classes * 10.0
        done = Done()
        task = Task("loss", loss.softmax_cross_entropy, record, 0, self.batch, 0, cost)
        done.add(0, self.batch, builder.add(task, ready.all()))
        return done

    def _add_backward(self, builder: GraphBuilder, records: list[int], ready: "Done") -> None:
        vectors = self.vectors
        sgd = self._record(
            update.UPDATE,
            settings=self.settings.number(RATE),
            weights=vectors.weights,
            gradient=vectors.gradient,
            velocity=vectors.velocity,
        )
        for index in range(len(self.operations) - 1, -1, -1):
            op, record = self.operations[index], records[index]
            if isinstance(op, FullyConnected):
                ready = self._add_dense_backward(builder, record, index, op, ready, sgd)
            elif isinstance(op, Convolution):
                ready = self._add_convolution_backward(builder, record, index, op, ready, sgd)
            elif index > 0:
                done = Done()
                for first, last in self.ranges:
                    cost = (last - first) * self.activations[index].elements * _NS_PER_ELEMENT
                    task = Task(f"{op.name} backward", pooling.pool_backward, record, first, last, 0, cost)
                    done.add(first, last, builder.add(task, ready.over(first, last)))
                ready = done

    def _add_dense_backward(
        self, builder: GraphBuilder, record: int, index: int, op: FullyConnected, ready: "Done", sgd: int
    ) -> "Done":
        elements = self.batch * op.outputs
        mask = Task(f"{op.name} mask", dense.dense_gradient, record, 0, 1, 0, elements * _NS_PER_ELEMENT * 2)
        masked = builder.add(mask, ready.all())
        done = Done()
        rows = max(1, _SPAN // op.outputs)
        spans = _split(op.inputs, -(-op.inputs // rows))
        for first, last in spans:
            cost = (last - first) * elements * _NS_PER_MULTIPLY_ADD
            reads: list[int] = []
            if index > 0:
                task = Task(f"{op.name} by input", dense.dense_gradient_by_input, record, first, last, 0, cost)
                reads = [builder.add(task, [masked])]
                done.add(0, self.batch, reads[0])
            task = Task(f"{op.name} by weight", dense.dense_gradient_by_weight, record, first, last, 0, cost)
            computed = builder.add(task, [masked])
            begin = op.weights.offset + first * op.outputs
            self._add_update(builder, op.name, sgd, begin, begin + (last - first) * op.outputs, [*reads, computed])
        if op.bias:
            self._add_update(builder, op.name, sgd, op.bias.offset, op.bias.offset + op.bias.size, [masked])
        return done

    def _add_convolution_backward(
        self, builder: GraphBuilder, record: int, index: int, op: Convolution, ready: "Done", sgd: int
    ) -> "Done":
        packing = self._add_packing(builder, record, op, backward=True) if index > 0 else []
        parts = self.parts(op)
        cost = op.multiply_adds * _NS_PER_MULTIPLY_ADD * (2 if index > 0 else 1)
        done = Done()
        for part, (first, last) in enumerate(parts):
            task = Task(
                f"{op.name} backward", convolution.convolve_backward, record, first, last, part, (last - first) * cost
            )
            done.add(first, last, builder.add(task, [*ready.over(first, last), *packing]))
        size = op.filter.size + (op.bias.size if op.bias else 0)
        reduction = self._record(
            update.REDUCTION,
            partials=self.address("partials", index),
            parts=len(parts),
            part_size=_part_size(op),
            gradient=self.vectors.gradient + FLOAT * op.filter.offset,
        )
        spans = _split(size, -(-size * len(parts) // _SPAN) if size > len(parts) else 1)
        for first, last in spans:
            cost = (last - first) * len(parts) * _NS_PER_ELEMENT
            task = Task(f"{op.name} reduce", update.reduce_partials, reduction, first, last, 0, cost)
            reduced = builder.add(task, done.all())
            self._add_update(builder, op.name, sgd, op.filter.offset + first, op.filter.offset + last, [reduced])
        return done

    def _add_update(self, builder: GraphBuilder, name: str, sgd: int, first: int, last: int, after: list[int]) -> None:
        cost = (last - first) * _NS_PER_ELEMENT
        builder.add(Task(f"{name} update", update.sgd, sgd, first, last, 0, cost), after)


class Done:
    """Which task finishes which images of an activation."""

    def __init__(self) -> None:
        self._entries: list[tuple[int, int, int]] = []

    def add(self, first: int, last: int, task: int) -> None:
        """Images [first, last) need `task`."""
        self._entries.append((first, last, task))

    def over(self, first: int, last: int) -> list[int]:
        """Return the tasks that images [first, last) need."""
        return [task for begin, end, task in self._entries if begin < last and first < end]

    def all(self) -> list[int]:
        """Return all tasks."""
        return [task for _, _, task in self._entries]


def _out_shape(op: Operation) -> tuple[int, ...]:
    return (op.outputs,) if isinstance(op, FullyConnected) else op.out_shape


def _split(total: int, parts: int) -> list[tuple[int, int]]:
    parts = max(1, min(parts, total))
    return [(total * i // parts, total * (i + 1) // parts) for i in range(parts)]


def _rounded(channels: int) -> int:
    return -(-channels // COLUMNS) * COLUMNS


def _part_size(op: Convolution) -> int:
    return op.filter.size + op.conv_shape[2]
