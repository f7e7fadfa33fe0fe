"""`bptcnn train`."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from bptcnn.errors import UserError
from bptcnn.files import is_file
from bptcnn_cli import options
from bptcnn_cli.output import complain, console, say, shell_word

if TYPE_CHECKING:
    from bptcnn.training import Result
    from bptcnn_cli.choices import Choices


def train(
    data: options.Data = None,
    network: options.Network = None,
    config: options.Config = None,
    nodes: options.Nodes = None,
    hosts: options.Hosts = None,
    require_all: options.RequireAll = None,
    host_timeout: options.HostTimeout = None,
    wire: options.Wire = None,
    threads: options.Threads = None,
    autotune: options.Autotune = None,
    update: options.Update = None,
    partition: options.Partition = None,
    local_steps: options.LocalSteps = None,
    staleness: options.Staleness = None,
    epochs: options.Epochs = None,
    batch_size: options.BatchSize = None,
    precision: options.Precision = None,
    lr: options.Lr = None,
    momentum: options.Momentum = None,
    weight_decay: options.WeightDecay = None,
    validation: options.Validation = None,
    target_accuracy: options.TargetAccuracy = None,
    patience: options.Patience = None,
    seed: options.Seed = None,
    run_dir: options.RunDir = None,
    resume: options.Resume = False,
    init: options.Init = None,
    measure: options.Measure = None,
    print_config: options.PrintConfig = False,
    quiet: options.Quiet = False,
) -> None:
    """Train a network; leave a run folder with weights, metrics and a report.

    \b
    Examples:
      bptcnn train                               the embedded sample, 2 nodes
      bptcnn train --nodes 1.0,0.5,0.25          three nodes of different speeds
      bptcnn train mnist/ --network lenet5       a folder of IDX files
      bptcnn train mnist/ --hosts hosts.toml     machines that ssh reaches
      bptcnn train --resume --run-dir runs/a     go on after Ctrl-C or a crash
    """
    given = {
        "data": data,
        "network": network,
        "nodes": nodes,
        "hosts": None if hosts is None else str(hosts),
        "require_all": require_all,
        "host_timeout": host_timeout,
        "wire": wire,
        "threads": threads,
        "autotune": autotune,
        "update": update,
        "partition": partition,
        "local_steps": local_steps,
        "staleness": staleness,
        "epochs": epochs,
        "batch_size": batch_size,
        "precision": precision,
        "lr": lr,
        "momentum": momentum,
        "weight_decay": weight_decay,
        "validation": validation,
        "target_accuracy": target_accuracy,
        "patience": patience,
        "seed": seed,
        "measure": measure,
    }
    choices = _choices(given, config, run_dir, resume, init)
    if print_config:
        say(choices.to_toml().rstrip())
        return
    _run(choices, run_dir, resume, init, quiet)


def _choices(
    given: dict[str, Any], config: Path | None, run_dir: Path | None, resume: bool, init: Path | None
) -> "Choices":
    from bptcnn_cli.choices import choose, choose_resumed

    if not resume:
        return choose(given, config)
    if run_dir is None:
        raise UserError("--resume needs --run-dir: the folder of the run to continue")
    for option, value in (("--config", config), ("--init", init)):
        if value is not None:
            raise UserError(f"{option} does not go with --resume: the run's own settings and weights are continued")
    return choose_resumed(given, run_dir)


def _run(choices: "Choices", run_dir: Path | None, resume: bool, init: Path | None, quiet: bool) -> None:
    """Train, show it, and say how it ended."""
    from bptcnn.training import train as train_network
    from bptcnn_cli.displays import fitting_display
    from bptcnn_cli.relay import Relay
    from bptcnn_cli.result import show_result

    measured = "test" if choices.settings.validation is None else "validation"
    relay = Relay(fitting_display(quiet, measured))
    try:
        with relay:
            dataset = choices.load_data()
            network = choices.load_network(dataset)
            # a resumed run's own settings may change until its folder is locked
            settings, changes = (None, choices.changes()) if resume else (choices.settings, {})
            result: Result = train_network(
                network, dataset, settings, run_dir=run_dir, resume=resume, init=init, observer=relay, **changes
            )
    except KeyboardInterrupt:
        if relay.stuck:
            os._exit(130)  # everything is saved, and its thread would hold up the interpreter's end
        complain(_kept(relay.run_dir, choices))
        raise typer.Exit(130) from None
    except BrokenPipeError as error:  # typer would take it for a reader of our output that went away
        raise RuntimeError("a pipe broke") from error
    show_result(console(), result, quiet)


def _kept(run_dir: Path | None, choices: "Choices") -> str:
    """What an interrupted run leaves, and the command that goes on with it."""
    try:
        if run_dir is None or not is_file(run_dir / "last.safetensors"):
            return "interrupted before the first epoch ended: there is no checkpoint"
    except UserError as error:
        return f"interrupted: {error}"
    words = ["bptcnn", "train", "--resume", "--run-dir", str(run_dir), *choices.to_name_again()]
    command = " ".join(map(shell_word, words))
    return f"interrupted: {run_dir} keeps the last checkpoint; go on with {command}"
