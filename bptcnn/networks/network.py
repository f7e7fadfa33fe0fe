"""Network: layers on images of one shape, and where its parameters lie in the flat weight vector."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from bptcnn.errors import UserError
from bptcnn.networks.applications import Applications
from bptcnn.networks.descriptions import described, layers_described
from bptcnn.networks.layers import Layer, layers_of, shown
from bptcnn.untrusted import printable

MOST_NAME = 200  # characters


class Network:
    """A convolutional network: `layers` on images of `input_shape` (height, width, channels), ending in class logits.

    Raises UserError, naming the layer, where shapes do not fit.
    """

    def __init__(self, input_shape: Sequence[int], layers: Sequence[Layer], name: str = "custom") -> None:
        self.input_shape = image_shape(input_shape)
        self.layers = layers_of(layers, "layers")
        self.name = name
        laid_out = Applications(self.layers, self.input_shape)
        self.applications = tuple(laid_out.found)  # in forward order, blocks laid out
        self.shapes = tuple(laid_out.shapes)  # shapes[v] is value v's: 0 goes into the network, the last comes out
        self.parameters = tuple(parameter for a in self.applications for parameter in a.parameters)
        self.size = laid_out.size
        if len(self.shapes[-1]) != 1 or not self.parameters:
            last = self.shapes[-1]
            raise UserError(f"network {name!r} must end in a vector of class logits: a Dense layer, not {last}")

    @property
    def name(self) -> str:
        """What to call it: printable text of at most 200 characters, which files of a run are named for."""
        return self._name

    @name.setter
    def name(self, name: str) -> None:
        if not isinstance(name, str) or len(name) > MOST_NAME:
            raise UserError(f"a network's name is text of at most {MOST_NAME} characters, not {shown(name)}")
        self._name = printable(name)

    @property
    def classes(self) -> int:
        """Number of logits."""
        return self.shapes[-1][0]

    def initial_weights(self, seed: int) -> npt.NDArray[np.float32]:
        """Return the flat weight vector (size,) that a run with this seed starts from.

        He's normal initialisation (K. He et al., 2015, arXiv 1502.01852), variance 2 / fan-in; biases 0; batch
        normalisation starts as the identity: scale 1, offset 0, mean 0, variance 1.
        """
        random = np.random.default_rng([seed, 0x1417])
        weights = np.zeros(self.size, np.float32)
        for parameter in self.parameters:
            if len(parameter.shape) > 1:
                deviation = np.sqrt(2.0 / np.prod(parameter.shape[:-1]))
                drawn = random.standard_normal(parameter.size, np.float32) * np.float32(deviation)
                weights[parameter.offset : parameter.offset + parameter.size] = drawn
            elif parameter.name.endswith(".scale"):
                weights[parameter.offset : parameter.offset + parameter.size] = 1
        return weights

    def to_dict(self) -> dict[str, Any]:
        """Return a plain description, as TOML and JSON can hold it; `from_dict` reads it back."""
        layers = [described(layer) for layer in self.layers]
        return {"name": self.name, "input_shape": list(self.input_shape), "layers": layers}

    @classmethod
    def from_dict(cls, description: dict[str, Any]) -> "Network":
        """Build the network that `to_dict` described; raise UserError for anything else."""
        if not isinstance(description, dict):
            raise UserError(f"a network wants name, input_shape and layers, not {shown(description)}")
        unknown = {str(key) for key in description} - {"name", "input_shape", "layers"}
        if unknown or not isinstance(description.get("layers"), list):
            wrong = f"unknown {shown(min(unknown))}" if unknown else "no list of layers"
            raise UserError(f"a network wants name, input_shape and layers: {wrong}")
        layers = layers_described(description["layers"])
        return cls(description.get("input_shape", ()), layers, description.get("name", "custom"))

    def __repr__(self) -> str:
        return f"Network({self.name!r}, input_shape={self.input_shape}, {len(self.layers)} layers, {self.size} weights)"


def image_shape(shape: Sequence[int]) -> tuple[int, int, int]:
    """Return `shape` as (height, width, channels); raise UserError unless it is that."""
    sizes = tuple(shape) if isinstance(shape, Sequence) else ()
    if len(sizes) != 3 or not all(isinstance(size, int | np.integer) and size >= 1 for size in sizes):
        raise UserError(f"input_shape must be (height, width, channels), each at least 1, not {shown(shape)}")
    return int(sizes[0]), int(sizes[1]), int(sizes[2])
