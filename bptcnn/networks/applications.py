"""What a network does in order: each layer applied to values, blocks laid out, parameters placed in the flat vector."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from bptcnn.errors import UserError
from bptcnn.networks.layers import MOST_ELEMENTS, AppliedLayer, BatchNorm, Block, Join, Layer, Shape, Sum

MOST_BLOCKS = 8
"""In one another: a description of them stays within what its readers take (`untrusted.MOST_DEPTH`)."""
_MOST_LAYERS = 4096  # ten times what the deepest networks have


@dataclass(frozen=True)
class Parameter:
    """One parameter array: elements [offset, offset + size) of the flat weight vector, C order.

    What is not `trainable` has no gradient: the running statistics of batch normalisation.
    """

    name: str
    shape: Shape
    offset: int
    size: int
    trainable: bool = True


@dataclass(frozen=True)
class Application:
    """One layer applied to values; application i makes value i + 1, value 0 is the network's input.

    `layer` is never a block: a Sum or a Join stands for what ends it. `inputs`: the values that go in. `name`: the
    layer's kind and running number, as in "conv1".
    """

    layer: AppliedLayer
    inputs: tuple[int, ...]
    parameters: tuple[Parameter, ...]
    name: str


class Applications:
    """The applications of `layers` on inputs of `shape`, the shapes of all values, and the parameters' total size.

    In forward order; a block's paths one after the other, then what ends it. Raises UserError, naming the place, where
    shapes do not fit, or are larger than anything can train.
    """

    def __init__(self, layers: Sequence[Layer], shape: Shape) -> None:
        self.found: list[Application] = []
        self.shapes: list[Shape] = [shape]
        self.size = 0
        self._counts: dict[str, int] = {}
        self._require_sizes(math.prod(shape), "the input")
        self._follow(layers, 0, "", 0)

    def _follow(self, layers: Sequence[Layer], value: int, place: str, blocks: int) -> int:
        """Apply `layers`, within so many blocks, one after the other to `value`; return the value that comes out."""
        if blocks > MOST_BLOCKS:
            raise UserError(f"{place.split(',')[0]}: more than {MOST_BLOCKS} blocks are in one another")
        for index, layer in enumerate(layers):
            here = f"{place}layer {index}"
            if isinstance(layer, Block):
                ends = [
                    self._follow(path, value, f"{here}, {name}, ", blocks + 1) for name, path in layer.paths.items()
                ]
                value = self._apply(layer.end, tuple(ends), here)
            else:
                value = self._apply(layer, (value,), here)
        return value

    def _apply(self, layer: AppliedLayer, inputs: tuple[int, ...], place: str) -> int:
        shapes = [self.shapes[value] for value in inputs]
        try:
            out = layer.output_shape(*shapes)
        except UserError as error:
            raise UserError(f"{place}: {error}") from None
        self._counts[layer.kind] = self._counts.get(layer.kind, 0) + 1
        name = f"{layer.kind}{self._counts[layer.kind]}"
        self.found.append(Application(layer, inputs, tuple(self._parameters(layer, shapes[0], name)), name))
        self.shapes.append(out)
        self._require_sizes(math.prod(out), place)
        return len(self.found)

    def _require_sizes(self, elements: int, place: str) -> None:
        for count, what in ((elements, "elements an image"), (self.size, "parameters")):
            if count > MOST_ELEMENTS:
                raise UserError(f"{place}: {count:.3g} {what}, more than {MOST_ELEMENTS:,}")
        if len(self.found) > _MOST_LAYERS:
            raise UserError(f"{place}: the network has more than {_MOST_LAYERS:,} layers")

    def _parameters(self, layer: AppliedLayer, shape: Shape, name: str) -> list[Parameter]:
        if isinstance(layer, Sum | Join):
            return []
        statistics = layer.statistics if isinstance(layer, BatchNorm) else ()
        made = []
        for part, its_shape in layer.parameter_shapes(shape):
            size = math.prod(its_shape)
            made.append(Parameter(f"{name}.{part}", its_shape, self.size, size, part not in statistics))
            self.size += size
        return made
