"""A tuning: how the convolutions of a network are computed at one batch size, where measuring knows better than rules.

A step's results follow from network, batch size and tuning alone: a tuning says nothing of threads. Nothing compiles
here.
"""

from dataclasses import dataclass
from typing import Literal

Algorithm = Literal[
    "direct", "winograd 2", "winograd 4", "winograd 5", "small images", "gathered", "pointwise", "bfloat16"
]
"""Winograd's with tiles of so many outputs each way; `small images`: tiles over the images of the batch; `gathered`: a
dense layer over the windows of all output pixels; `pointwise`: 1x1, over the pixels of many images; `bfloat16`:
products of bfloat16 blocks, where the precision allows them."""

TasksOver = Literal["rule", "images", "channels by filter", "channels"]
"""What tasks of Winograd's algorithm go over: ranges of images; blocks of channels in the gradient by filter, or in all
passes."""

RANGES = 16
"""Tasks over the images of a batch: enough to balance, long enough to hide scheduling."""


@dataclass(frozen=True)
class Choice:
    """How the convolutions of one shape (`algorithms.shape_of`) are computed.

    parts: partial sums of their gradients, 0 for the rule's: mostly one for each range of images; tasks over channels
    have none.
    """

    shape: str
    algorithm: Algorithm
    parts: int = 0
    over: TasksOver = "rule"


@dataclass(frozen=True)
class Tuning:
    """The choices for a network at one batch size; shapes that are not among them are computed as rules say.

    `ranges`: tasks over the images of a batch. Every layer has the same, so that a chain of tasks keeps its images.
    """

    ranges: int = RANGES
    choices: tuple[Choice, ...] = ()


BY_RULE = Tuning()
"""The cost model alone: rules on shapes."""
