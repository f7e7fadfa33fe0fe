"""The tasks of a step, over a network's storage.

Forward and backward tasks of a convolution cover the same ranges of images, so a chain over one range stays on the
thread that began it.
"""

from bptcnn.inner.executor import end_of_step
from bptcnn.inner.graph import GraphBuilder, Task, TaskGraph
from bptcnn.inner.operations import Convolution, FullyConnected, Operation
from bptcnn.inner.records import Records
from bptcnn.inner.storage import Storage, split
from bptcnn.kernels import convolution, convolution_gradients, dense, loading, loss, pooling, update
from bptcnn.kernels.unit import COLUMNS

_SPAN = 32768  # weights in one reduction or update task: 128 KiB
_NS_PER_MULTIPLY_ADD = 0.01  # first estimates, replaced by measured costs
_NS_PER_ELEMENT = 0.2


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


class StepBuilder:
    """Builds the task graph of one step."""

    def __init__(self, storage: Storage, records: Records) -> None:
        self._storage = storage
        self._records = records
        self._builder = GraphBuilder()

    def build(self) -> TaskGraph:
        """Return the graph: forward, and where the storage is for training, loss, backward and update."""
        records = [self._records.operation(index, op) for index, op in enumerate(self._storage.operations)]
        done = self._add_loading()
        for index, op in enumerate(self._storage.operations):
            done = self._add_forward(records[index], index, op, done)
        if self._storage.training:
            self._add_backward(records, self._add_loss(done))
        return self._builder.build(end_of_step)

    def _add_loading(self) -> Done:
        record = self._records.loading()
        elements = self._storage.activations[0].elements
        done = Done()
        for first, last in self._storage.ranges:
            cost = (last - first) * elements * _NS_PER_ELEMENT
            task = Task("load", loading.load_images, record, first, last, 0, cost)
            done.add(first, last, self._builder.add(task, ()))
        return done

    def _add_forward(self, record: int, index: int, op: Operation, ready: Done) -> Done:
        done = Done()
        if isinstance(op, FullyConnected):
            cost = self._storage.batch * op.multiply_adds * _NS_PER_MULTIPLY_ADD
            panels = -(-op.outputs // COLUMNS)
            for first in range(panels):
                task = Task(f"{op.name} forward", dense.dense, record, first, first + 1, 0, cost / panels)
                done.add(0, self._storage.batch, self._builder.add(task, ready.all()))
            return done
        packing: list[int] = []
        if isinstance(op, Convolution):
            kernel = convolution.convolve
            cost = op.multiply_adds * _NS_PER_MULTIPLY_ADD
            packing = self._add_packing(record, op, backward=False)
        else:
            kernel, cost = pooling.pool, self._storage.activations[index].elements * _NS_PER_ELEMENT
        for first, last in self._storage.ranges:
            task = Task(f"{op.name} forward", kernel, record, first, last, 0, (last - first) * cost)
            done.add(first, last, self._builder.add(task, [*ready.over(first, last), *packing]))
        return done

    def _add_packing(self, record: int, op: Convolution, backward: bool) -> list[int]:
        kernel = convolution_gradients.pack_backward if backward else convolution.pack_forward
        panels = self._storage.backward_panels(op) if backward else -(-op.conv_shape[2] // COLUMNS)
        cost = op.filter.size * _NS_PER_ELEMENT / panels
        label = f"{op.name} pack {'backward' if backward else 'forward'}"
        return [self._builder.add(Task(label, kernel, record, p, p + 1, 0, cost), ()) for p in range(panels)]

    def _add_loss(self, ready: Done) -> Done:
        record = self._records.loss()
        cost = self._storage.batch * self._storage.activations[-1].elements * 10.0
        done = Done()
        task = Task("loss", loss.softmax_cross_entropy, record, 0, self._storage.batch, 0, cost)
        done.add(0, self._storage.batch, self._builder.add(task, ready.all()))
        return done

    def _add_backward(self, records: list[int], ready: Done) -> None:
        sgd = self._records.update()
        for index in range(len(self._storage.operations) - 1, -1, -1):
            op, record = self._storage.operations[index], records[index]
            if isinstance(op, FullyConnected):
                ready = self._add_dense_backward(record, index, op, ready, sgd)
            elif isinstance(op, Convolution):
                ready = self._add_convolution_backward(record, index, op, ready, sgd)
            elif index > 0:
                done = Done()
                for first, last in self._storage.ranges:
                    cost = (last - first) * self._storage.activations[index].elements * _NS_PER_ELEMENT
                    task = Task(f"{op.name} backward", pooling.pool_backward, record, first, last, 0, cost)
                    done.add(first, last, self._builder.add(task, ready.over(first, last)))
                ready = done

    def _add_dense_backward(self, record: int, index: int, op: FullyConnected, ready: Done, sgd: int) -> Done:
        elements = self._storage.batch * op.outputs
        mask = Task(f"{op.name} mask", dense.dense_gradient, record, 0, 1, 0, elements * _NS_PER_ELEMENT * 2)
        masked = self._builder.add(mask, ready.all())
        done = Done()
        rows = max(1, _SPAN // op.outputs)
        spans = split(op.inputs, -(-op.inputs // rows))
        for first, last in spans:
            cost = (last - first) * elements * _NS_PER_MULTIPLY_ADD
            reads: list[int] = []
            if index > 0:
                task = Task(f"{op.name} by input", dense.dense_gradient_by_input, record, first, last, 0, cost)
                reads = [self._builder.add(task, [masked])]
                done.add(0, self._storage.batch, reads[0])
            task = Task(f"{op.name} by weight", dense.dense_gradient_by_weight, record, first, last, 0, cost)
            computed = self._builder.add(task, [masked])
            begin = op.weights.offset + first * op.outputs
            self._add_update(op.name, sgd, begin, begin + (last - first) * op.outputs, [*reads, computed])
        if op.bias:
            self._add_update(op.name, sgd, op.bias.offset, op.bias.offset + op.bias.size, [masked])
        return done

    def _add_convolution_backward(self, record: int, index: int, op: Convolution, ready: Done, sgd: int) -> Done:
        packing = self._add_packing(record, op, backward=True) if index > 0 else []
        parts = self._storage.parts(op)
        cost = op.multiply_adds * _NS_PER_MULTIPLY_ADD * (2 if index > 0 else 1)
        done = Done()
        for part, (first, last) in enumerate(parts):
            task = Task(
                f"{op.name} backward",
                convolution_gradients.convolve_backward,
                record,
                first,
                last,
                part,
                (last - first) * cost,
            )
            done.add(first, last, self._builder.add(task, [*ready.over(first, last), *packing]))
        size = op.filter.size + (op.bias.size if op.bias else 0)
        reduction = self._records.reduction(index, op)
        spans = split(size, -(-size * len(parts) // _SPAN))
        for first, last in spans:
            cost = (last - first) * len(parts) * _NS_PER_ELEMENT
            task = Task(f"{op.name} reduce", update.reduce_partials, reduction, first, last, 0, cost)
            reduced = self._builder.add(task, done.all())
            self._add_update(op.name, sgd, op.filter.offset + first, op.filter.offset + last, [reduced])
        return done

    def _add_update(self, name: str, sgd: int, first: int, last: int, after: list[int]) -> None:
        cost = (last - first) * _NS_PER_ELEMENT
        self._builder.add(Task(f"{name} update", update.sgd, sgd, first, last, 0, cost), after)
