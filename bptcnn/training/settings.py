"""A run's settings: defaults, checks, and their TOML form."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, get_args

from bptcnn.errors import UserError
from bptcnn.names import path_of, text_of
from bptcnn.nodes.hosts import checked_timeout
from bptcnn.nodes.wire import Wire
from bptcnn.outer import Partition, Update
from bptcnn.precision import Precision
from bptcnn.training.schedules import learning_rates
from bptcnn.untrusted import Malformed, parse_toml, printable, read_text

_MOST_NODES = 256
_SLOWEST = 0.001  # of full speed: below, a batch takes minutes, and a node that works looks like one that hangs
_TWO_NODES = (1.0, 1.0)
_LOCAL_STEPS = (2, 8)  # as submissions' cost allows (outer/README.md)
_HOST_LOCAL_STEPS = 32  # a quarter of the weights to move (benchmarks/hosts.py)
_ALONE_FLOPS = 1e11  # of a local iteration of a node alone: some tenths of a second
_MOST_ALONE = 32  # steps of that; cnn2's 8 on 2 threads would spend 3 % of the time on submitting
_MOST_MESSAGE = 500  # characters: a wrong value may be long
_MOST = {
    "epochs": 1_000_000,
    "batch_size": 65_536,
    "local_steps": 1_000_000,
    "staleness": 1_000_000,
    "patience": 1_000_000,
    "threads": max(64, 4 * (os.cpu_count() or 1)),  # more could only get in each other's way
    "seed": 2**63 - 1,
}


@dataclass(frozen=True)
class TrainSettings:
    """What `train` can be told. One local node for each of `nodes`, a speed from 0.001 to 1; `threads` each.

    `hosts`: a hosts file, whose machines train, beside local nodes only if `nodes` says so; `require_all`: refuse to
    start without one of them. `host_timeout`: seconds for each step of reaching a host (None: as the hosts file says,
    else 30). `wire`: the form of weights on their way to hosts (None: by measured bandwidth).

    `precision`: of the products in convolutions; weights, sums and evaluation are float32. `lr` is a number, an
    expression of `epoch` (1, 2, ...) and `epochs`, or a schedule: see `schedules`. `local_steps` None: 32 where there
    are hosts, else 8, or down to 2 where submissions cost little, or up to 32 of a small network on a node alone.
    `staleness`: a node more than so many updates behind submits early (None: no bound). `validation`: the share of the
    training set that is held out to choose the best epoch and to stop by; without, the test set serves. `patience`:
    stop after so many epochs without a better one (None: never). `threads` None: the usable cores, shared out.
    `measure`: measure each node's speed alone before the run, for its efficiency. `autotune`: choose the algorithms of
    the step by measuring them once on each machine; without, by rules.
    """

    nodes: tuple[float, ...] = ()  # 1.0, 1.0 where there are no hosts
    hosts: str | None = None
    require_all: bool = False
    host_timeout: float | None = None
    wire: Wire | None = None
    update: Update = "agwu"
    partition: Partition = "idpa"
    epochs: int = 8
    batch_size: int = 64
    precision: Precision = "float32"
    lr: str = "0.05"
    momentum: float = 0.9
    weight_decay: float = 0.0
    local_steps: int | None = None
    staleness: int | None = None
    threads: int | None = None
    autotune: bool = True
    seed: int = 0
    validation: float | None = None
    target_accuracy: float | None = None
    patience: int | None = None
    measure: bool = True

    def __post_init__(self) -> None:
        """Raise UserError for values that make no sense."""
        if self.nodes in ((), []):
            object.__setattr__(self, "nodes", _TWO_NODES if self.hosts is None else ())
        else:
            object.__setattr__(self, "nodes", parse_nodes(self.nodes))
        if self.hosts is not None:
            if not isinstance(self.hosts, str | os.PathLike):
                raise UserError(f"hosts must be the path of a hosts file, not {self.hosts!r}")
            object.__setattr__(self, "hosts", os.path.abspath(path_of(self.hosts)))
        for name in ("require_all", "measure", "autotune"):
            if not isinstance(getattr(self, name), bool):
                raise UserError(f"{name} must be true or false, not {getattr(self, name)!r}")
        if self.host_timeout is not None:
            object.__setattr__(self, "host_timeout", checked_timeout("host timeout", self.host_timeout))
        object.__setattr__(self, "lr", str(self.lr))
        kinds = (("update", Update), ("partition", Partition), ("wire", Wire), ("precision", Precision))
        for name, kind in kinds:
            if name != "wire" or self.wire is not None:
                check_choice(name, getattr(self, name), kind)
        for name in ("epochs", "batch_size"):
            check_whole(name, getattr(self, name), 1)
        check_whole("seed", self.seed, 0)
        for name, least in (("local_steps", 1), ("staleness", 0), ("threads", 1), ("patience", 1)):
            if getattr(self, name) is not None:
                check_whole(name, getattr(self, name), least)
        check_share("momentum", self.momentum, 0.0 <= self.momentum < 1.0, "at least 0 and below 1")
        if not (math.isfinite(self.weight_decay) and self.weight_decay >= 0.0):
            raise UserError(f"weight decay must be 0 or more, not {self.weight_decay}")
        if self.validation is not None:
            check_share("validation", self.validation, 0.0 < self.validation < 1.0, "between 0 and 1")
        if self.target_accuracy is not None:
            reachable = 0.0 < self.target_accuracy <= 1.0
            check_share("target accuracy", self.target_accuracy, reachable, "above 0, at most 1")
        self.learning_rates()

    def local_step_range(self) -> tuple[int, int]:
        """Return the fewest and the most steps of a local iteration: those given, or what is chosen from."""
        if self.local_steps is not None:
            return self.local_steps, self.local_steps
        return _LOCAL_STEPS if self.hosts is None else (_HOST_LOCAL_STEPS, _HOST_LOCAL_STEPS)

    def alone_local_steps(self, step_flops: int) -> int:
        """Return the steps of a local iteration of a node alone, whose step takes so many operations.

        It learns the same however seldom it submits.
        """
        _, most = self.local_step_range()
        return most if self.local_steps is not None else max(most, min(_MOST_ALONE, int(_ALONE_FLOPS / step_flops)))

    def learning_rates(self) -> tuple[float, ...]:
        """Return the learning rate of every epoch."""
        return learning_rates(self.lr, self.epochs)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for TOML, without what is None."""
        values = {name: value for name, value in asdict(self).items() if value is not None}
        hosts = {} if self.hosts is None else {"hosts": text_of(self.hosts)}
        return {**values, **hosts, "nodes": list(self.nodes)}


