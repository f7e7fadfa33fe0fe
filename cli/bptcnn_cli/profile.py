"""`bptcnn profile`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bptcnn.errors import UserError
from bptcnn.names import path_of
from bptcnn_cli.defaults import NETWORK
from bptcnn_cli.options import ByMeasuring
from bptcnn_cli.output import console
from bptcnn_cli.shapes import parse_shape

if TYPE_CHECKING:
    from bptcnn.networks import Network
    from bptcnn.profiling import Profile, TuningRecord

_CLASSES = 10
_BUSY = 0.15  # of the threads' time idle: more than a step of its own accord leaves
_FEWEST_CLASSES = 2  # of a data set: no file's network has too few logits for them


def profile(
    network: Annotated[
        str, typer.Option(metavar="NAME|FILE", help="The network to measure: of the zoo, or a .toml or .py file.")
    ] = NETWORK,
    input_shape: Annotated[
        str, typer.Option(metavar="HxWxC", help="Height, width and channels of its images.")
    ] = "28x28x1",
    batch_size: Annotated[int, typer.Option(metavar="B", min=1, help="Images of a step.")] = 64,
    threads: Annotated[
        int | None,
        typer.Option(metavar="T", min=1, show_default=False, help="Threads of a step. Default: the usable cores."),
    ] = None,
    autotune: ByMeasuring = True,
    tuning: Annotated[
        bool, typer.Option("--tuning", help="Show what was tried for each layer, and what it took.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            parser=path_of,
            metavar="FILE.toml",
            show_default=False,
            help="Where to write what was measured. Default: this user's profile of this host, which training reads.",
        ),
    ] = None,
    trace: Annotated[
        Path | None,
        typer.Option(
            parser=path_of,
            metavar="FILE.json",
            show_default=False,
            help="Write the timeline of one step, which chrome://tracing and ui.perfetto.dev show.",
        ),
    ] = None,
) -> None:
    """Measure this host and a network on it; best when nothing else runs.

    Training shares out its first samples by what was measured.

    \b
    Examples:
      bptcnn profile
      bptcnn profile --network lenet5 --threads 1 --trace step.json
    """
    from bptcnn.networks import ZOO, load_network
    from bptcnn.profiling import user_profile_path, write_profile
    from bptcnn_cli.profile_tables import show_profile, show_tuning

    shape = parse_shape(input_shape)
    measured = load_network(network, shape, _CLASSES if network in ZOO else _FEWEST_CLASSES)
    if tuning and not autotune:
        raise UserError("--tuning shows what --no-autotune leaves out: give one of them")
    found, steals, record = _measure(measured, batch_size, threads, trace, autotune)
    terminal = console()
    show_profile(terminal, found, steals)
    if tuning and record is not None:
        show_tuning(terminal, record)
    if found.network[0].idle_share > _BUSY:
        terminal.print("threads waited much: if other programs were running, measure again when it is quiet")
    path = output or user_profile_path()
    write_profile(path, found if output else with_earlier(found, path))
    terminal.print(f"written to {path}" + (f", timeline to {trace}" if trace else ""), soft_wrap=True)


def _measure(
    network: "Network", batch_size: int, threads: int | None, trace: Path | None, autotune: bool
) -> tuple["Profile", float, "TuningRecord | None"]:
    """Return the profile, the tasks of a step that threads take from each other, and what was tuned."""
    from bptcnn.training import prepare_kernels
    from bptcnn.training.settings import check_whole
    from bptcnn_cli.displays import fitting_display
    from bptcnn_cli.relay import Relay

    with Relay(fitting_display(quiet=False)) as relay:
        prepare_kernels(relay)
        from bptcnn.profiling import Profile, measure_host, trace_step, write_trace
        from bptcnn.profiling.network import measure_network
        from bptcnn.profiling.tunings import tuning_of, tuning_record

        relay.setup("measuring this host")
        host = measure_host()
        if threads is not None:
            check_whole("threads", threads, 1)
        count = threads or host.cores
        record = tuning_record(network, batch_size, count, tell=relay.setup) if autotune else None
        tuning = tuning_of(record)
        relay.setup(f"measuring {network.name}")
        found = measure_network(network, batch_size, count, host.peak(count), tuning=tuning)
        if trace is not None:
            step = trace_step(network, batch_size, count, tuning)
            write_trace(trace, step.graph, step.trace)
    return Profile(host, (found.profile,)), found.counts.steals_per_step, record


def with_earlier(found: "Profile", path: Path) -> "Profile":
    """Keep what the file says of other networks, as long as it was measured on this very CPU."""
    from bptcnn.profiling import Profile, read_profile

    try:
        earlier = read_profile(path)
    except UserError:  # none yet, or damaged: it is about to be replaced
        return found
    host, before = found.host, earlier.host
    if (host.cpu, host.microarchitecture, host.vector_unit) != (
        before.cpu,
        before.microarchitecture,
        before.vector_unit,
    ):
        return found
    new = {(entry.name, entry.input_shape, entry.batch_size, entry.threads) for entry in found.network}
    kept = tuple(
        entry
        for entry in earlier.network
        if (entry.name, entry.input_shape, entry.batch_size, entry.threads) not in new
    )
    return Profile(host, (*kept, *found.network))
