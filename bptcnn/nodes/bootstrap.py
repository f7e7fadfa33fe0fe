"""What a remote agent gets on its standard input: one line of JSON, the only place where the run's key is.

A network that its description says whole travels as that, so that the two sides' Python versions may differ; one that
is more (a class of the user's) is pickled by cloudpickle, and then both must run the same minor version of Python.
"""

import base64
import json
import pickle
import sys
from dataclasses import asdict, dataclass, replace
from typing import Any

from bptcnn.errors import UserError
from bptcnn.networks import Network
from bptcnn.nodes.configuration import LONGEST_CONFIGURATION, HostConfiguration, SampleSource, pickled
from bptcnn.untrusted import Malformed, build, parse_json, printable

PROTOCOL = 2  # of bootstrap, control and frames together
_MALFORMED = (ValueError, KeyError, TypeError)
_NO_CONFIGURATION = "standard input holds no configuration: agents are started by bptcnn train --hosts"


@dataclass(frozen=True)
class Bootstrap:
    """What proves who the agent is, which object it asks the control socket for, and what it is to be."""

    version: str  # of bptcnn
    key: bytes
    desk: str
    configuration: HostConfiguration


def needs_same_python(network: Network) -> bool:
    """Tell whether the network is more than its description, so that it must be pickled."""
    if type(network) is not Network:
        return True
    try:
        return Network.from_dict(network.to_dict()).to_dict() != network.to_dict()
    except UserError:
        return True


def encode_bootstrap(bootstrap: Bootstrap) -> bytes:
    """Return the line to send, without its line break; raise UserError for a network that no agent would take."""
    configuration = bootstrap.configuration
    network: dict[str, Any] = {"python": list(sys.version_info[:2])}
    if needs_same_python(configuration.network):
        network["pickle"] = base64.b64encode(pickled(configuration.network)).decode()
    else:
        network["description"] = configuration.network.to_dict()
    plain = {name: value for name, value in vars(configuration).items() if name not in ("network", "samples")}
    line = json.dumps(
        {
            "protocol": PROTOCOL,
            "version": bootstrap.version,
            "key": bootstrap.key.hex(),
            "desk": bootstrap.desk,
            "network": network,
            "samples": asdict(configuration.samples),
            "settings": plain,
        }
    ).encode()
    if len(line) > LONGEST_CONFIGURATION:
        most = LONGEST_CONFIGURATION / 1e6
        raise UserError(f"the network is {len(line) / 1e6:,.0f} MB of Python code and data, a host takes {most:,.0f}")
    return line


def decode_bootstrap(line: bytes, version: str) -> Bootstrap:
    """The inverse, on a host whose bptcnn is `version`.

    Raises UserError where the two do not fit, before anything is unpickled.
    """
    try:
        values = parse_json(line, LONGEST_CONFIGURATION)
    except Malformed:
        raise UserError(_NO_CONFIGURATION) from None
    if not isinstance(values, dict) or not {"protocol", "version"} <= set(values):
        raise UserError(_NO_CONFIGURATION)
    protocol, theirs = values["protocol"], values["version"]
    if (protocol, theirs) != (PROTOCOL, version):
        raise UserError(
            f"the coordinator runs bptcnn {printable(str(theirs), 50)}, this host {version}: install the same version"
        )
    try:
        key, desk, network = bytes.fromhex(values["key"]), str(values["desk"]), dict(values["network"])
        samples = build(SampleSource, values["samples"])
        # the network last: it may be code
        settings = build(HostConfiguration, values["settings"], made={"network": None, "samples": samples})
    except _MALFORMED:
        raise UserError(_NO_CONFIGURATION) from None
    return Bootstrap(version, key, desk, replace(settings, network=_network(network)))


def _network(values: dict[str, Any]) -> Network:
    if "description" in values:
        return Network.from_dict(values["description"])
    if not isinstance(values.get("python"), list) or not isinstance(values.get("pickle"), str):
        raise UserError(_NO_CONFIGURATION)
    theirs = printable(".".join(map(str, values["python"])), 50)
    ours = ".".join(map(str, sys.version_info[:2]))
    if theirs != ours:
        raise UserError(f"the network is Python code, pickled by Python {theirs}; this host has {ours}: use the same")
    try:
        network: Network = pickle.loads(base64.b64decode(values["pickle"]))
    except Exception as error:  # whatever the user's own classes do, and modules that this host lacks
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"the network cannot be unpickled on this host: {said}") from None
    return network