RESUMABLE = (
    "epochs",
    "host_timeout",
    "hosts",
    "measure",
    "nodes",
    "patience",
    "require_all",
    "staleness",
    "target_accuracy",
    "threads",
    "wire",
)
"""What a resumed run may change: how long and by whom it is trained. The rest would make it another run."""


def read_config(path: Path) -> dict[str, Any]:
    """Read a TOML file of settings; raise UserError where it is none. Names are those of `TrainSettings`."""
    try:
        return parse_toml(read_text(path, "configuration file"))
    except Malformed as error:
        raise UserError(f"cannot read the configuration {path}: {error}") from None


def settings_from(values: Mapping[str, Any]) -> TrainSettings:
    """Return settings from plain values; raise UserError for unknown names, wrong types and wrong values."""
    known = {field.name for field in fields(TrainSettings)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise UserError(f"unknown setting {unknown[0]!r:.100}: known are {', '.join(sorted(known))}")
    try:
        return TrainSettings(**values)
    except (TypeError, OverflowError) as error:
        raise UserError(f"a setting has the wrong type: {error}") from None
    except UserError as error:
        raise UserError(printable(str(error), _MOST_MESSAGE)) from None


def parse_nodes(spec: int | str | Sequence[float]) -> tuple[float, ...]:
    """Return the nodes' speeds from a count, `"1.0,0.5"`, or a sequence; raise UserError for anything else."""
    advice = "give a count (2) or speeds (1.0,0.5,0.25)"
    if isinstance(spec, bool):
        raise UserError(f"nodes {spec!r}: {advice}")
    if isinstance(spec, str):
        text = spec.strip()
        try:
            spec = int(text) if "," not in text and "." not in text else [float(part) for part in text.split(",")]
        except ValueError:
            raise UserError(f"nodes {text!r}: {advice}") from None
    if isinstance(spec, int):
        if not 1 <= spec <= _MOST_NODES:
            raise UserError(f"nodes {spec}: {advice}, 1 to {_MOST_NODES} of them")
        return (1.0,) * spec
    try:
        speeds = tuple(float(speed) for speed in spec)
    except (TypeError, ValueError, OverflowError):
        raise UserError(f"nodes {spec!r}: {advice}") from None
    if not 1 <= len(speeds) <= _MOST_NODES:
        raise UserError(f"nodes {','.join(map(str, speeds))!r}: {advice}, 1 to {_MOST_NODES} of them")
    for speed in speeds:
        check_speed("the speed of each of the nodes", speed)
    return speeds


def check_speed(name: str, value: float) -> None:
    """Raise UserError unless a node's speed is a share of full speed at which it can take part."""
    check_share(name, value, _SLOWEST <= value <= 1.0, f"at least {_SLOWEST:g}, at most 1")


def check_choice(name: str, value: Any, kind: Any) -> Any:
    """Return `value`, one of the strings that the Literal type `kind` names; raise UserError where it is none."""
    choices = get_args(kind)
    if value not in choices:
        raise UserError(f"{name} {value!r} does not exist: choose one of {', '.join(choices)}")
    return value


def check_whole(name: str, value: object, least: int) -> None:
    """Raise UserError unless `value` is a whole number from `least` to the most that makes sense for `name`."""
    most = _MOST[name]
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise UserError(f"{name.replace('_', ' ')} must be a whole number from {least} to {most}, not {value!r}")


def check_share(name: str, value: float, holds: bool, wanted: str) -> None:
    """Raise UserError unless it `holds` that the value is as `wanted`."""
    if not holds:
        raise UserError(f"{name} must be {wanted}, not {value}")
