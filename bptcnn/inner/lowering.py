"""From layers to operations: what runs as one kernel.

Bias, rectifier and pooling that tiles its input ride in the convolution; the addition that ends a residual block, and
its rectifier, ride in the batch normalisation before it. A value is an index: 0 is the network's input.
"""

from dataclasses import dataclass, replace

from bptcnn.inner.convolution import Convolution
from bptcnn.inner.dense import FullyConnected
from bptcnn.inner.elementwise import Addition, Copying
from bptcnn.inner.normalisation import Normalisation
from bptcnn.inner.operation import Operation
from bptcnn.inner.pooling import Pooling
from bptcnn.networks import Application, BatchNorm, Conv2D, Dense, Flatten, MaxPool2D, Network, Sum
from bptcnn.networks.layers import Shape


@dataclass(frozen=True)
class Lowered:
    """Operations in forward order, each value's shape, and the value that holds the logits."""

    operations: tuple[Operation, ...]
    shapes: dict[int, Shape]
    result: int
    size: int  # of the weight vector

    def readers(self, value: int) -> list[tuple[Operation, int]]:
        """Return who reads a value, and as which input."""
        return [(op, position) for op in self.operations for position, v in enumerate(op.inputs) if v == value]


def operations(network: Network) -> tuple[Operation, ...]:
    """Return the operations that compute `network`, in forward order."""
    return lower(network).operations


def lower(network: Network) -> Lowered:
    """Return the operations of `network` with their values."""
    return _Lowering(network).run()


class _Lowering:
    def __init__(self, network: Network) -> None:
        self._network = network
        self._applications = network.applications
        self._alias: dict[int, int] = {}  # values that lie where another one lies
        self._fused: set[int] = set()  # applications that ride in an earlier operation
        self._shapes: dict[int, Shape] = {0: network.input_shape}
        self._found: list[Operation] = []
        self._next = len(self._applications) + 1

    def run(self) -> Lowered:
        for index in range(len(self._applications)):
            if index not in self._fused:
                self._lower(index)
        self._separate_halos()
        result = self._of(len(self._applications))
        return Lowered(tuple(self._found), self._shapes, result, self._network.size)

    # ---- layers ------------------------------------------------------------------------------------------------------

    def _lower(self, index: int) -> None:
        application = self._applications[index]
        layer = application.layer
        inputs = tuple(self._of(value) for value in application.inputs)
        if isinstance(layer, Flatten):
            self._alias[index + 1] = inputs[0]
        elif isinstance(layer, Conv2D):
            self._convolution(index, layer, application, inputs)
        elif isinstance(layer, BatchNorm):
            self._normalisation(index, layer, application, inputs)
        elif isinstance(layer, MaxPool2D):
            before, after = self._image(application.inputs[0]), self._image(index + 1)
            pads = layer.pads(before)
            self._put(
                Pooling(application.name, inputs, index + 1, before, after, layer.window, layer.stride, pads), after
            )
        elif isinstance(layer, Dense):
            weights, bias = application.parameters[0], application.parameters[1] if layer.bias else None
            rectified = layer.activation == "relu"
            (count,) = self._network.shapes[application.inputs[0]]
            op = FullyConnected(application.name, inputs, index + 1, count, layer.units, rectified, weights, bias)
            self._put(op, (layer.units,))
        elif isinstance(layer, Sum):
            addition = Addition(application.name, inputs, index + 1, layer.activation == "relu")
            self._put(addition, self._network.shapes[index + 1])

    def _convolution(self, index: int, layer: Conv2D, application: Application, inputs: tuple[int, ...]) -> None:
        shape, output = self._image(application.inputs[0]), index + 1
        conv_shape = out_shape = self._image(index + 1)
        pool = None
        follower = self._only_reader(index + 1)
        if follower is not None:
            pooling = self._applications[follower].layer
            if isinstance(pooling, MaxPool2D) and _tiles(pooling, conv_shape):
                pool, output = pooling.window, follower + 1
                out_shape = self._image(output)
                self._fused.add(follower)
        op = Convolution(
            name=application.name,
            inputs=inputs,
            output=output,
            in_shape=shape,
            kernel=layer.kernel,
            stride=layer.stride,
            pads=layer.pads(shape),
            conv_shape=conv_shape,
            out_shape=out_shape,
            pool=pool,
            rectified=layer.activation == "relu",
            filter=application.parameters[0],
            bias=application.parameters[1] if layer.bias else None,
        )
        self._put(op, out_shape)

    def _normalisation(self, index: int, layer: BatchNorm, application: Application, inputs: tuple[int, ...]) -> None:
        output, rectified = index + 1, layer.activation == "relu"
        follower = self._only_reader(output)
        if follower is not None and layer.activation is None:
            adding = self._applications[follower]
            others = [value for value in adding.inputs if value != output]
            if isinstance(adding.layer, Sum) and len(others) == 1 and others[0] <= index:
                inputs = (*inputs, self._of(others[0]))
                output, rectified = follower + 1, adding.layer.activation == "relu"
                self._fused.add(follower)
        op = Normalisation(
            application.name,
            inputs,
            output,
            rectified,
            layer.momentum,
            layer.epsilon,
            *application.parameters,
        )
        self._put(op, self._network.shapes[index + 1])

    # ---- values ------------------------------------------------------------------------------------------------------

    def _put(self, op: Operation, shape: Shape) -> None:
        self._found.append(op)
        self._shapes[op.output] = shape

    def _of(self, value: int) -> int:
        return self._alias.get(value, value)

    def _image(self, value: int) -> tuple[int, int, int]:
        rows, columns, channels = self._network.shapes[value]
        return rows, columns, channels

    def _only_reader(self, value: int) -> int | None:
        """Return the one application that reads a value, None where there are several or none."""
        readers = [index for index, found in enumerate(self._applications) for v in found.inputs if v == value]
        return readers[0] if len(readers) == 1 else None

    def _separate_halos(self) -> None:
        """Copy values for readers that want another halo than the first reader, or none at all."""
        found: list[Operation] = []
        halos: dict[int, float | None] = {}  # the fill that a value's readers agree on; None: dense
        copies: dict[tuple[int, float | None], int] = {}
        for op in self._found:
            inputs = list(op.inputs)
            for position, value in enumerate(op.inputs):
                halo = op.halo(position)
                if not op.dense(position) and halo.empty:
                    continue
                wanted = None if op.dense(position) else halo.fill
                if halos.setdefault(value, wanted) == wanted:
                    continue
                if (value, wanted) not in copies:
                    copies[value, wanted] = self._next
                    self._shapes[self._next] = self._shapes[value]
                    found.append(Copying(f"copy{len(copies)}", (value,), self._next))
                    self._next += 1
                inputs[position] = copies[value, wanted]
            found.append(replace(op, inputs=tuple(inputs)))
        self._found = found


def _tiles(pooling: MaxPool2D, shape: Shape) -> bool:
    """Tell whether the windows lie side by side, so that each output row needs its own input rows only."""
    return pooling.stride == pooling.window and not any(map(any, pooling.pads(shape)))
