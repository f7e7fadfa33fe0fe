"""A run: the driver, the run folder, checkpoints, reports, and the Python API's `train`, `Model` and `load`.

Imports everything below. Never knows terminals. What compiles is imported when it is first used, after saying so.
"""

import time
from collections.abc import Sequence
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bptcnn.available import require_available
from bptcnn.errors import UserError
from bptcnn.names import path_of
from bptcnn.training.progress import EpochRow, Observer, Snapshot
from bptcnn.training.run_folder import RunFolder, default_run_dir
from bptcnn.training.settings import TrainSettings, parse_nodes, read_config, settings_from

if TYPE_CHECKING:
    from bptcnn.data import Dataset
    from bptcnn.networks import Network
    from bptcnn.precision import Precision
    from bptcnn.training.model import Model, load
    from bptcnn.training.run import Result

__all__ = [
    "EpochRow",
    "Model",
    "Observer",
    "Result",
    "RunFolder",
    "Snapshot",
    "TrainSettings",
    "default_run_dir",
    "load",
    "parse_nodes",
    "prepare_kernels",
    "read_config",
    "settings_from",
    "train",
]
_COMPILING_BYTES = 280_000_000  # that a process grows by while it compiles all kernels, mapped libraries too: 260 MB
_HOMES = {"Model": "model", "load": "model", "Result": "run"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def prepare_kernels(observer: Observer, precision: "Precision" = "float32") -> None:
    """Load the compiled kernels; where this version and CPU lack those of a precision, say so and compile them.

    Says, too, where they are not kept in the user's cache folder. Raises UserError where they can be kept nowhere.
    """
    from bptcnn.kernels.compilation import KERNEL_BYTES, is_warm, kernel_cache, mark_warm

    cache, warm = kernel_cache(), is_warm(precision)
    if not warm:
        needed = f"compiling kernels needs {_COMPILING_BYTES / 1e6:,.0f} MB"
        require_available(_COMPILING_BYTES, needed, "end other programs, or raise the limit")
        cache.reserve(KERNEL_BYTES)
    told = cache.trouble
    if told is not None:
        observer.warning(str(told))
    if warm:
        return
    observer.setup(f"compiling kernels for this CPU ({'' if told else 'once, '}about 20 s)")
    import_module("bptcnn.training.run")
    import_module("bptcnn.nodes.agent")
    mark_warm()
    if precision == "bf16":
        import_module("bptcnn.inner.bfloat16_convolution")
        mark_warm("bf16")
    if cache.trouble is not None and told is None:
        observer.warning(str(cache.trouble))


def train(
    network: "Network",
    dataset: "Dataset",
    settings: TrainSettings | None = None,
    *,
    run_dir: str | Path | None = None,
    resume: bool = False,
    init: str | Path | None = None,
    observer: Observer | None = None,
    nodes: int | str | Sequence[float] | None = None,
    **changes: Any,
) -> "Result":
    """Train `network` on `dataset` over local nodes and hosts; return the summary, and leave a run folder.

    Settings may be given whole or by name, as those of `TrainSettings`: `nodes=2` or `nodes=[1.0, 0.5]`,
    `hosts="hosts.toml"`, `epochs=4`.
    `run_dir` None: `runs/<time>-<network>`, one that no other run has; ~ is your home folder. An existing one needs
    `resume`, which continues it after its last epoch with the settings that it has: only those of `RESUMABLE` may be
    others, and `hosts` must be given again where it had them, because programs run there. `dataset` must be what it was
    by content, wherever it lies now.
    `init`: a run folder whose best weights to start from. Raises UserError for whatever the user can mend, and where
    every node is lost. KeyboardInterrupt ends the run cleanly, keeps its last checkpoint, and is passed on.
    """
    began = time.monotonic()
    from bptcnn.data import doubts
    from bptcnn.training.start import require_data, resumed_settings, starting_point

    if nodes is not None:
        changes["nodes"] = parse_nodes(nodes)
    folder = None if run_dir is None else path_of(run_dir)
    if resume and folder is None:
        raise UserError("resume needs run_dir: the folder of the run to continue")
    # whatever a resumed run is told by its folder is read while nobody else can change it
    resumed = folder if resume else None
    with nullcontext() if resumed is None else RunFolder.open(resumed).held():
        if resumed is not None:
            base = resumed_settings(resumed, {**(settings.to_dict() if settings else {}), **changes})
        else:
            base = settings_from({**(settings or TrainSettings()).to_dict(), **changes})
        observer = observer or Observer()
        start = starting_point(network, dataset, base, folder, resume, None if init is None else path_of(init))
        if resumed is not None:
            require_data(resumed, dataset, observer)
        for doubt in doubts(dataset):
            observer.warning(doubt)
        prepare_kernels(observer, base.precision if base.nodes else "float32")  # hosts compile their own
        from bptcnn.training.run import train_run

        return train_run(network, dataset, base, start, folder, resume, observer, began)
