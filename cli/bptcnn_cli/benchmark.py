"""`bptcnn benchmark`."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bptcnn.errors import UserError
from bptcnn_cli import benchmark_options as options
from bptcnn_cli.options import ByMeasuring
from bptcnn_cli.output import console
from bptcnn_cli.shapes import parse_shape

if TYPE_CHECKING:
    from bptcnn.profiling.benchmarking import Benchmark, TorchPeer


def benchmark(
    networks: options.Networks = None,
    input_shape: options.InputShape = None,
    batch_size: options.BatchSize = None,
    threads: options.Threads = None,
    precision: options.Precision = "float32",
    rounds: options.Rounds = 5,
    seconds: options.Seconds = 2.0,
    layers: options.Layers = False,
    simulate: options.Simulate = False,
    autotune: ByMeasuring = True,
    scaling: options.Scaling = False,
    peer: options.Peer = None,
    peer_python: options.PeerPython = None,
    compile_: options.Compile = None,
    output: options.Output = None,
) -> None:
    """Measure how fast networks train on this machine; best when nothing else runs.

    A step is forward, backward and update on one of 16 batches of random images.
    Speed is counted as images/s, as GFLOP/s (of the direct algorithm: a faster
    algorithm may pass 100 % of the peak) and as a share of what multiply-adds on
    registers alone reach. Idle is the threads' time within a step in which they
    find no task, steals are the tasks of a step that they take from each other.
    Memory is the most that a process which only trains has resident.

    With --peer torch, PyTorch trains the same networks: same layers, paddings and
    With --peer torch, PyTorch trains the same networks: same layers, paddings and
    batches, SGD with momentum, all in float32 or, with --precision bf16, under
    autocast, in both of its memory formats, eagerly and compiled (torch.compile).
    The fastest of the four counts; the time that compiling takes does not. The two
    sides take turns, every measurement in a process of its own. Takes about half a
    minute a network, with the peer some minutes.

    --simulate replays the scheduler in virtual time. It knows the tasks of the
    step and their order, not what more threads take from each other in memory.
    --scaling measures that: independent copies share nothing but the machine, so
    what they reach together is the ceiling for threads that share the work.

    \b
    Examples:
      bptcnn benchmark
      bptcnn benchmark vgg11 --layers --simulate
      bptcnn benchmark cnn2 --peer torch --peer-python ~/torch/bin/python
    """
    from bptcnn.files import write_atomically
    from bptcnn_cli.benchmark_tables import as_json, show_benchmark

    plan = _Plan(
        tuple(networks or options.NETWORKS),
        None if input_shape is None else parse_shape(input_shape),
        batch_size,
        threads,
        precision,
        rounds,
        seconds,
        simulate,
        scaling,
        autotune,
        _peer(peer, peer_python, compile_),
    )
    if output is not None:
        _check_place(output)
    found = _measure(plan)
    terminal = console()
    show_benchmark(terminal, found, layers)
    if output is not None:
        write_atomically(output, as_json(found))
        terminal.print(f"written to {output}", soft_wrap=True)


def _check_place(output: Path) -> None:
    """Raise UserError where the file cannot be written: before minutes of measuring, not after."""
    if not output.parent.is_dir():
        raise UserError(f"cannot write {output}: there is no folder {output.parent}")
    if output.is_dir() or not os.access(output.parent, os.W_OK):
        raise UserError(f"cannot write {output}: {'it is a folder' if output.is_dir() else 'its folder is protected'}")


@dataclass(frozen=True)
class _Plan:
    """What the options say."""

    networks: tuple[str, ...]
    input_shape: tuple[int, int, int] | None
    batch_size: int | None
    threads: int | None
    precision: str
    rounds: int
    seconds: float
    simulate: bool
    scaling: bool
    autotune: bool
    peer: "TorchPeer | None"


def _peer(name: str | None, python: str | None, compiled: bool | None) -> "TorchPeer | None":
    """Return the peer; raise UserError where the options do not fit together or it is not there."""
    from bptcnn.profiling.benchmarking import TorchPeer

    if name is None:
        for option, value in (("--peer-python", python), ("--compile", compiled)):
            if value is not None:
                raise UserError(f"{option} is for a peer: give --peer torch, too")
        return None
    if name != "torch":
        raise UserError(f"unknown peer {name!r}: give torch")
    peer = TorchPeer(os.path.expanduser(python or sys.executable), compiled is not False)
    peer.version()  # before anything is measured
    return peer


def _measure(plan: _Plan) -> "Benchmark":
    from bptcnn.precision import Precision
    from bptcnn.profiling.benchmarking import Plan, default_case, run_benchmark
    from bptcnn.training import prepare_kernels
    from bptcnn.training.settings import check_choice, check_whole
    from bptcnn_cli.displays import fitting_display
    from bptcnn_cli.relay import Relay

    for name, value in (("batch_size", plan.batch_size), ("threads", plan.threads)):
        if value is not None:
            check_whole(name, value, 1)
    precision = check_choice("precision", plan.precision, Precision)
    cases = [default_case(network, plan.input_shape, plan.batch_size, precision) for network in plan.networks]
    with Relay(fitting_display(quiet=False)) as relay:
        prepare_kernels(relay, precision)
        from bptcnn.profiling import measure_host

        relay.setup("measuring this host")
        host = measure_host()
        threads = plan.threads or host.cores
        simulate = sorted({threads, *options.SIMULATED}) if plan.simulate else ()
        how = Plan(threads, plan.rounds, plan.seconds, tuple(simulate), plan.scaling, plan.autotune, plan.peer)
        return run_benchmark(cases, how, host, relay.setup)
