"""Network: a sequence of layers on images of one shape, and where its parameters lie in the flat weight vector."""

import math
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from bptcnn.errors import UserError
from bptcnn.networks.layers import LAYERS, Layer, Shape


@dataclass(frozen=True)
class Parameter:
    """One parameter array: elements [offset, offset + size) of the flat weight vector, C order."""

    name: str
    shape: Shape
    offset: int
    size: int


class Network:
    """A convolutional network: `layers` on images of `input_shape` (height, width, channels), ending in class logits.

    Raises UserError, naming the layer, where shapes do not fit.
    """

    def __init__(self, input_shape: Sequence[int], layers: Sequence[Layer], name: str = "custom") -> None:
        self.input_shape = _input_shape(input_shape)
        if not isinstance(layers, Sequence):
            raise UserError(f"layers must be a list of layers, not {layers!r}")
        self.layers = tuple(layers)
        self.name = name
        shapes: list[Shape] = [self.input_shape]
        parameters: list[Parameter] = []
        counts: dict[str, int] = {}
        offset = 0
        for index, layer in enumerate(self.layers):
            if not isinstance(layer, tuple(LAYERS.values())):
                raise UserError(f"layer {index} must be one of {', '.join(LAYERS)}, not {layer!r}")
            counts[layer.kind] = counts.get(layer.kind, 0) + 1
            try:
                shapes.append(layer.output_shape(shapes[-1]))
            except UserError as error:
                raise UserError(f"layer {index}: {error}") from None
            for part, shape in layer.parameter_shapes(shapes[-2]):
                size = math.prod(shape)
                parameters.append(Parameter(f"{layer.kind}{counts[layer.kind]}.{part}", shape, offset, size))
                offset += size
        if len(shapes[-1]) != 1 or not parameters:
            raise UserError(f"network {name!r} must end in a vector of class logits: a Dense layer, not {shapes[-1]}")
        self.shapes = tuple(shapes)  # shapes[i] goes into layer i, shapes[-1] comes out
        self.parameters = tuple(parameters)
        self.size = offset

    @property
    def classes(self) -> int:
        """Number of logits."""
        return self.shapes[-1][0]

    def initial_weights(self, seed: int) -> npt.NDArray[np.float32]:
        """Return the flat weight vector (size,) that a run with this seed starts from.

        He's normal initialisation (K. He et al., 2015, arXiv 1502.01852), variance 2 / fan-in; biases 0.
        """
        random = np.random.default_rng([seed, 0x1417])
        weights = np.zeros(self.size, np.float32)
        for parameter in self.parameters:
            if len(parameter.shape) > 1:
                deviation = np.sqrt(2.0 / np.prod(parameter.shape[:-1]))
                drawn = random.standard_normal(parameter.size, np.float32) * np.float32(deviation)
                weights[parameter.offset : parameter.offset + parameter.size] = drawn
        return weights

    def to_dict(self) -> dict[str, Any]:
        """Return a plain description, as TOML and JSON can hold it; `from_dict` reads it back."""
        layers = [{"layer": type(layer).__name__, **_plain(asdict(layer))} for layer in self.layers]
        return {"name": self.name, "input_shape": list(self.input_shape), "layers": layers}

    @classmethod
    def from_dict(cls, description: dict[str, Any]) -> "Network":
        """Build the network that `to_dict` described; raise UserError for anything else."""
        if not isinstance(description, dict):
            raise UserError(f"a network wants name, input_shape and layers, not {description!r}")
        unknown = set(description) - {"name", "input_shape", "layers"}
        if unknown or not isinstance(description.get("layers"), list):
            wrong = f"unknown {', '.join(sorted(unknown))}" if unknown else "no list of layers"
            raise UserError(f"a network wants name, input_shape and layers: {wrong}")
        layers = [_layer(index, entry) for index, entry in enumerate(description["layers"])]
        return cls(description.get("input_shape", ()), layers, str(description.get("name", "custom")))

    def __repr__(self) -> str:
        return f"Network({self.name!r}, input_shape={self.input_shape}, {len(self.layers)} layers, {self.size} weights)"


def _input_shape(shape: Sequence[int]) -> tuple[int, int, int]:
    sizes = tuple(shape) if isinstance(shape, Sequence) else ()
    if len(sizes) != 3 or not all(isinstance(size, int | np.integer) and size >= 1 for size in sizes):
        raise UserError(f"input_shape must be (height, width, channels), each at least 1, not {shape!r}")
    return int(sizes[0]), int(sizes[1]), int(sizes[2])


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """Tuples as lists, and no None: TOML has none."""

    def listed(value: Any) -> Any:
        return [listed(v) for v in value] if isinstance(value, tuple) else value

    return {key: listed(value) for key, value in values.items() if value is not None}


def _layer(index: int, entry: Any) -> Layer:
    if not isinstance(entry, dict) or not isinstance(entry.get("layer"), str) or entry["layer"] not in LAYERS:
        raise UserError(f"layer {index} must name one of {', '.join(LAYERS)} as `layer`, not {entry!r}")
    kind = LAYERS[entry["layer"]]
    given = {key: value for key, value in entry.items() if key != "layer"}
    known = fields(kind)
    unknown = set(given) - {field.name for field in known}
    if unknown:
        names = ", ".join(field.name for field in known) or "no keys"
        raise UserError(f"layer {index}: {entry['layer']} knows {names}, not {', '.join(sorted(unknown))}")
    missing = [field.name for field in known if field.default is MISSING and field.name not in given]
    if missing:
        raise UserError(f"layer {index}: {entry['layer']} lacks {', '.join(missing)}")
    try:
        return kind(**given)
    except UserError as error:
        raise UserError(f"layer {index}: {error}") from None
