"""The options of `benchmark`."""

from pathlib import Path
from typing import Annotated

import typer

from bptcnn.names import path_of

NETWORKS = ("cnn2", "lenet5", "vgg11", "resnet18")
SIMULATED = (8, 16, 32, 64)
_PEER = "Peer"

Networks = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="NETWORK",
        show_default=False,
        help=f"Networks of the zoo, or .toml or .py files. Default: {' '.join(NETWORKS)}.",
    ),
]
InputShape = Annotated[
    str | None,
    typer.Option(
        metavar="H,W,C",
        show_default=False,
        help="Height, width and channels of the images. Default: 28,28,1 for cnn2 and lenet5, 224,224,3 for "
        "alexnet and resnet50, else 32,32,3.",
    ),
]
BatchSize = Annotated[
    int | None,
    typer.Option(metavar="B", show_default=False, help="Images of a step. Default: 64, for alexnet and resnet50 16."),
]
Threads = Annotated[
    int | None,
    typer.Option(metavar="T", show_default=False, help="Threads of a step. Default: the usable cores."),
]
Precision = Annotated[
    str,
    typer.Option(
        metavar="P",
        help="Of the products in convolutions: float32, or bf16; the peer's steps are then under its autocast.",
    ),
]
Rounds = Annotated[int, typer.Option(metavar="R", min=1, max=1000, help="Rounds, whose median counts.")]
Seconds = Annotated[float, typer.Option(metavar="S", min=0.01, max=3600, help="Seconds of a round, on each side.")]
Layers = Annotated[bool, typer.Option("--layers", help="Show what each layer takes and reaches.")]
Simulate = Annotated[
    bool,
    typer.Option(
        "--simulate",
        help=f"Show what the step would reach on {', '.join(map(str, SIMULATED[:-1]))} and {SIMULATED[-1]} "
        "threads, by its tasks' measured costs.",
    ),
]
Scaling = Annotated[
    bool,
    typer.Option(
        "--scaling",
        help="Show how many times as fast all threads are as one, and as many one-thread copies at once.",
    ),
]
Peer = Annotated[
    str | None,
    typer.Option(
        metavar="PEER", show_default=False, rich_help_panel=_PEER, help="Measure the same steps in torch (PyTorch)."
    ),
]
PeerPython = Annotated[
    str | None,
    typer.Option(
        metavar="PYTHON",
        show_default=False,
        rich_help_panel=_PEER,
        help="A Python that has the peer installed; it needs no bptcnn. Default: this one.",
    ),
]
Compile = Annotated[
    bool | None,
    typer.Option(
        "--compile/--no-compile",
        show_default=False,
        rich_help_panel=_PEER,
        help="Let the peer train compiled (torch.compile), too, or only eagerly, which is quicker. Default: compiled, "
        "too.",
    ),
]
Output = Annotated[
    Path | None,
    typer.Option(
        parser=path_of, metavar="FILE.json", show_default=False, help="Write everything that was measured to FILE."
    ),
]
