"""Where a run starts from, and all that can be refused before anything is compiled or written."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from bptcnn.available import require_available
from bptcnn.data import Dataset
from bptcnn.errors import UserError
from bptcnn.kernels.unit import require_precision
from bptcnn.names import text_of
from bptcnn.networks import Network
from bptcnn.training.checkpoint import Checkpoint, read_checkpoint
from bptcnn.training.data_record import require_same_data
from bptcnn.training.progress import Observer
from bptcnn.training.run_folder import RunFolder
from bptcnn.training.settings import RESUMABLE, TrainSettings, settings_from


def starting_point(
    network: Network, dataset: Dataset, settings: TrainSettings, run_dir: Path | None, resume: bool, init: Path | None
) -> Checkpoint:
    """Return the weights, and on `resume` the state, to start from: a run's, or new ones by the seed.

    Raises UserError where network and data do not fit, this CPU lacks the precision for local nodes, the folder is
    taken, or there is nothing to start from.
    """
    _check_fit(network, dataset)
    if settings.nodes:
        require_precision(settings.precision)
    if resume and run_dir is not None:
        checkpoint = read_checkpoint(RunFolder.open(run_dir).last)
        if checkpoint.state is None:
            raise UserError(f"{run_dir} holds no state to resume from")
    else:
        if run_dir is not None:
            RunFolder.refuse_taken(run_dir)
        if init is None:
            need = 4 * network.size
            what = f"{network.name} has {need / 1e6:,.0f} MB of weights"
            require_available(need, what, "use a smaller network")
            return Checkpoint(network, network.initial_weights(settings.seed), 0)
        found = read_checkpoint(RunFolder.open(init).best)
        checkpoint = Checkpoint(found.network, found.weights, 0)
    if _shape(checkpoint.network) != _shape(network):
        raise UserError(f"the weights of {run_dir if resume else init} are of another network than {network.name}")
    return checkpoint


def resumed_settings(run_dir: Path, changes: Mapping[str, Any]) -> TrainSettings:
    """Return a run's own settings with `changes`; raise UserError where one would make it another run."""
    folder = RunFolder.open(run_dir)
    values = folder.read_config()
    given = {name: value for name, value in changes.items() if name in RESUMABLE}  # they count instead
    own = settings_from({n: v for n, v in {**values, **given}.items() if n not in ("network", "data")})
    if own.hosts is not None and "hosts" not in given:  # the folder may be somebody else's
        raise UserError(
            f"{folder.config} names the hosts file {own.hosts}, whose hosts run programs only where you name it again: "
            "give hosts, if you trust it"
        )
    changed = settings_from({**own.to_dict(), **changes})
    for field in fields(TrainSettings):
        if field.name not in RESUMABLE and getattr(own, field.name) != getattr(changed, field.name):
            allowed = ", ".join(RESUMABLE)
            raise UserError(f"{field.name} cannot change when a run is resumed: only {allowed} can")
    return changed


def require_data(run_dir: Path, dataset: Dataset, observer: Observer) -> None:
    """Raise UserError where a run would go on with other data than it had; say where only the place tells."""
    folder = RunFolder.open(run_dir)
    moved = folder.read_config().get("data") != text_of(dataset.source)
    if not require_same_data(folder, dataset) and moved:
        observer.warning(
            f"{run_dir} is of an earlier version, which did not record what its data are: only the number and the size "
            "of the training images were compared"
        )


def _shape(network: Network) -> dict[str, object]:
    """What two networks must share for one's weights to fit the other."""
    return {name: value for name, value in network.to_dict().items() if name != "name"}


def _check_fit(network: Network, dataset: Dataset) -> None:
    if network.input_shape != dataset.train.input_shape:
        raise UserError(
            f"the network wants images of {network.input_shape}, {dataset.name} has {dataset.train.input_shape}"
        )
    if network.classes < dataset.classes:
        raise UserError(f"the network ends in {network.classes} logits, {dataset.name} has {dataset.classes} classes")
