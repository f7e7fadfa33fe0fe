"""Files that users write or are given: hosts files, configurations, networks, profiles, tunings; and learning rates."""

import math
import random
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tomli_w
from bptcnn_cli.choices import choose
from fuzz.harness import CANARY, Kind, Target, line
from fuzz.mutation import scrambled
from fuzz.texts import Texts, in_file
from fuzz.writing import toml_text
from profiling.profile_examples import profile

from bptcnn.errors import UserError
from bptcnn.inner.tuning import Tuning
from bptcnn.networks import ZOO, Network, load_network
from bptcnn.nodes import read_hosts
from bptcnn.nodes.hosts import host_from, host_keys
from bptcnn.nodes.ssh import ssh_command
from bptcnn.profiling.files import read_profile, read_tuning, write_profile, write_tuning
from bptcnn.profiling.records import Trial, TuningRecord
from bptcnn.training.schedules import learning_rates
from bptcnn.training.settings import TrainSettings

HOSTS = {
    "host": [
        {"address": "user@a.b.c", "python": "/opt/python", "port": 22, "threads": 4, "workdir": "work", "name": "one"},
        {"address": "b", "python": "/usr/bin/python3", "env": {"OMP_PROC_BIND": "true"}},
        {"local": True, "threads": 2},
    ]
}
HOSTFILE = b"# two machines\nuser@a slots=4 max_slots=8 python=/opt/python\nlocalhost slots = 2\n"
LEARNING_RATES = (
    *("0.05", "0.05 * 0.8 ** epoch", "step(0.1, every=10, factor=0.5)", "cosine(0.1, floor=0.001)"),
    *("warmup(cosine(0.1), 3)", "warmup(step(0.1, 2), 2)", "where(epoch < 3, 0.1, 0.01)", "0.1 / (1 + epoch / epochs)"),
    *("exp(-epoch) + sqrt(epochs)", "0.1 * cos(epoch / epochs)", "1e-3"),
)
PAYLOADS = (
    *(f"__import__('os').system('touch {CANARY}')", f"open('{CANARY}', 'w')", f"exec(\"open('{CANARY}', 'w')\")"),
    *(f"(lambda: open('{CANARY}'))()", f"[open('{CANARY}') for _ in (1,)][0]", f"__import__('{CANARY}')"),
    *(f"epoch.tofile('{CANARY}')", "epoch.__class__.__mro__", "().__class__.__base__.__subclasses__()", "epoch.real"),
    *(f"eval('open(\"{CANARY}\")')", f"f\"{{open('{CANARY}')}}\"", f"where(open('{CANARY}'), 1, 2)", "sin.__globals__"),
    *(f"warmup(open('{CANARY}'), 1)", f"step(open('{CANARY}'), 1)", f"warmup(epoch.tofile('{CANARY}'), 1)", "exit()"),
    *("9 ** 9 ** 9", "9 ** 9 ** 9 ** 9", "0.1 ** 999999999", "1 << 99999999999", "'a' * 10 ** 10", "[0] * 10 ** 10"),
    *("(" * 300 + "1" + ")" * 300, "-" * 5000 + "1", "warmup(" * 100 + "0.1" + ", 1)" * 100, "epoch" + "+epoch" * 3000),
    *(
        "1" * 5000,
        "0.1 if epoch else 1",
        "(epoch := 3)",
        "await epoch",
        "yield",
        "*epoch",
        "**epoch",
        "epoch[0]",
        "b''",
    ),
    *(
        "epoch.max()",
        "sum(epoch)",
        "1j",
        "nan",
        "inf",
        "1e999",
        "epoch @ epoch",
        "epoch, epoch",
        "...",
        "None",
        "__debug__",
    ),
    *(f"print(file=open('{CANARY}', 'w')) or 1", "0.1; 0.2", "0.1\n0.2", "\x00", "0.1 # x", "\u0435poch", "0.1\u2028"),
    *(
        "step(0.1, every=2**62)",
        "step(0.1, 10**400)",
        "step(1e308, 1, 1e308)",
        "cosine(1e308, -1e308)",
        "cosine()",
        "step",
    ),
)


class Rates(Target):
    """Expressions of the learning rate, and attempts to have them run something."""

    def valid(self) -> Sequence[tuple[str, int]]:
        return [(expression, epochs) for expression in LEARNING_RATES[:8] for epochs in (4, 20)]

    def draw(self, draw: random.Random) -> tuple[str, int]:
        text = draw.choice(LEARNING_RATES if draw.random() < 0.5 else PAYLOADS)
        for _ in range(draw.choice((0, 0, 1, 1, 2))):
            other = draw.choice((*LEARNING_RATES, *PAYLOADS))
            text = draw.choice(
                (f"{text} + {other}", f"warmup({text}, 1)", f"({text}) * ({other})", f"exp({text})", f"-({text})")
            )
        if draw.random() < 0.4:
            text = scrambled(text.encode("utf-8", "surrogatepass"), draw).decode("utf-8", "surrogateescape")
        return text, draw.choice((1, 2, 4, 20, 1000, 1_000_000))

    def take(self, given: tuple[str, int]) -> str | None:
        expression, epochs = given
        try:
            rates = learning_rates(expression, epochs)
        except UserError as error:
            return line(error)
        assert len(rates) == epochs
        assert all(isinstance(rate, float) and math.isfinite(rate) and rate > 0 for rate in rates)
        return None


