"""What is measured: a network on images of a shape, at a batch size and a precision."""

from dataclasses import dataclass

from bptcnn.kernels.unit import require_precision
from bptcnn.networks import ZOO, Network, load_network
from bptcnn.precision import Precision

_GRAY = frozenset(["cnn2", "lenet5"])  # for images such as MNIST's
_LARGE = frozenset(["alexnet", "resnet50"])  # for images such as ImageNet's, whose classes are 1000
_FEWEST_CLASSES = 2  # no file's network has too few logits for them


@dataclass(frozen=True)
class Case:
    """A network and the images of a step."""

    network: Network
    batch_size: int
    precision: Precision = "float32"


def default_case(
    source: str,
    input_shape: tuple[int, int, int] | None = None,
    batch_size: int | None = None,
    precision: Precision = "float32",
) -> Case:
    """Return the case of a network of the zoo, or of a file, with the images and the batch size that are usual for it.

    28x28x1 for cnn2 and lenet5, 224x224x3 in batches of 16 for alexnet and resnet50, 32x32x3 for the others; otherwise
    batches of 64. Raises UserError where there is no such network, it does not fit images of `input_shape`, or this CPU
    lacks the precision.
    """
    require_precision(precision)
    shape = (28, 28, 1) if source in _GRAY else (224, 224, 3) if source in _LARGE else (32, 32, 3)
    classes = 1000 if source in _LARGE else 10 if source in ZOO else _FEWEST_CLASSES
    network = load_network(source, input_shape or shape, classes)
    return Case(network, batch_size or (16 if source in _LARGE else 64), precision)
