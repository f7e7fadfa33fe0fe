"""Convolutions with few filters: pixels side by side in a row of the tile, gradients that follow pooling's choices."""

from dataclasses import dataclass

import pytest
import reference
from stepping import Case, check_step

from bptcnn.inner.convolution import Convolution
from bptcnn.inner.executor import Executor
from bptcnn.inner.lowering import lower
from bptcnn.inner.subnetwork import Subnetwork
from bptcnn.kernels.convolution import pixels_abreast
from bptcnn.kernels.pooled_gradients import follows_choices
from bptcnn.kernels.unit import COLUMNS, LANES
from bptcnn.networks import Conv2D, Dense, Flatten, Layer, MaxPool2D, Network

SEEDS = 30


@dataclass(frozen=True)
class Few:
    """Images, a convolution, and the pooling that rides in it."""

    shape: tuple[int, int, int]
    convolution: Conv2D
    pooling: MaxPool2D | None = None

    @property
    def network(self) -> Network:
        """With a linear convolution in front, whose gradient shows the gradient by input."""
        rest: list[Layer] = [self.pooling] if self.pooling else []
        first = Conv2D(self.shape[2], 1, bias=False)
        return Network(self.shape, [first, self.convolution, *rest, Flatten(), Dense(4)])

    @property
    def operation(self) -> Convolution:
        found = next(op for op in lower(self.network, True).operations if op.name == "conv2")
        assert isinstance(found, Convolution)
        return found

    def check(self, executor: Executor, images: int, spare: int) -> None:
        """Compare a step that decides clearly with the reference."""
        for seed in range(SEEDS):
            case = Case.draw(self.network, images, seed)
            if case.decides_clearly():
                return check_step(case, executor, images + spare)
        raise AssertionError("no batch decides clearly")


@pytest.mark.parametrize(
    "few",
    [
        Few((12, 12, 1), Conv2D(2, 5, activation="relu"), MaxPool2D(2)),
        Few((9, 8, 1), Conv2D(3, 3), MaxPool2D(2)),
        Few((7, 12, 2), Conv2D(2, (2, 3), bias=False), MaxPool2D(3)),
        Few((15, 13, 1), Conv2D(2, (7, 4), activation="relu"), MaxPool2D((1, 3))),
        Few((11, 14, 3), Conv2D(1, 3, strides=(1, 2), padding="valid"), MaxPool2D((3, 2))),
        Few((10, 14, LANES // 2), Conv2D(3, (3, 2)), MaxPool2D(2)),
        Few((10, 9, LANES), Conv2D(3, 2, activation="relu"), MaxPool2D((2, 3))),
        Few((8, 8, 2 * LANES), Conv2D(2, 2), MaxPool2D(4)),
    ],
    ids=str,
)
def test_gradients_that_follow_choices(executor: Executor, few: Few) -> None:
    assert few.operation.follows_choices
    few.check(executor, 3, 2)


@pytest.mark.parametrize(
    "few",
    [
        Few((5, 12, 1), Conv2D(2, 3, activation="relu")),
        Few((9, 8, 1), Conv2D(LANES // 4, 5, bias=False)),
        Few((6, 14, 2), Conv2D(1, (2, 3), strides=(2, 1), padding="valid")),
        Few((6, 24, 1), Conv2D(2, 5, strides=2, padding=((2, 1), (1, 2)))),
        Few((8, 16, 1), Conv2D(LANES // 4 + 1, 5, activation="relu"), MaxPool2D(2)),
    ],
    ids=str,
)
def test_pixels_abreast(executor: Executor, few: Few) -> None:
    assert few.operation.abreast > 1
    few.check(executor, 2, 1)


def test_filters_that_fill_the_tile_stand_alone() -> None:
    for columns in (1, 7, 28, 32):
        assert pixels_abreast(3, 3, 1, COLUMNS, columns) == 1
    assert pixels_abreast(5, 1, 1, 6, 29) == 1, "29 is prime"
    assert not follows_choices(3, 9, 2 * COLUMNS, 1024, 1024)


def test_evaluation_by_the_same_kernels(executor: Executor) -> None:
    few = Few((12, 12, 1), Conv2D(2, 5, activation="relu"), MaxPool2D(2))
    case = Case.draw(few.network, 3, 0)
    subnetwork = Subnetwork(few.network, 4, executor, training=False)
    subnetwork.weights[:] = case.weights
    expected, _ = reference.forward(few.network, case.weights, case.samples)
    assert abs(subnetwork.forward(case.samples) - expected).max() < 1e-5 * abs(expected).max()
