"""What a run is to be: the command line over a configuration file, or over the run that is resumed, over defaults."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from bptcnn.data import Dataset, load
from bptcnn.data.loading import SAMPLE
from bptcnn.errors import UserError
from bptcnn.networks import Network, load_network
from bptcnn.training.run_folder import RunFolder
from bptcnn.training.settings import RESUMABLE, TrainSettings, read_config, settings_from
from bptcnn_cli.defaults import NETWORK


@dataclass(frozen=True)
class Choices:
    """The network by name or file, or as `Network.to_dict` describes it (so in run folders); the data; the settings."""

    network: str | dict[str, Any]
    data: str
    settings: TrainSettings

    def load_data(self) -> Dataset:
        """Return the data set; raise UserError where there is none."""
        return load(self.data)

    def load_network(self, dataset: Dataset) -> Network:
        """Return the network for this data; raise UserError where it does not exist or does not fit."""
        if isinstance(self.network, str):
            return load_network(self.network, dataset.train.input_shape, dataset.classes)
        return Network.from_dict(self.network)

    def to_toml(self) -> str:
        """Return a configuration that `--config` reads back."""
        return tomli_w.dumps({"network": self.network, "data": self.data, **self.settings.to_dict()})


def choose(given: Mapping[str, Any], config: Path | None) -> Choices:
    """Return the choices of a new run. `given` holds what the command line says, None for what it does not say.

    Raises UserError for a file that cannot be read, unknown names, wrong types and wrong values.
    """
    said = _said(given)
    if config is None:
        return _choices(said)
    values = read_config(config)
    _choices_of_file(config, values)  # an error of the file's own names the file
    return _choices({**values, **said})


def choose_resumed(given: Mapping[str, Any], run_dir: Path) -> Choices:
    """Return the choices of a run that goes on: its config.toml, with what may change. Raises UserError as `choose`."""
    said = _said(given)
    fixed = [name for name in said if name not in RESUMABLE]
    if fixed:
        allowed = ", ".join(_option(name) for name in RESUMABLE)
        raise UserError(f"{_option(fixed[0])} cannot change when a run is resumed: only {allowed} can")
    values = _read_run(run_dir)
    return _choices({**values, **said})


def choices_of_run(run_dir: Path) -> Choices:
    """Return what an earlier run was; raise UserError where there is none."""
    return _choices(_read_run(run_dir))


def _read_run(run_dir: Path) -> dict[str, Any]:
    folder = RunFolder.open(run_dir)
    values = folder.read_config()
    _choices_of_file(folder.config, values)
    return values


def _said(given: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in given.items() if value is not None}


def _option(name: str) -> str:
    return "DATA" if name == "data" else f"--{name.replace('_', '-')}"


def _choices_of_file(path: Path, values: Mapping[str, Any]) -> None:
    try:
        _choices(values)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _choices(values: Mapping[str, Any]) -> Choices:
    settings = dict(values)
    network, data = settings.pop("network", NETWORK), settings.pop("data", SAMPLE)
    if not isinstance(network, str | dict):
        raise UserError(f"network must be a name, a file or a table, not {network!r}")
    if not isinstance(data, str):
        raise UserError(f"data must be text, not {data!r}")
    return Choices(network, data, settings_from(settings))
