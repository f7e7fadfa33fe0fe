"""The options of `train`, and what others share. `{name}` stands for a default, which `defaults` fills in."""

from pathlib import Path
from typing import Annotated

import typer

from bptcnn.names import path_of

_NODES, _LEARNING, _RUN = "Nodes", "Learning", "Run"

Data = Annotated[
    str | None,
    typer.Argument(
        metavar="DATA",
        show_default=False,
        help="A folder of IDX or CIFAR-10 binary files, an .npz with x_train, y_train, x_test, y_test, a .py file that "
        "defines `dataset`, or a known name. Default: the embedded sample of Fashion-MNIST.",
    ),
]
Network = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|FILE", help="A network of the zoo, or a .toml or .py file with one. Default: {network}."
    ),
]
Config = Annotated[
    Path | None,
    typer.Option(
        parser=path_of,
        metavar="FILE.toml",
        help="Read settings from FILE: names as here with _ for -, network and data too. Options given here win. "
        "Python files and a hosts file count only if named here, too.",
    ),
]

Nodes = Annotated[
    str | None,
    typer.Option(
        metavar="SPEC",
        rich_help_panel=_NODES,
        help="Local nodes, a process each: a count (2), or shares of full speed, 0.001 to 1 (1.0,0.5,0.25). "
        "Default: {nodes}.",
    ),
]
Hosts = Annotated[
    Path | None,
    typer.Option(
        parser=path_of,
        metavar="HOSTS.toml",
        rich_help_panel=_NODES,
        help="Train on the machines of this file, through ssh: [\\[host]] tables with address and python, or an Open "
        "MPI hostfile (see bptcnn checks --help). Local nodes only where --nodes asks for them or the file has "
        "local = true.",
    ),
]
RequireAll = Annotated[
    bool | None,
    typer.Option(
        "--require-all",
        rich_help_panel=_NODES,
        show_default=False,
        help="Refuse to start without one of the hosts. Default: the others train, and it may join later.",
    ),
]
HostTimeout = Annotated[
    float | None,
    typer.Option(
        metavar="SECONDS",
        rich_help_panel=_NODES,
        help="Of each step of reaching a host: connecting and logging in, until its Python answers. Default: timeout "
        "of the hosts file, else 30.",
    ),
]
Wire = Annotated[
    str | None,
    typer.Option(
        metavar="FORM",
        rich_help_panel=_NODES,
        help="Weights on their way to hosts: {wires}. Default: float32 on fast networks, else bfloat16.",
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        metavar="T",
        rich_help_panel=_NODES,
        help="Threads of each node. Default: the usable cores, shared; on a host all of them.",
    ),
]
Autotune = Annotated[
    bool | None,
    typer.Option(
        "--autotune/--no-autotune",
        rich_help_panel=_NODES,
        show_default=False,
        help="Choose each layer's algorithm by measuring, up to 20 s once a machine, network and batch size; "
        "without, by rules. Default: by measuring.",
    ),
]
Update = Annotated[
    str | None,
    typer.Option(
        metavar="RULE", rich_help_panel=_NODES, help="How nodes' weights are merged: {updates}. Default: {update}."
    ),
]
Partition = Annotated[
    str | None,
    typer.Option(
        metavar="RULE",
        rich_help_panel=_NODES,
        help="How samples are shared out: {partitions}. idpa follows measured speed. Default: {partition}.",
    ),
]
LocalSteps = Annotated[
    int | None,
    typer.Option(
        metavar="S",
        rich_help_panel=_NODES,
        help="Batches a node trains between submissions. Default: {local_steps}, as few as their cost allows; "
        "with hosts 32, with a node alone {alone_local_steps}.",
    ),
]
Staleness = Annotated[
    int | None,
    typer.Option(
        metavar="S",
        rich_help_panel=_NODES,
        help="A node more than S updates behind submits early. Default: no bound.",
    ),
]

Epochs = Annotated[
    int | None,
    typer.Option(metavar="E", rich_help_panel=_LEARNING, help="Times each training image is used. Default: {epochs}."),
]
BatchSize = Annotated[
    int | None,
    typer.Option(metavar="B", rich_help_panel=_LEARNING, help="Images of a step. Default: {batch_size}."),
]
Precision = Annotated[
    str | None,
    typer.Option(
        metavar="P",
        rich_help_panel=_LEARNING,
        help="Of the products in convolutions: {precisions}. bf16 needs a CPU with AVX512-BF16, and is fastest with "
        "AMX; weights, sums and evaluation are float32. Default: {precision}.",
    ),
]
Lr = Annotated[
    str | None,
    typer.Option(
        metavar="EXPR",
        rich_help_panel=_LEARNING,
        help="Learning rate: a number, an expression of epoch (1, 2, ...) and epochs such as '0.05 * 0.8**epoch', or "
        "a schedule: 'cosine(0.1)', 'step(0.1, every=10, factor=0.5)', and before any of these epochs in which it "
        "grows, 'warmup(cosine(0.1), 3)'. Default: {lr}.",
    ),
]
Momentum = Annotated[
    float | None,
    typer.Option(metavar="M", rich_help_panel=_LEARNING, help="Of SGD, in [0, 1). Default: {momentum}."),
]
WeightDecay = Annotated[
    float | None,
    typer.Option(metavar="D", rich_help_panel=_LEARNING, help="L2 penalty per step. Default: {weight_decay}."),
]
Validation = Annotated[
    float | None,
    typer.Option(
        metavar="FRACTION",
        rich_help_panel=_LEARNING,
        help="Share of the training images held out to choose the best epoch. Default: the test images choose.",
    ),
]
TargetAccuracy = Annotated[
    float | None,
    typer.Option(
        metavar="A", rich_help_panel=_LEARNING, help="Stop after the epoch that reaches this share, in (0, 1]."
    ),
]
Patience = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        rich_help_panel=_LEARNING,
        help="Stop after N epochs in a row that were no better than the best one. Default: never.",
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(
        metavar="S", rich_help_panel=_LEARNING, help="Of initial weights, sample order and dropout. Default: {seed}."
    ),
]

RunDir = Annotated[
    Path | None,
    typer.Option(
        parser=path_of,
        metavar="DIR",
        rich_help_panel=_RUN,
        help="New folder for the results. Default: runs/<time>-<network>.",
    ),
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume",
        rich_help_panel=_RUN,
        help="Continue the run in --run-dir from its last checkpoint, with its own settings. Give DATA where it has "
        "moved (it must be the same by content) or is a .py file, and --hosts where it trained on hosts.",
    ),
]
Init = Annotated[
    Path | None,
    typer.Option(
        parser=path_of,
        metavar="RUN",
        rich_help_panel=_RUN,
        help="Start from the best weights of the run in this folder.",
    ),
]
Measure = Annotated[
    bool | None,
    typer.Option(
        "--measure/--no-measure",
        rich_help_panel=_RUN,
        show_default=False,
        help="Measure each node's speed alone before the run, a second each at most where steps are short: the "
        "summary's efficiency compares with it. Default: measure.",
    ),
]
PrintConfig = Annotated[
    bool,
    typer.Option("--print-config", rich_help_panel=_RUN, help="Print the settings as TOML for --config; no training."),
]
Quiet = Annotated[
    bool,
    typer.Option("--quiet", "-q", rich_help_panel=_RUN, help="Print errors and one final line only."),
]

ByMeasuring = Annotated[
    bool,
    typer.Option(
        "--autotune/--no-autotune",
        help="Choose each layer's algorithm by measuring, as training does, or by rules.",
    ),
]
"""Of commands that measure steps."""