def _hosts(path: Path) -> None:
    for host in read_hosts(path):
        assert host_from("", host_keys(host)) == host
        if not host.local:
            assert all("\x00" not in word and "\n" not in word for word in ssh_command(host, ("-V",)))


def _configuration(path: Path) -> None:
    choices = choose({}, path)
    if isinstance(choices.network, dict):  # as `load_network` has it
        Network.from_dict(choices.network)
    assert len(choices.settings.learning_rates()) == choices.settings.epochs
    written = path.with_name("written.toml")
    written.write_text(choices.to_toml())
    assert choose({}, written) == choices


def _network(path: Path) -> None:
    network = load_network(str(path), (28, 28, 1), 10)
    assert network.from_dict(network.to_dict()).to_dict() == network.to_dict()
    assert all(parameter.size > 0 and parameter.offset >= 0 for parameter in network.parameters)
    assert network.size == sum(parameter.size for parameter in network.parameters)


def _networks() -> list[Any]:
    found = []
    for name in ("cnn2", "lenet5", "resnet18", "mobilenet"):
        if name in ZOO:
            found.append(ZOO[name]((28, 28, 1), 10).to_dict())
    layers = [
        {"layer": "Conv2D", "filters": 4, "kernel_size": 3},
        {"layer": "Concatenate", "branches": [[{"layer": "Conv2D", "filters": 2, "kernel_size": 1}], []]},
        {"layer": "Flatten"},
        {"layer": "Dense", "units": 10},
    ]
    return [*found, {"name": "own", "input_shape": [28, 28, 1], "layers": layers}]


def tuning() -> TuningRecord:
    trial = Trial("conv 3x3", "direct", 1.0, 0.9, 0.9, True)
    texts = ("a CPU", "avx2", "0.1.0", "cnn2", "ab" * 16)
    return TuningRecord(*texts, 64, "float32", 2, 1.5, Tuning(), (trial,))


@contextmanager
def _open_hosts(folder: Path) -> Iterator[Target]:
    yield Texts([HOSTS, tomli_w.dumps(HOSTS).encode()], toml_text, in_file(folder / "hosts.toml", _hosts), (UserError,))


@contextmanager
def _open_hostfile(folder: Path) -> Iterator[Target]:
    yield Texts([HOSTFILE], toml_text, in_file(folder / "hostfile", _hosts), (UserError,))


@contextmanager
def _open_configuration(folder: Path) -> Iterator[Target]:
    own = TrainSettings(staleness=4, threads=1, validation=0.1, target_accuracy=0.9, patience=2, local_steps=4)
    seeds = [
        {"network": "cnn2", "data": "fashion-mnist-sample", **TrainSettings(lr="step(0.1, 2)").to_dict()},
        {
            "network": ZOO["lenet5"]((28, 28, 1), 10).to_dict(),
            **own.to_dict(),
            "hosts": "/etc/hosts.toml",
            "wire": "float16",
        },
    ]
    yield Texts(seeds, toml_text, in_file(folder / "config.toml", _configuration), (UserError,))


@contextmanager
def _open_network(folder: Path) -> Iterator[Target]:
    seeds = _networks()
    yield Texts(
        [*seeds, tomli_w.dumps(seeds[0]).encode()], toml_text, in_file(folder / "net.toml", _network), (UserError,)
    )


@contextmanager
def _open_profile(folder: Path) -> Iterator[Target]:
    write_profile(folder / "seed.toml", profile())
    seed = (folder / "seed.toml").read_bytes()
    yield Texts(
        [tomllib.loads(seed.decode()), seed], toml_text, in_file(folder / "profile.toml", read_profile), (UserError,)
    )


@contextmanager
def _open_tuning(folder: Path) -> Iterator[Target]:
    write_tuning(folder / "seed.toml", tuning())
    seed = (folder / "seed.toml").read_bytes()
    yield Texts(
        [tomllib.loads(seed.decode()), seed], toml_text, in_file(folder / "tuning.toml", read_tuning), (UserError,)
    )


@contextmanager
def _open_rates(folder: Path) -> Iterator[Target]:
    yield Rates()


KINDS = (
    Kind("hosts-file", 60, _open_hosts),
    Kind("hostfile", 30, _open_hostfile),
    Kind("configuration", 80, _open_configuration),
    Kind("network", 70, _open_network),
    Kind("profile", 30, _open_profile),
    Kind("tuning", 30, _open_tuning),
    Kind("learning-rate", 80, _open_rates),
)
