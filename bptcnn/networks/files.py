"""Networks by name or from the user's file: `NAME`, `FILE.toml`, or `FILE.py` with `network(input_shape, classes)`."""

from pathlib import Path

from bptcnn.errors import UserError
from bptcnn.files import is_file
from bptcnn.names import path_of
from bptcnn.networks.network import MOST_NAME, Network
from bptcnn.networks.zoo import ZOO
from bptcnn.python_files import defined_in
from bptcnn.untrusted import Malformed, parse_toml, printable, read_text


def load_network(source: str, input_shape: tuple[int, int, int], classes: int) -> Network:
    """Return the network that `source` names, for images of `input_shape` and `classes` classes.

    A TOML file holds what `Network.to_dict` gives; `input_shape` may be left out. A Python file, which is run, defines
    `network`: a Network, or a function of (input_shape, classes) that returns one. Raises UserError where there is no
    such network or it does not fit the data.
    """
    if source in ZOO:
        return ZOO[source](input_shape, classes)
    path = path_of(source)
    if path.suffix not in (".py", ".toml"):
        raise UserError(
            f"unknown network {printable(source, 200)!r}: give one of {', '.join(ZOO)}, or a .toml or .py file"
        )
    if not is_file(path):
        raise UserError(f"no network file at {source}")
    network = _from_toml(path, input_shape) if path.suffix == ".toml" else _from_python(path, input_shape, classes)
    if network.input_shape != tuple(input_shape):
        raise UserError(f"{source}: the network wants images of {network.input_shape}, the data has {input_shape}")
    if network.classes < classes:
        raise UserError(f"{source}: the network ends in {network.classes} logits, the data has {classes} classes")
    return network


def _from_toml(path: Path, input_shape: tuple[int, int, int]) -> Network:
    try:
        description = parse_toml(read_text(path, "network file"))
    except Malformed as error:
        raise UserError(f"cannot read the network file {path}: {error}") from None
    try:
        return Network.from_dict({"name": path.stem[:MOST_NAME], "input_shape": list(input_shape), **description})
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _from_python(path: Path, input_shape: tuple[int, int, int], classes: int) -> Network:
    network = defined_in(path, "network", input_shape, classes)
    if isinstance(network, Network) and network.name == "custom":
        network.name = path.stem[:MOST_NAME]
    if not isinstance(network, Network):
        raise UserError(
            f"{path} must define `network`: a Network, or a function (input_shape, classes) that returns one"
        )
    return network
