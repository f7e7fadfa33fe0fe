"""Average pooling of a step, over windows or the whole image."""

from dataclasses import dataclass

from bptcnn.inner.image_operation import ImageOperation
from bptcnn.inner.plan import Plan
from bptcnn.kernels import averaging
from bptcnn.networks.layers import Pair


@dataclass(frozen=True)
class Averaging(ImageOperation):
    """The mean of each window, (rows, columns); what pads is not counted."""

    window: Pair
    stride: Pair
    pads: tuple[Pair, Pair]
    out_size: Pair

    @property
    def kernels(self) -> tuple[int, int]:
        """The kernels' addresses, forward and backward."""
        return averaging.average, averaging.average_backward

    def record(self, plan: Plan) -> None:
        """Fill the record."""
        taken = plan.layout(self.inputs[0])
        plan.keep(
            self.name,
            averaging.AVERAGING,
            **plan.image_fields(self),
            channels=taken.shape[2],
            height=taken.shape[0],
            width=taken.shape[1],
            window_rows=self.window[0],
            window_columns=self.window[1],
            stride_rows=self.stride[0],
            stride_columns=self.stride[1],
            padding_top=self.pads[0][0],
            padding_left=self.pads[1][0],
            out_rows=self.out_size[0],
            out_columns=self.out_size[1],
        )
