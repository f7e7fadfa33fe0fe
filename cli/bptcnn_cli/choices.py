"""What a run is to be: the command line over a configuration file, or over the run that is resumed, over defaults.

A configuration, or a run folder, may be somebody else's. What they name is read, but what would run programs (Python
files, and hosts files, which say whom ssh calls and what runs there) counts only where the command line names it.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import tomli_w

from bptcnn.data import Dataset, load
from bptcnn.data.loading import SAMPLE
from bptcnn.errors import UserError
from bptcnn.names import path_of, text_of
from bptcnn.networks import Network, load_network
from bptcnn.training.run_folder import RunFolder
from bptcnn.training.settings import RESUMABLE, TrainSettings, read_config, settings_from
from bptcnn_cli.defaults import NETWORK
from bptcnn_cli.output import shell_word


@dataclass(frozen=True)
class Choices:
    """The network by name or file, or as `Network.to_dict` describes it (so in run folders); the data; the settings.

    `said`: what the command line itself says. `source`: the file that says the rest.
    """

    network: str | dict[str, Any]
    data: str
    settings: TrainSettings
    said: Mapping[str, Any] = field(default_factory=dict, compare=False)
    source: Path | None = field(default=None, compare=False)

    def require_named(self) -> None:
        """Raise UserError where something would run programs that the command line does not name."""
        if self.source is None:
            return
        if "data" not in self.said:
            require_no_code(self.source, self.data)
        if "network" not in self.said and is_python(self.network):
            raise _unnamed(self.source, f"the network {self.network}, a Python file,", "--network", str(self.network))
        if "hosts" not in self.said and self.settings.hosts is not None:
            raise _unnamed(self.source, f"the hosts file {self.settings.hosts}", "--hosts", self.settings.hosts)

    def to_name_again(self) -> list[str]:
        """Return what a command that resumes the run has to say because it runs programs."""
        data = [self.data] if is_python(self.data) else []
        return [*data, *([] if self.settings.hosts is None else ["--hosts", self.settings.hosts])]

    def changes(self) -> dict[str, Any]:
        """Return the settings that the command line itself says."""
        return {name: value for name, value in self.said.items() if name not in ("network", "data")}

    def load_data(self) -> Dataset:
        """Return the data set; raise UserError where there is none, or it is code that nobody named."""
        self.require_named()
        try:
            return load(self.data)
        except UserError as error:
            if self.source is None or "data" in self.said:
                raise
            raise UserError(f"{self.source} names its data: {error}; if they have moved, give DATA, too") from None

    def load_network(self, dataset: Dataset) -> Network:
        """Return the network for this data; raise UserError where it does not exist or does not fit."""
        self.require_named()
        if isinstance(self.network, str):
            return load_network(self.network, dataset.train.input_shape, dataset.classes)
        return Network.from_dict(self.network)

    def to_toml(self) -> str:
        """Return a configuration that `--config` reads back."""
        network = text_of(self.network) if isinstance(self.network, str) else self.network
        return tomli_w.dumps({"network": network, "data": text_of(self.data), **self.settings.to_dict()})


def choose(given: Mapping[str, Any], config: Path | None) -> Choices:
    """Return the choices of a new run. `given` holds what the command line says, None for what it does not say.

    Raises UserError for a file that cannot be read, unknown names, wrong types and wrong values.
    """
    said = _said(given)
    if config is None:
        return _choices(said)
    values = read_config(config)
    _choices_of_file(config, values)  # an error of the file's own names the file
    return replace(_choices({**values, **said}), said=said, source=config)


def choose_resumed(given: Mapping[str, Any], run_dir: Path) -> Choices:
    """Return the choices of a run that goes on: its config.toml, with what may change. Raises UserError as `choose`."""
    said, folder = _said(given), RunFolder.open(run_dir)
    values = folder.read_config()
    _choices_of_file(folder.config, {**values, **{name: said[name] for name in RESUMABLE if name in said}})
    # data may have moved, Python files are named again: the run folder says whether they still are what they were
    named_again = {"data", "network"} if is_python(said.get("network")) else {"data"}
    fixed = [name for name in said if name not in RESUMABLE and name not in named_again]
    if fixed:
        allowed = ", ".join(_option(name) for name in ("data", *RESUMABLE))
        raise UserError(f"{_option(fixed[0])} cannot change when a run is resumed: only {allowed} can")
    return replace(_choices({**values, **said}), said=said, source=folder.config)


def data_of_run(run_dir: Path) -> str:
    """Return what an earlier run was trained on; raise UserError where there is none, or it is code."""
    folder = RunFolder.open(run_dir)
    values = folder.read_config()
    with _named(folder.config):
        _, data = _sources(values)
    require_no_code(folder.config, data)
    return data


def is_python(source: object) -> bool:
    """Whether this is a Python file, which is run."""
    return isinstance(source, str) and path_of(source).suffix == ".py"


def require_no_code(source: Path, data: str) -> None:
    """Raise UserError where the data set that a file names is a Python file."""
    if is_python(data):
        raise _unnamed(source, f"the data set {data}, a Python file,", "", data)


def _unnamed(source: Path, what: str, option: str, value: str) -> UserError:
    remedy = " ".join(filter(None, (option, shell_word(value))))
    return UserError(f"{source} names {what} which runs only where the command names it: add {remedy}, if you trust it")


def _said(given: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in given.items() if value is not None}


def _option(name: str) -> str:
    return "DATA" if name == "data" else f"--{name.replace('_', '-')}"


def _choices_of_file(path: Path, values: Mapping[str, Any]) -> None:
    with _named(path):
        _choices(values)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Name the file in errors."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _choices(values: Mapping[str, Any]) -> Choices:
    settings = {name: value for name, value in values.items() if name not in ("network", "data")}
    return Choices(*_sources(values), settings_from(settings))


def _sources(values: Mapping[str, Any]) -> tuple[str | dict[str, Any], str]:
    """Return what names or describes the network, and what names the data."""
    network, data = values.get("network", NETWORK), values.get("data", SAMPLE)
    if not isinstance(network, str | dict):
        raise UserError(f"network must be a name, a file or a table, not {network!r:.100}")
    if not isinstance(data, str):
        raise UserError(f"data must be text, not {data!r:.100}")
    return network, data
