"""From layers to operations: what runs as one kernel.

Bias, rectifier and pooling that tiles its input ride in the convolution; the addition that ends a residual block, and
its rectifier, ride in the batch normalisation before it. A value is an index: 0 is the network's input.
"""

from dataclasses import dataclass, replace

from bptcnn.inner.activation import ActivationFunction, Dropping
from bptcnn.inner.addition import Addition
from bptcnn.inner.algorithms import algorithms, choose, computed, takes_pooling
from bptcnn.inner.averaging import Averaging
from bptcnn.inner.convolution import Convolution
from bptcnn.inner.dense import FullyConnected
from bptcnn.inner.depthwise import Depthwise
from bptcnn.inner.grouped import GroupedConvolution
from bptcnn.inner.joining import Joining
from bptcnn.inner.normalisation import Normalisation
from bptcnn.inner.operation import Operation
from bptcnn.inner.pooling import Pooling
from bptcnn.inner.tuning import BY_RULE, Algorithm, Choice, Tuning
from bptcnn.networks import (
    Activation,
    Application,
    AveragePool2D,
    BatchNorm,
    Conv2D,
    Dense,
    DepthwiseConv2D,
    Dropout,
    Flatten,
    GlobalAveragePool2D,
    Join,
    MaxPool2D,
    Network,
    Parameter,
    Sum,
)
from bptcnn.networks.layers import ActivationName, Shape
from bptcnn.precision import Precision


@dataclass(frozen=True)
class Decision:
    """How convolution `layers[0]` is computed, and how it might be; `layers[1:]`: the pooling that may ride in it."""

    layers: tuple[str, ...]
    choice: Choice
    algorithms: tuple[Algorithm, ...]


@dataclass(frozen=True)
class Lowered:
    """Operations in forward order, each value's shape, and the value that holds the logits."""

    operations: tuple[Operation, ...]
    shapes: dict[int, Shape]
    result: int
    size: int  # of the weight vector
    ranges: int  # tasks over the images of a batch
    decisions: tuple[Decision, ...]

    def readers(self, value: int) -> list[tuple[Operation, int]]:
        """Return who reads a value, and as which input."""
        return [(op, position) for op in self.operations for position, v in enumerate(op.inputs) if v == value]


def operations(network: Network, precision: Precision = "float32") -> tuple[Operation, ...]:
    """Return the operations of a training step, in forward order."""
    return lower(network, training=True, precision=precision).operations


def lower(
    network: Network,
    training: bool,
    direct: bool = False,
    tuning: Tuning = BY_RULE,
    batch: int = 0,
    precision: Precision = "float32",
) -> Lowered:
    """Return the operations of `network` with their values.

    `direct`: no convolution by Winograd's algorithm. `batch`: images of a step, by which algorithms are chosen, 0 for
    many. `precision` "bf16": convolutions may multiply bfloat16 numbers.
    """
    return _Lowering(network, training, direct, tuning, batch, precision).run()


