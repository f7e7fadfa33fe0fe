"""From layers to operations: what runs as one kernel. Pooling that tiles its input rides in the convolution."""

from dataclasses import dataclass

from bptcnn.networks import Conv2D, Dense, Flatten, MaxPool2D, Network, Parameter
from bptcnn.networks.layers import Pair, Shape


@dataclass(frozen=True)
class Convolution:
    """Convolution, bias, rectifier and pooling (rows, columns), where it has them."""

    name: str
    in_shape: Shape
    kernel: Pair
    stride: Pair
    pads: tuple[Pair, Pair]
    conv_shape: Shape  # before pooling
    out_shape: Shape
    pool: Pair | None
    rectified: bool
    filter: Parameter
    bias: Parameter | None

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of one image's forward pass; each gradient takes as many."""
        rows, columns, filters = self.conv_shape
        return rows * columns * filters * self.kernel[0] * self.kernel[1] * self.in_shape[2]


@dataclass(frozen=True)
class Pooling:
    """Max pooling on its own: windows that overlap, leave gaps, or follow something else than a convolution."""

    name: str
    in_shape: Shape
    window: Pair
    stride: Pair
    out_shape: Shape


@dataclass(frozen=True)
class FullyConnected:
    """Dense layer with bias and rectifier, where it has them."""

    name: str
    inputs: int
    outputs: int
    rectified: bool
    weights: Parameter
    bias: Parameter | None

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of one image's forward pass; each gradient takes as many."""
        return self.inputs * self.outputs


Operation = Convolution | Pooling | FullyConnected


def operations(network: Network) -> tuple[Operation, ...]:
    """Return the operations that compute `network`, in forward order."""
    found: list[Operation] = []
    parameters = iter(network.parameters)
    counts: dict[str, int] = {}
    fused = -1
    for index, (layer, shape) in enumerate(zip(network.layers, network.shapes, strict=False)):
        if index == fused or isinstance(layer, Flatten):
            continue
        counts[layer.kind] = counts.get(layer.kind, 0) + 1
        name = f"{layer.kind}{counts[layer.kind]}"
        if isinstance(layer, Conv2D):
            follower = network.layers[index + 1] if index + 1 < len(network.layers) else None
            pool = follower.window if isinstance(follower, MaxPool2D) and follower.stride == follower.window else None
            fused = index + 1 if pool else fused
            weights, bias = next(parameters), next(parameters) if layer.bias else None
            conv_shape = layer.output_shape(shape)
            out_shape = network.shapes[index + 2] if pool else conv_shape
            rectified = layer.activation == "relu"
            found.append(
                Convolution(
                    name,
                    shape,
                    layer.kernel,
                    layer.stride,
                    layer.pads(shape),
                    conv_shape,
                    out_shape,
                    pool,
                    rectified,
                    weights,
                    bias,
                )
            )
        elif isinstance(layer, MaxPool2D):
            found.append(Pooling(name, shape, layer.window, layer.stride, network.shapes[index + 1]))
        elif isinstance(layer, Dense):
            weights, bias = next(parameters), next(parameters) if layer.bias else None
            rectified = layer.activation == "relu"
            found.append(FullyConnected(name, shape[0], layer.units, rectified, weights, bias))
    return tuple(found)
