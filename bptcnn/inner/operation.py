"""What every operation of a step has: the values it reads and makes, its buffers, its records and its tasks."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from bptcnn.inner.values import Halo

if TYPE_CHECKING:
    from bptcnn.inner.plan import Plan
    from bptcnn.inner.tasks import StepBuilder

GradientUse = Literal["own", "passes", "turns"]


@dataclass(frozen=True)
class Operation(ABC):
    """One operation: makes value `output` of the values `inputs`; its tasks' labels are "<name> <what>".

    `own`: an input's gradient needs memory of its own. `passes`: it is the output's gradient as it is; `turns`: it is
    computed from the output's gradient element by element, so it may take its place.
    """

    name: str
    inputs: tuple[int, ...]
    output: int

    @property
    def undoes(self) -> bool:
        """Whether the backward tasks change the output's gradient in place, to undo a rectifier."""
        return False

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of one image's forward pass; each gradient takes as many. 0 where there are hardly any."""
        return 0

    @property
    def across_images(self) -> bool:
        """Whether the same place of many images is taken at once."""
        return False

    @property
    def turns_on_loading(self) -> bool:
        """Whether the backward tasks can load, for the output's gradient, that behind a batch normalisation."""
        return False

    @property
    def leaves_turning(self) -> bool:
        """Whether the backward tasks can leave it to such an operation before to turn the gradient of input 0."""
        return False

    @property
    def reads_output_back(self) -> bool:
        """Whether the backward tasks read the output."""
        return True

    def reads_back(self, position: int) -> bool:
        """Tell whether the backward tasks read input `position`."""
        return True

    def halo(self, position: int) -> Halo:
        """Return what is read around input `position`."""
        return Halo()

    def dense(self, position: int) -> bool:
        """Tell whether input `position` must lie without any halo."""
        return False

    def gradient_use(self, position: int) -> GradientUse:
        """Return how the gradient of input `position` comes from the output's."""
        return "own"

    def gradient_order(self) -> Sequence[int]:
        """Return the inputs in the order in which the backward tasks give them their gradients."""
        return range(len(self.inputs))

    @abstractmethod
    def reserve(self, plan: "Plan") -> None:
        """Reserve buffers beside those of the values."""

    @abstractmethod
    def record(self, plan: "Plan") -> None:
        """Fill the records, once all memory is there."""

    @abstractmethod
    def forward(self, step: "StepBuilder") -> None:
        """Add the forward tasks."""

    @abstractmethod
    def backward(self, step: "StepBuilder") -> None:
        """Add the backward tasks: the gradients of the parameters, and of the inputs that want one."""
