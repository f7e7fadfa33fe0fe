"""bptcnn: trains convolutional networks on CPUs, over one machine's cores and any mix of nodes.

    import bptcnn as bpt
    dataset = bpt.data.load()
    result = bpt.train(bpt.networks.cnn2(), dataset, nodes=[1.0, 0.5])
    model = bpt.load(result.run_dir)

Names load when they are first used: importing the package compiles nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from bptcnn.version import VERSION

if TYPE_CHECKING:
    from bptcnn import data, networks, outer, profiling
    from bptcnn.errors import UserError
    from bptcnn.networks import (
        Activation,
        AveragePool2D,
        BatchNorm,
        Concatenate,
        Conv2D,
        Dense,
        DepthwiseConv2D,
        Dropout,
        Flatten,
        GlobalAveragePool2D,
        MaxPool2D,
        Network,
        Residual,
    )
    from bptcnn.training import Model, Result, TrainSettings, load, train

__version__ = VERSION
__all__ = [
    "Activation",
    "AveragePool2D",
    "BatchNorm",
    "Concatenate",
    "Conv2D",
    "Dense",
    "DepthwiseConv2D",
    "Dropout",
    "Flatten",
    "GlobalAveragePool2D",
    "MaxPool2D",
    "Model",
    "Network",
    "Residual",
    "Result",
    "TrainSettings",
    "UserError",
    "data",
    "load",
    "networks",
    "outer",
    "profiling",
    "train",
]
_MODULES = ("data", "networks", "outer", "profiling")
_LAYERS = (
    "Activation",
    "AveragePool2D",
    "BatchNorm",
    "Concatenate",
    "Conv2D",
    "Dense",
    "DepthwiseConv2D",
    "Dropout",
    "Flatten",
    "GlobalAveragePool2D",
    "MaxPool2D",
    "Residual",
)
_HOMES = {
    "UserError": "errors",
    **dict.fromkeys((*_LAYERS, "Network"), "networks"),
    **dict.fromkeys(("Model", "Result", "TrainSettings", "load", "train"), "training"),
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
