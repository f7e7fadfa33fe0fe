"""Batch normalisation (S. Ioffe and C. Szegedy, 2015, arXiv 1502.03167)."""

from dataclasses import dataclass

from bptcnn.errors import UserError
from bptcnn.networks.layers.arguments import ActivationName, Shape, check_activation, is_number, shown


@dataclass(frozen=True)
class BatchNorm:
    """scale * (x - mean) / sqrt(variance + epsilon) + offset for each channel, then activation.

    On images mean and variance go over batch, height and width, on vectors over the batch. In training they are the
    batch's (the variance biased: divided by the number of elements), and the running statistics follow them:
    running = momentum * running + (1 - momentum) * batch's. Inference uses the running ones.

    Parameters, each (channels,): scale, offset, and the statistics mean and log_variance, which are not trainable.
    The running variance is kept as its logarithm, so that it stays positive however weight sets are merged: a sum of
    weighted differences, as asynchronous updates make it, may pass zero.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    activation: ActivationName = None

    kind = "norm"
    statistics = ("mean", "log_variance")

    def __post_init__(self) -> None:
        if not is_number(self.momentum) or not 0 < self.momentum < 1:
            raise UserError(f"BatchNorm: momentum must be a number between 0 and 1, not {shown(self.momentum)}")
        if not is_number(self.epsilon) or self.epsilon <= 0:
            raise UserError(f"BatchNorm: epsilon must be a number above 0, not {shown(self.epsilon)}")
        check_activation(self.activation, "BatchNorm")

    def output_shape(self, shape: Shape) -> Shape:
        """Return `shape`."""
        return shape

    def parameter_shapes(self, shape: Shape) -> list[tuple[str, Shape]]:
        """Return (name, shape) of the parameters for an input of `shape`."""
        return [(name, (shape[-1],)) for name in ("scale", "offset", *self.statistics)]