class _Lowering:
    def __init__(
        self, network: Network, training: bool, direct: bool, tuning: Tuning, batch: int, precision: Precision
    ) -> None:
        self._network = network
        self._training = training
        self._direct = direct
        self._tuning = tuning
        self._batch = batch
        self._precision = precision
        self._decisions: list[Decision] = []
        self._applications = network.applications
        self._alias: dict[int, int] = {}  # values that lie where another one lies
        self._fused: set[int] = set()  # applications that ride in an earlier operation
        self._shapes: dict[int, Shape] = {0: network.input_shape}
        self._found: list[Operation] = []
        self._next = len(self._applications) + 1

    def run(self) -> Lowered:
        for index, application in enumerate(self._applications):
            if index not in self._fused:
                inputs = tuple(self._alias.get(value, value) for value in application.inputs)
                self._lower(index, application, inputs)
        found = self._with_copies()
        result = self._alias.get(len(self._applications), len(self._applications))
        sizes = self._network.size, self._tuning.ranges
        return Lowered(tuple(found), self._shapes, result, *sizes, tuple(self._decisions))

    # ---- layers ------------------------------------------------------------------------------------------------------

    def _lower(self, index: int, application: Application, inputs: tuple[int, ...]) -> None:
        name, output = application.name, index + 1
        match application.layer:
            case Flatten():
                self._alias[output] = inputs[0]
            case Dropout(rate=rate):
                if self._training and rate > 0:
                    self._put(Dropping(name, inputs, output, rate, index), output)
                else:
                    self._alias[output] = inputs[0]
            case Conv2D(groups=1) as layer if layer.dilations == (1, 1):
                self._convolution(index, layer, application, inputs)
            case Conv2D() | DepthwiseConv2D() as layer:
                self._windowed(index, layer, application, inputs)
            case BatchNorm() as layer:
                self._normalisation(index, layer, application, inputs)
            case Activation(function=str(function)):
                self._put(ActivationFunction(name, inputs, output, function), output)
            case MaxPool2D() as layer:
                before, after = self._image(application.inputs[0]), self._image(output)
                windows = layer.window, layer.stride, layer.pads(before)
                self._put(Pooling(name, inputs, output, before, after, *windows), output)
            case AveragePool2D() as layer:
                before, after = self._image(application.inputs[0]), self._image(output)
                windows = layer.window, layer.stride, layer.pads(before)
                self._put(Averaging(name, inputs, output, *windows, (after[0], after[1])), output)
            case GlobalAveragePool2D():
                rows, columns, _ = self._image(application.inputs[0])
                whole = (rows, columns)
                self._put(Averaging(name, inputs, output, whole, whole, ((0, 0), (0, 0)), (1, 1)), output)
            case Dense() as layer:
                (count,) = self._network.shapes[application.inputs[0]]
                made, rectified = self._activated(index, layer.activation)
                parameters = _weights_and_bias(application)
                op = FullyConnected(name, inputs, made, count, layer.units, rectified, *parameters)
                self._put(op, output)
                self._activate(op, output, layer.activation)
            case Sum(activation=activation):
                made, rectified = self._activated(index, activation)
                addition = Addition(name, inputs, made, rectified)
                self._put(addition, output)
                self._activate(addition, output, activation)
            case Join():
                self._put(Joining(name, inputs, output), output)

    def _convolution(self, index: int, layer: Conv2D, application: Application, inputs: tuple[int, ...]) -> None:
        shape, conv_shape = self._image(application.inputs[0]), self._image(index + 1)
        made, rectified = self._activated(index, layer.activation)
        weights, bias = _weights_and_bias(application)
        op = Convolution(
            application.name,
            inputs,
            made,
            in_shape=shape,
            kernel=layer.kernel,
            stride=layer.stride,
            pads=layer.pads(shape),
            conv_shape=conv_shape,
            out_shape=conv_shape,
            pool=None,
            rectified=rectified,
            filter=weights,
            bias=bias,
            parts=0,
        )
        self._decide(op, index)
        self._activate(op, index + 1, layer.activation)

    def _decide(self, op: Convolution, index: int) -> None:
        """Add a convolution, computed as the tuning says, with the pooling that rides in it."""
        pooled, layers, value = op, [op.name], index + 1
        follower = self._only_reader(index + 1)
        if follower is not None and op.output == index + 1:
            pooling = self._applications[follower]
            if isinstance(pooling.layer, MaxPool2D) and _tiles(pooling.layer, op.conv_shape):
                value = follower + 1
                pooled = replace(op, output=value, pool=pooling.layer.window, out_shape=self._image(value))
                layers.append(pooling.name)
        choice = choose(pooled, self._tuning, self._batch, self._precision, self._direct)
        self._decisions.append(Decision(tuple(layers), choice, algorithms(pooled, self._batch, self._precision)))
        if not takes_pooling(choice.algorithm):
            pooled, value = op, index + 1
        self._put(computed(pooled, choice), value)
        if pooled.pool:
            self._fused.add(value - 1)

    def _windowed(
        self, index: int, layer: Conv2D | DepthwiseConv2D, application: Application, inputs: tuple[int, ...]
    ) -> None:
        shape = self._image(application.inputs[0])
        made, rectified = self._activated(index, layer.activation)
        weights, bias = _weights_and_bias(application)
        windows = layer.kernel, layer.stride, layer.dilations, layer.pads(shape)
        given = (application.name, inputs, made, shape, self._image(index + 1), *windows, rectified, weights, bias)
        op = Depthwise(*given) if isinstance(layer, DepthwiseConv2D) else GroupedConvolution(*given, layer.groups)
        self._put(op, index + 1)
        self._activate(op, index + 1, layer.activation)

    def _normalisation(self, index: int, layer: BatchNorm, application: Application, inputs: tuple[int, ...]) -> None:
        activation, final = layer.activation, index
        follower = self._only_reader(index + 1)
        if follower is not None and activation is None:
            adding = self._applications[follower]
            others = [value for value in adding.inputs if value != index + 1]
            if isinstance(adding.layer, Sum) and len(others) == 1 and others[0] <= index:
                inputs = (*inputs, self._alias.get(others[0], others[0]))
                activation, final = adding.layer.activation, follower
                self._fused.add(follower)
        made, rectified = self._activated(final, activation)
        vectors = len(self._network.shapes[index + 1]) == 1
        op = Normalisation(
            application.name, inputs, made, rectified, vectors, layer.momentum, layer.epsilon, *application.parameters
        )
        self._put(op, final + 1)
        self._activate(op, final + 1, activation)

    # ---- values ------------------------------------------------------------------------------------------------------

    def _put(self, op: Operation, value: int) -> None:
        """Add an operation whose output is shaped as the network's value `value`."""
        self._found.append(op)
        self._shapes[op.output] = self._network.shapes[value]

    def _activated(self, index: int, activation: ActivationName) -> tuple[int, bool]:
        """Return which value an operation makes before its activation, and whether it rectifies by itself."""
        if activation in (None, "relu"):
            return index + 1, activation == "relu"
        self._next += 1
        return self._next - 1, False

    def _activate(self, op: Operation, value: int, activation: ActivationName) -> None:
        """Add the activation that does not ride in `op`, if there is one."""
        if activation is not None and activation != "relu":
            self._put(ActivationFunction(f"{op.name}-{activation}", (op.output,), value, activation), value)

    def _image(self, value: int) -> tuple[int, int, int]:
        rows, columns, channels = self._network.shapes[value]
        return rows, columns, channels

    def _only_reader(self, value: int) -> int | None:
        """Return the one application that reads a value, None where there are several or none."""
        readers = [index for index, found in enumerate(self._applications) for v in found.inputs if v == value]
        return readers[0] if len(readers) == 1 else None

    def _with_copies(self) -> list[Operation]:
        """Copy values for readers that want another halo than the first reader, or none at all."""
        found: list[Operation] = []
        halos: dict[int, float | None] = {}  # the fill that a value's readers agree on; None: no halo
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
                    found.append(Joining(f"copy{len(copies)}", (value,), self._next))
                    self._next += 1
                inputs[position] = copies[value, wanted]
            found.append(replace(op, inputs=tuple(inputs)))
        return found


def _weights_and_bias(application: Application) -> tuple[Parameter, Parameter | None]:
    weights, *bias = application.parameters
    return weights, bias[0] if bias else None


def _tiles(pooling: MaxPool2D, shape: Shape) -> bool:
    """Tell whether the windows lie side by side, so that each output row needs its own input rows only."""
    return pooling.stride == pooling.window and not any(map(any, pooling.pads(shape)))
